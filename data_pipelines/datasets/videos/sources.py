"""Finds the frames of a video: in its file, by a decoder, or in a folder of image files."""

import contextlib
import importlib.util
import itertools
import json
import os
import queue
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from data_pipelines.core.child_process import ChildProcess, Lost
from data_pipelines.core.errors import DataError
from data_pipelines.core.files import quote, writing
from data_pipelines.core.spread import spread_frames
from data_pipelines.datasets.videos import decoder
from data_pipelines.datasets.videos.lists import Listed

MAX_FILE_BYTES = 2**30
MAX_FILES = 200_000  # in a folder of frames
START_TIMEOUT_S, VIDEO_TIMEOUT_S = 120.0, 120.0
_FRAME = re.compile(r"(?:image|img|frame)[_-]?(\d{1,9})\.(?:jpe?g|png)", re.IGNORECASE)


class Frames(NamedTuple):
    """Holds the files of the chosen frames, their numbers from 1 on, and the count of all."""

    files: tuple[Path, ...]
    numbers: tuple[int, ...]
    total: int


Find = Callable[[Listed, int], Frames]


def find_in_folder(root: Path, video: Listed, count: int) -> Frames:
    """Chooses among the numbered files of ROOT/CLASS/VIDEO, such as image_00001.jpg."""
    folder = root / video.id
    try:
        with os.scandir(folder) as items:
            matches = [_FRAME.fullmatch(item.name) for item in itertools.islice(items, MAX_FILES)]
    except OSError as error:
        raise DataError(
            f"it has no folder {quote(video.id)} ({error.strerror or error})"
        ) from error
    if len(matches) == MAX_FILES:
        raise DataError(f"its folder holds {MAX_FILES:,} files or more")
    numbered = sorted((int(match[1]), match[0]) for match in matches if match)
    if len({number for number, _ in numbered}) != len(numbered):
        raise DataError("two of its frames have one number")
    if not numbered:
        raise DataError("its folder holds no frame such as image_00001.jpg")
    chosen = [numbered[index] for index in spread_frames(count, len(numbered))]
    return Frames(
        tuple(folder / name for _, name in chosen),
        tuple(number for number, _ in chosen),
        len(numbered),
    )


class Decoders:
    """Decodes video files in child processes, one for each thread that asks at the same time."""

    def __init__(self, root: Path, spool: Path, errors: IO[bytes], wanted: str = "") -> None:
        self.name = ""
        self._root, self._spool, self._wanted = root, spool, wanted
        self._children: list[ChildProcess] = []
        self._idle: queue.SimpleQueue[ChildProcess] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._errors = errors  # what the children write to stderr

    def find(self, video: Listed, count: int) -> Frames:
        """Decodes ROOT/CLASS/VIDEO.avi; the frames are files in the folder of unpacked frames."""
        path = self._root / video.label / video.file
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"it has no file {quote(video.label + '/' + video.file)}") from error
        if not stat.S_ISREG(status.st_mode):
            raise DataError("it is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"its file has {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
        folder = self._spool / video.id
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        total = self._ask({"path": str(path), "folder": str(folder), "count": count})
        indices = spread_frames(count, total)
        names = [decoder.NAME.format(index + 1) for index in indices]
        return Frames(
            tuple(folder / name for name in names), tuple(index + 1 for index in indices), total
        )

    def _ask(self, request: dict[str, Any]) -> int:
        child = self._take()
        try:
            if not child.is_running:
                self._start(child)
            answer = child.ask(json.dumps(request).encode() + b"\n", VIDEO_TIMEOUT_S)
        except Lost as error:
            child.stop()
            raise DataError(f"the decoder failed on it ({error})") from error
        finally:
            self._idle.put(child)
        if "errno" in answer:  # of the disk
            with writing(Path(request["folder"])):
                raise OSError(answer["errno"], answer["reason"], request["folder"])
        if "error" in answer:
            raise DataError(answer["error"])
        return answer["frames"]

    def _take(self) -> ChildProcess:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        search_path = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
        with self._lock:
            command = [sys.executable, "-P", "-W", "ignore", "-X", "utf8", "-m", decoder.__name__]
            env = {**os.environ, "PYTHONPATH": search_path, "OPENBLAS_NUM_THREADS": "1"}
            child = ChildProcess([*command, self._wanted], self._errors, env)
            self._children.append(child)
        return child

    def _start(self, child: ChildProcess) -> None:
        child.start()
        self.name = str(child.ask(b"", START_TIMEOUT_S))

    def close(self) -> None:
        """Ends the children."""
        for child in self._children:
            child.stop()


@contextlib.contextmanager
def open_decoders(root: Path, spool: Path, wanted: str = "") -> Iterator[Decoders]:
    """Decodes the videos below `root` into `spool`; ends the children."""
    with tempfile.TemporaryFile() as errors:
        decoders = Decoders(root, spool, errors, wanted)
        try:
            yield decoders
        finally:
            decoders.close()


def has_pyav() -> bool:
    return importlib.util.find_spec("av") is not None
