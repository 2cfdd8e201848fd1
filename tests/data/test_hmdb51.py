"""HMDB51: lists, videos and folders of frames become records; damaged ones become rejects."""

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import check, loader, manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.core import parallel
from data_pipelines.core.errors import DataError
from data_pipelines.core.spread import spread_frames
from data_pipelines.datasets.videos import hmdb51, lists, sources
from data_pipelines.joints.openpose import JointFiles
from tests.support.tiny_data import build, quiet, tiny_data
from tests.support.tiny_videos import (
    FRAMES,
    HEIGHT_PX,
    TAGS,
    WIDTH_PX,
    prepare_videos,
    write_frames,
    write_lists,
    write_video,
    write_videos,
)
from tests.support.tiny_videos import (
    draw_frames as draw,
)

TRAIN = [
    "brush_hair/one_brush_hair_u_nm_np1_fr_goo_0",
    "brush_hair/two_brush_hair_u_nm_np1_fr_goo_1",
    "jump/(Rad)Schlag_die_Bank!_jump_f_cm_np1_le_med_0",
    "jump/a#b_&_c,d_jump_u_nm_np1_fr_bad_1",
]
TEST = ["brush_hair/three_brush_hair_u_nm_np1_fr_goo_2", "jump/third_jump_h_nm_np2_ba_goo_2"]


def _skip_without(decoder: str) -> None:
    if decoder == "PyAV":
        pytest.importorskip("av", reason="the extra `video` is not installed")


def test_frames_are_kept_as_they_are(of_frames: Path) -> None:
    stated = manifest.load(of_frames / "out")
    assert (stated.name, stated.classes, stated.frames) == ("hmdb51", ("brush_hair", "jump"), 25)
    train, test = (records.open_split(of_frames / "out", s, stated) for s in ("train", "test"))
    assert [train[i]["id"] for i in range(len(train))] == TRAIN
    assert [test[i]["id"] for i in range(len(test))] == TEST
    assert [train[i]["label"] for i in range(len(train))] == [0, 0, 1, 1]
    record = train[3]
    assert (record["width_px"], record["height_px"]) == (WIDTH_PX, HEIGHT_PX)
    assert record["source_frames"] == FRAMES
    numbers = [index + 1 for index in spread_frames(25, FRAMES)]
    assert numbers[:3] == [1, 2, 4] and numbers[-1] == FRAMES
    stored = [of_frames / "frames" / TRAIN[3] / f"image_{number:05}.jpg" for number in numbers]
    assert record["frames"] == [path.read_bytes() for path in stored]
    assert record["image"] == record["frames"][12]
    check.check(of_frames / "out", html=of_frames / "sheet.html", log=quiet)


