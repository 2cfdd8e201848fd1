"""Inputs of predictions: files, folders, globs, lists, videos and a camera."""

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipelines.core.errors import DataError
from gap_jax.prediction import video
from gap_jax.prediction.sources import LARGEST_BYTES, Refused, Source, find_sources, read_image
from tests.support.tiny_data import write_photo


def names(words: Iterable[str], **options: Any) -> list[str]:
    """Lists the names of all sources, and the reasons in brackets."""
    found = find_sources(words, **options)
    return [
        each.name if isinstance(each, Source) else f"{each.name} ({each.error})" for each in found
    ]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a folder with images, other files and hidden ones, as the working folder."""
    monkeypatch.chdir(tmp_path)
    for path in ("more/b.JPG", "more/a.jpg", "more/deep/c.jpeg", "more/.hidden.jpg", "d[1].jpg"):
        write_photo(tmp_path / path, 1)
    for path in ("more/classes.txt", "more/__MACOSX/a.jpg", "more/.git/a.jpg", "more/new.heic"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x")
    return tmp_path


def test_folders_are_read_with_their_subfolders_in_order() -> None:
    left_out: list[str] = []
    found = names(["more"], left_out=left_out.append)
    assert found == ["more/a.jpg", "more/b.JPG", "more/new.heic", "more/deep/c.jpeg"]
    assert left_out == ["more/classes.txt"]
    assert names(["more/classes.txt", "d[1].jpg"]) == ["more/classes.txt", "d[1].jpg"]


def test_loops_of_links_end(folder: Path) -> None:
    (folder / "more" / "deep" / "up").symlink_to(folder / "more")
    (folder / "more" / "self.jpg").symlink_to(folder / "more" / "self.jpg")
    (folder / "linked").symlink_to(folder / "more" / "deep")
    assert names(["more"]) == [
        "more/a.jpg", "more/b.JPG", "more/new.heic", "more/self.jpg", "more/deep/c.jpeg",
    ]  # fmt: skip
    assert names(["linked"])[0] == "linked/c.jpeg"
    with pytest.raises(DataError, match="there is no such file"):
        read_image("more/self.jpg")


def test_globs_and_lists(folder: Path) -> None:
    assert names(["more/*.jp*", "**/c.*"]) == ["more/a.jpg", "more/deep/c.jpeg"]
    assert names([f"{folder}/more/*.JPG"]) == [f"{folder}/more/b.JPG"]
    assert names(["mor?"])[:2] == ["more/a.jpg", "more/b.JPG"], "a folder that matches is read"
    listed = [b"more/a.jpg\n", b"\n", b"more/deep\r\n", b"caf\xe9.jpg"]
    assert names(["-"], listed=listed) == ["more/a.jpg", "more/deep/c.jpeg", "caf\udce9.jpg"]


def test_words_without_images_give_their_reason(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("x")
    assert names(["empty", "notes", "*.gif", "**x"]) == [
        "empty (it holds no image)", "notes (it holds no image)", "*.gif (it matches no image)",
        "**x (it matches no image)",
    ]  # fmt: skip


def test_files_that_cannot_be_read_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(LARGEST_BYTES + 2**20)
    chunks = {
        b"IHDR": struct.pack(">II5B", 100_000, 100_000, 8, 2, 0, 0, 0),
        b"IDAT": b"",
        b"IEND": b"",
    }
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks.items():
        png += struct.pack(">I", len(content)) + name + content
        png += struct.pack(">I", zlib.crc32(name + content))
    (folder / "bomb.png").write_bytes(png)
    for path, reason in (
        ("pipe.jpg", "it is no file"),
        ("more", "it is no file"),
        ("huge.jpg", "it has 513 MiB, more than 512"),
        ("bomb.png", "it has 100000 x 100000 pixels, more than 50 million; shrink it"),
        ("none.jpg", "there is no such file"),
        ("d[1].jpg/x", "there is no such file"),
        (f"{'x' * 300}.jpg", "it cannot be read"),
        ("a\0b.jpg", "there is no such file"),
        ("more/new.heic", "it is no image"),
    ):
        with pytest.raises(DataError, match=reason):
            read_image(path)
        assert len(names([path])) >= 1


def write_video(path: Path, frames: int, rate: float = 10.0, code: str = "mp4v") -> None:
    """Writes frames whose grey is their number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, (64, 48))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((48, 64, 3), 5 * index, np.uint8))
    writer.release()


def test_videos_give_a_frame_every_few_seconds(folder: Path) -> None:
    write_video(folder / "clip.mp4", 25)
    write_video(folder / "more" / "clip.avi", 12, code="MJPG")
    for every_s, due in ((1.0, [0, 10, 20]), (0.5, [0, 5, 10, 15, 20]), (9.0, [0])):
        found = list(find_sources(["clip.mp4"], every_s=every_s))
        assert [each.name for each in found] == [f"clip.mp4 at {n / 10:.1f} s" for n in due]
        for each, number in zip(found, due, strict=True):
            assert isinstance(each, Source)
            assert each.load().shape == (48, 64, 3)
            assert abs(each.load().mean() - 5 * number) < 4
    assert "more/clip.avi at 1.0 s" in names(["more"])


def test_files_that_are_no_videos_are_refused(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_video(folder / "whole.mp4", 5)
    data = (folder / "whole.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nwhole.mp4\n")
    (folder / "picture.mov").write_bytes((folder / "d[1].jpg").read_bytes())
    (folder / "empty.webm").write_bytes(b"")
    for name in ("cut.mp4", "list.mp4", "picture.mov", "empty.webm"):
        assert names([name]) == [f"{name} (it is no video that OpenCV reads; convert it to MP4)"]
    write_video(folder / "none.avi", 0, code="MJPG")
    assert names(["none.avi"])[0].startswith("none.avi (it ")
    assert names(["gone.mp4"]) == ["gone.mp4 (there is no such file)"]
    assert capfd.readouterr().err == "", "OpenCV and FFmpeg print nothing"


class Camera:
    """Stands in for OpenCV's camera: each frame is brighter; `frames` can be read."""

    frames = 99

    def __init__(self, source: int, backend: int) -> None:
        del source, backend
        self.read_frames = 0

    def get(self, _: int) -> float:
        return 64.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.read_frames += 1
        is_read = self.read_frames <= self.frames
        return is_read, np.full((48, 64, 3), self.read_frames, np.uint8) if is_read else None

    def release(self) -> None:
        return None


def test_camera_takes_one_photograph_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    (taken,) = find_sources(["0"])
    assert isinstance(taken, Source) and taken.name == "camera 0"
    assert (taken.load() == video.WARM_UP_FRAMES + 1).all()
    monkeypatch.setattr(Camera, "frames", 0)
    assert list(find_sources(["3"])) == [
        Refused("camera 3", "there is no such camera, or another program uses it")
    ]
    monkeypatch.setattr(Camera, "get", lambda *_: 1e5)
    assert names(["0"]) == ["camera 0 (its frames have 100000 x 100000 pixels; shrink it)"]
