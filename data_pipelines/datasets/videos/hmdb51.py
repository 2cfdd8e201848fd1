"""Reads HMDB51: split lists, and videos or folders of frames, into entries of several frames."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.core.parallel import MAX_THREADS, map_ahead
from data_pipelines.core.progress import Log, count_items
from data_pipelines.datasets.videos import decoder, lists
from data_pipelines.datasets.videos.lists import Listed, Lists
from data_pipelines.datasets.videos.sources import (
    Find,
    find_in_folder,
    has_pyav,
    open_decoders,
)
from data_pipelines.example import NO_PEOPLE, Entry, Keypoints, RawData, RawSplit, Reject

FRAMES = 25  # stored of each video: those that the papers evaluate
AHEAD = 2 * MAX_THREADS
SPLITS = (1, 2, 3)
GET_VIDEOS = "pass the folder of hmdb51_org.rar and its 51 archives, unpacked: CLASS/VIDEO.avi"
GET_FRAMES = "pass the folder of the videos' frames: CLASS/VIDEO/image_00001.jpg"

FindJoints = Callable[[str, int], Keypoints]  # of a video's id and the number of a frame


class Options(NamedTuple):
    """What to read: the split, the frames to store, and one folder of videos or of frames."""

    split: int
    videos: Path | None = None
    frames: Path | None = None
    frames_per_video: int = FRAMES
    decoder: str = ""  # its name; by default PyAV if it is installed, else OpenCV
    find_joints: FindJoints | None = None


def read(splits: Path, options: Options, spool: Path, log: Log = print) -> RawData:
    """Reads one split of the data set; frames of video files are written into `spool`."""
    if (options.videos is None) == (options.frames is None):
        raise ConfigError("pass --videos DIR or --frames DIR, and not both")
    root = options.videos or options.frames
    option, advice = ("--videos", GET_VIDEOS) if options.videos else ("--frames", GET_FRAMES)
    if root is None or not root.is_dir():
        raise DataError(f"{option} {root} is no folder; {advice}")
    if not splits.is_dir():
        raise DataError(f"--splits {splits} is no folder; {lists.SOURCE}")
    listed = lists.read(splits, options.split)
    if options.frames is not None:
        raw, name = _read(listed, functools.partial(find_in_folder, root), options, log), ""
    else:
        with open_decoders(root, spool, options.decoder) as decoders:
            raw, name = _read(listed, decoders.find, options, log), decoders.name
    if not any(split.entries for split, _ in raw.values()):
        raise DataError(
            f"none of the {sum(map(len, listed.splits.values())):,} listed videos can be read in "
            f"{option} {root}, first {_name_first(raw)}; {advice}"
        )
    return RawData(
        "hmdb51",
        "single",
        listed.classes,
        {split: found for split, (found, _) in raw.items()},
        [reject for _, rejects in raw.values() for reject in rejects],
        {
            "split": options.split,
            "lists_sha256": listed.sha256,
            "videos_in_neither_split": listed.unused,
            "source": root.name,
            "decoder": f"{name}, JPEG quality {decoder.JPEG_QUALITY}" if name else "none",
        },
        notes=list(_describe_decoder(name, options)),
        frames=options.frames_per_video,
    )


def _name_first(raw: dict[str, tuple[RawSplit, list[Reject]]]) -> str:
    first = next(reject for _, rejects in raw.values() for reject in rejects)
    return f"{first.id}: {first.reason}"


def _describe_decoder(name: str, options: Options) -> Iterator[str]:
    frames = f"{options.frames_per_video} frames of each video, spread evenly"
    if not name:
        yield f"{frames}, from folders of frames whose files are kept as they are"
        return
    install = "" if has_pyav() or options.decoder else "; the extra `video` installs PyAV"
    yield f"{frames}, decoded by {name}{install}"


def _read(
    listed: Lists, find: Find, options: Options, log: Log
) -> dict[str, tuple[RawSplit, list[Reject]]]:
    """Finds the frames of every listed video, in threads and in order."""
    number = {label: index for index, label in enumerate(listed.classes)}

    def read_one(video: Listed) -> Entry | DataError:
        try:
            frames = find(video, options.frames_per_video)
        except DataError as error:
            return error
        people = [NO_PEOPLE] * options.frames_per_video
        if options.find_joints is not None:
            people = [options.find_joints(video.id, each) for each in frames.numbers]
        return Entry(
            video.id, frames.files[0].parent, number[video.label], stack_frames(people),
            frames=frames.files, source_frames=frames.total,
        )  # fmt: skip

    found: dict[str, tuple[RawSplit, list[Reject]]] = {}
    for split, videos in listed.splits.items():
        entries, rejects = [], []
        with contextlib.closing(map_ahead(read_one, videos, AHEAD)) as results:
            for position in count_items(split, len(videos), log, "videos read"):
                result = next(results)
                if isinstance(result, Entry):
                    entries.append(result)
                else:
                    rejects.append(Reject(split, videos[position].id, str(result)))
        found[split] = RawSplit(len(videos), len(videos), len(entries), entries), rejects
    return found


def stack_frames(people: Sequence[np.ndarray]) -> Keypoints:
    """Joins the people of all frames, padded to equally many with people without joints."""
    most = max(map(len, people))
    stacked = np.zeros((len(people), most, 16, 3), np.float32)
    for frame, found in zip(stacked, people, strict=True):
        frame[: len(found)] = found
    return stacked.reshape(-1, 16, 3)