@pytest.mark.parametrize("decoder", ["OpenCV", "PyAV"])
def test_videos_are_decoded_twice_to_the_same_bytes(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_without(decoder)
    monkeypatch.setattr(parallel, "MAX_THREADS", 1)  # each starts a child
    write_lists(tmp_path / "lists")
    write_videos(tmp_path / "videos")
    lines: list[str] = []
    made = prepare_videos(tmp_path, lines, decoder=decoder)
    assert made.provenance["decoder"].startswith(f"{decoder} ")
    assert any(line.startswith(f"25 frames of each video, spread evenly, decoded by {decoder}")
               for line in lines)  # fmt: skip
    assert prepare_videos(tmp_path, decoder=decoder).fingerprint == made.fingerprint
    train = records.open_split(tmp_path / "out", "train", made)
    for index, frame in enumerate(train[2]["frames"]):
        number = spread_frames(25, FRAMES)[index]
        pixels = np.asarray(Image.open(io.BytesIO(frame)), float)
        assert np.abs(pixels - draw(0)[number]).mean() < 4, "the frame of that number"
    one = records.open_split(tmp_path / "out", "test", made)[0]
    assert (one["source_frames"], len(set(one["frames"]))) == (1, 1), "a single frame is repeated"


@pytest.mark.parametrize("decoder", ["OpenCV", "PyAV"])
def test_damaged_and_hostile_videos_are_rejects(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_without(decoder)
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10**6)
    monkeypatch.setattr(sources, "VIDEO_TIMEOUT_S", 5.0)
    videos = tmp_path / "videos" / "a"
    write_video(videos / "good.avi", draw(1))
    write_video(tmp_path / "videos/b/good.avi", draw(2))
    whole = (videos / "good.avi").read_bytes()
    write: dict[str, Callable[[Path], object]] = {
        "cut.avi": lambda path: path.write_bytes(whole[: len(whole) // 3]),
        "empty.avi": lambda path: path.write_bytes(b""),
        "noise.avi": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
        "playlist.avi": lambda path: path.write_text(f"#EXTM3U\n#EXTINF:1,\n{videos}/good.avi\n"),
        "large.avi": lambda path: path.write_bytes(b"RIFF" + bytes(10**6)),
        "pipe.avi": os.mkfifo,
        "folder.avi": Path.mkdir,
        "absent.avi": lambda path: path,
    }
    for name, make in write.items():
        make(videos / name)
    tags = {"a": dict.fromkeys(["good.avi", *write], 1), "b": {"good.avi": 1}}
    write_lists(tmp_path / "lists", tags)
    start = time.monotonic()
    options = hmdb51.Options(1, tmp_path / "videos", decoder=decoder)
    raw = hmdb51.read(tmp_path / "lists", options, tmp_path / "spool", log=quiet)
    assert time.monotonic() - start < 60
    assert [each.id for each in raw.splits["train"].entries] == ["a/good", "b/good"]
    reasons = {reject.id.removeprefix("a/"): reject.reason for reject in raw.rejects}
    assert list(reasons) == [name.removesuffix(".avi") for name in write]
    for name, part in {
        "cut": {"OpenCV": "cut off", "PyAV": "damaged"}[decoder],
        "large": "1,000,004 bytes", "pipe": "not a regular file",
        "folder": "not a regular file", "absent": "has no file 'a/absent.avi'",
    }.items():  # fmt: skip
        assert part in reasons[name]
    assert all("\n" not in reason and len(reason) < 300 for reason in reasons.values())


def test_long_and_large_videos_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.avi", draw(1))
    for limit, message in (
        ("MOST_FRAMES", "more than 20 frames"),
        ("LARGEST_PX", "64 x 48 pixels"),
    ):
        with monkeypatch.context() as patch, pytest.raises(DataError, match=message):
            patch.setattr(sources.decoder, limit, 20)
            sources.decoder.extract(
                sources.decoder.OpenCvVideo, str(tmp_path / "a.avi"), tmp_path, 2
            )


def test_a_decoder_that_hangs_or_crashes_costs_one_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the decoder sleeps, dies or answers by the name of the video."""
    script = tmp_path / "stand_in.py"
    script.write_text(
        "import json, sys, time, os\n"
        "print(json.dumps('stand-in'), flush=True)\n"
        "for line in sys.stdin:\n"
        "    path = json.loads(line)['path']\n"
        "    if 'slow' in path: time.sleep(60)\n"
        "    if 'dies' in path: os._exit(9)\n"
        "    print(json.dumps({'frames': 3}), flush=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sources.decoder, "__name__", "stand_in")
    monkeypatch.setattr(sources, "VIDEO_TIMEOUT_S", 1.0)
    root = tmp_path / "videos"
    for name in ("slow", "dies", "good"):
        (root / "a").mkdir(parents=True, exist_ok=True)
        (root / "a" / f"{name}.avi").write_bytes(b"")
    with sources.open_decoders(root, tmp_path / "spool") as decoders:
        for name, message in (("slow", "no answer in 1 s"), ("dies", "it ended")):
            with pytest.raises(DataError, match=f"the decoder failed on it .*{message}"):
                decoders.find(lists.Listed("a", f"{name}.avi"), 2)
        assert decoders.find(lists.Listed("a", "good.avi"), 2).total == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x.avi 3 ", "is not the name of a video and 0, 1 or 2"),
        ("x.avi", "is not the name of a video"),
        ("../x.avi 1", "'../x.avi' is no file name"),
        ("...avi 1", "is no file name"),
        ("x.avi 1\nx.avi 2", "'x.avi' is listed twice"),
        ("x.avi 1\nx 2", "'x' is listed twice"),
        ("", "lists no video"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_faulty_lists_are_refused_in_one_line(line: str, message: str, tmp_path: Path) -> None:
    write_lists(tmp_path)
    (tmp_path / "jump_test_split1.txt").write_bytes(line.encode("latin-1"))
    with pytest.raises(DataError, match=message) as refusal:
        lists.read(tmp_path, 1)
    assert "\n" not in str(refusal.value)


def test_absent_folders_are_named_with_their_option(tmp_path: Path) -> None:
    nope = tmp_path / "nope"
    for splits, (videos, frames), message in (
        (nope, (tmp_path, None), "--splits .*/nope is no folder; .*testTrainMulti_7030_splits"),
        (tmp_path, (nope, None), "--videos .*/nope is no folder; .*hmdb51_org.rar"),
        (tmp_path, (None, nope), "--frames .*/nope is no folder; .*image_00001.jpg"),
    ):
        with pytest.raises(DataError, match=message):
            hmdb51.read(splits, hmdb51.Options(1, videos, frames), tmp_path, log=quiet)


def test_lists_of_another_split_are_not_read(tmp_path: Path) -> None:
    write_lists(tmp_path)
    with pytest.raises(DataError, match="holds the lists of 0 classes for split 2"):
        lists.read(tmp_path, 2)
    write_lists(tmp_path, split=2)
    assert lists.read(tmp_path, 2).splits == lists.read(tmp_path, 1).splits
    assert lists.read(tmp_path, 1).unused == 1
    write_lists(tmp_path, {label: dict.fromkeys(videos, 0) for label, videos in TAGS.items()})
    with pytest.raises(DataError, match="lists no video of train or test for split 1"):
        lists.read(tmp_path, 1)
    write_lists(tmp_path, {"jump": {f"{number}.avi": 1 for number in range(50_000)}})
    assert len(lists.read(tmp_path, 1).splits["train"]) == 50_000, "in linear time"


@pytest.mark.parametrize("split", hmdb51.SPLITS)
def test_published_lists_hold_70_and_30_videos_of_each_class(
    split: int, reference_data: Path
) -> None:
    found = lists.read(reference_data / "hmdb51" / "testTrainMulti_7030_splits", split)
    assert len(found.classes) == 51 and found.classes[0] == "brush_hair"
    for name, count in (("train", 70), ("test", 30)):
        listed = [video.label for video in found.splits[name]]
        assert listed == [label for label in found.classes for _ in range(count)]
    assert found.unused == 6766 - 51 * 100


def test_frame_folders_with_faults_are_rejects(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists")
    root = write_frames(tmp_path / "frames")
    (root / TRAIN[0] / "image_00004.jpg").write_bytes(b"no image")
    Image.new("RGB", (20, 10)).save(root / TRAIN[1] / "image_00001.jpg")
    (root / TRAIN[2] / "img_2.png").write_bytes(b"")
    lines: list[str] = []
    made = prepare_videos(tmp_path, lines)
    assert made.splits["train"].examples == 1
    told = "\n".join(lines)
    for part in ("frame image_00004.jpg: it is no image", "its frames have more than one size",
                 "two of its frames have one number"):  # fmt: skip
        assert part in told


def test_openpose_joints_lie_with_their_frames(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists")
    write_frames(tmp_path / "frames")
    folder = tmp_path / "joints" / TRAIN[0]
    folder.mkdir(parents=True)
    for number, people in ((1, 1), (2, 2), (4, 0)):
        body = {"joints": [float(number)] * 54}
        text = json.dumps({"bodies": [body] * people})
        (folder / f"image_{number:05}.json").write_text(text)
    (folder / "image_00005.json").write_text("[" * 100_000)
    files = JointFiles(tmp_path / "joints")
    lines: list[str] = []
    chosen = hmdb51.Options(1, frames=tmp_path / "frames", find_joints=files.find)
    made = build(
        tmp_path / "out",
        files.add_notes(hmdb51.read(tmp_path / "lists", chosen, tmp_path / "spool", log=quiet)),
        max_rejects=99,
        log=lines.append,
    )
    assert made.max_people == 2 and made.splits["train"].with_joints == 1
    record = records.open_split(tmp_path / "out", "train", made)[0]
    first, second, third = record["frame_keypoints"][:3]
    assert first[0, 0].tolist() == [1, 1, 2] and not first[1].any()
    assert (second[:, 9] == [2, 2, 2]).all() and not third.any()
    assert len(files.unreadable) == 1 and "image_00005.json: it is no JSON" in files.unreadable[0]
    told = "\n".join(lines)
    assert "people in 1 of 6 videos" in told
    assert "joints: 1 images without people, as their file cannot be read" in told
    cfg = DataConfig(name="hmdb51", root=str(tmp_path / "out"), eval_split="test").resolved()
    with loader.evaluation_batches(cfg, made, batch_size=2) as batches:
        assert next(batches).keypoints.shape == (2, 2, 16, 3)


def test_manifests_of_images_are_as_before(tmp_path: Path) -> None:
    build(tmp_path / "out", tiny_data(tmp_path))
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "frames" not in content and manifest.load(tmp_path / "out").frames == 1
    known = {key: each for key, each in content.items() if key not in ("fingerprint", "provenance")}
    assert list(known) == [
        "name", "label_kind", "classes", "max_people", "splits", "exif", "format_version"
    ]  # fmt: skip
    assert manifest.load(tmp_path / "out").fingerprint == content["fingerprint"]


def test_relabelled_lists_make_other_data(of_frames: Path, tmp_path: Path) -> None:
    write_lists(tmp_path / "lists", {**TAGS, "jump": {**TAGS["jump"], list(TAGS["jump"])[3]: 2}})
    (tmp_path / "frames").symlink_to(of_frames / "frames")
    made = prepare_videos(tmp_path)
    assert made.splits["test"].class_counts == (1, 2)
    assert made.fingerprint != manifest.load(of_frames / "out").fingerprint
