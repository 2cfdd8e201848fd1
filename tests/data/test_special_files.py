"""Pipes, devices and huge files in place of a data set's own are refused at once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines import manifest, prepare, records
from data_pipelines.core.errors import DataError
from data_pipelines.datasets import folder, joints, mpii_splits, photo_list
from data_pipelines.datasets.child import parse_in_child
from data_pipelines.datasets.image_files import find_images
from data_pipelines.datasets.own_photos import Options
from data_pipelines.datasets.still import stanford40
from data_pipelines.datasets.still.voc_xml import read_people
from data_pipelines.datasets.videos import lists
from data_pipelines.photographs.examine import read_file
from tests.support.tiny_data import build, tiny_data, write_photo

HUGE_BYTES = 2**40  # takes no room
MIB = 2**20


def read_hmdb51(path: Path) -> None:
    for label in "ab":
        os.link(path, path.with_name(f"{label}_test_split1.txt"))
    lists.read(path.parent, 1)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "image": ("a.jpg", read_file),
    "MPII's list": ("images_mpii_train.txt", lambda path: mpii_splits.read_lists(path.parent)),
    "Stanford40's list": ("ImageSplits/a_train.txt", lambda path: stanford40.read(path.parents[1])),
    "XML": ("a.xml", read_people),
    "HMDB51's list": ("list.txt", read_hmdb51),
    "CSV": ("a.csv", lambda path: photo_list.read(path, path.parent, Options())),
    "COCO's joints": ("a.json", joints.parse),
    "manifest": (manifest.MANIFEST, lambda path: manifest.load(path.parent)),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("special", ["pipe", "huge"])
def test_special_files_are_refused_unread(tmp_path: Path, kind: str, special: str) -> None:
    name, read = READERS[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if special == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, HUGE_BYTES)
    with pytest.raises(DataError, match="not a regular file" if special == "pipe" else "bytes"):
        read(path)


@pytest.mark.parametrize("name", records.METADATA)
def test_special_metadata_of_records_are_refused_unread(tmp_path: Path, name: str) -> None:
    stated = build(tmp_path / "out", tiny_data(tmp_path, sizes={"train": 2}))
    (tmp_path / "out" / records.FOLDER / name).unlink()
    os.mkfifo(tmp_path / "out" / records.FOLDER / name)
    with pytest.raises(DataError, match="not a regular file"):
        records.open_split(tmp_path / "out", "train", stated)


def test_a_huge_file_starts_no_parser(tmp_path: Path) -> None:
    (tmp_path / "anno.mat").touch()
    os.truncate(tmp_path / "anno.mat", HUGE_BYTES)
    with pytest.raises(DataError, match="more than 1,024 MiB"):
        parse_in_child("no_module", tmp_path / "anno.mat")


def test_what_follows_an_archive_is_bounded(tmp_path: Path) -> None:
    """The CRC of a .gz follows its last byte, so the rest is read."""
    archive = tmp_path / "images.tar"
    for size, message in ((32 * MIB, None), (HUGE_BYTES, "bytes after its last member")):
        archive.touch()
        os.truncate(archive, size)
        if message is None:
            assert find_images(archive, ["a.jpg"], tmp_path / "spool") == {}
        else:
            with pytest.raises(DataError, match=message):
                find_images(archive, ["a.jpg"], tmp_path / "spool")


def test_a_photograph_whose_name_is_not_utf8_is_a_reject(tmp_path: Path) -> None:
    for index, name in enumerate(("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg")):
        write_photo(tmp_path / "in" / name, index)
    (tmp_path / "in" / "a" / "0.jpg").rename(tmp_path / "in" / "a" / os.fsdecode(b"\xff.jpg"))
    lines: list[str] = []
    options = {"max_rejects": 1, "log": lines.append}
    prepare.build(tmp_path / "out", lambda _: folder.read(tmp_path / "in", Options()), **options)
    assert any("not valid UTF-8" in line for line in lines)
