"""Reads the split lists of HMDB51: a file for each class and split, a line for each video.

A line is the name of a video and 1 (train), 2 (test) or 0 (in neither split).
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import quote, read_bounded, reading

SPLIT_OF_TAG = {"1": "train", "2": "test"}
UNUSED = "0"
MAX_BYTES = 2**20  # of a list
MAX_CLASSES = 1000
SOURCE = (
    "pass the unpacked folder testTrainMulti_7030_splits of HMDB51's test_train_splits.rar, with "
    "CLASS_test_split1.txt, ...2.txt and ...3.txt"
)


class Listed(NamedTuple):
    """Names a video of a split: its class and file."""

    label: str
    file: str

    @property
    def id(self) -> str:
        """The name of the video, with its class and without a suffix."""
        return f"{self.label}/{strip_suffix(self.file)}"


class Lists(NamedTuple):
    """Holds the classes in the order of their names, the videos of each split, and a digest."""

    classes: tuple[str, ...]
    splits: Mapping[str, list[Listed]]
    unused: int
    sha256: str


def strip_suffix(file: str) -> str:
    return file.removesuffix(".avi")


def read(folder: Path, split: int) -> Lists:
    """Reads the lists of one of the three splits."""
    ending = re.compile(rf"(.+)_test_split{split}\.txt")
    with reading(folder, DataError):
        names = sorted(path.name for path in folder.iterdir())
    found = {match[1]: name for name in names if (match := ending.fullmatch(name))}
    if not 2 <= len(found) <= MAX_CLASSES or "." in found or ".." in found:
        raise DataError(
            f"{folder} holds the lists of {len(found):,} classes for split {split}; {SOURCE}"
        )
    splits: dict[str, list[Listed]] = {split: [] for split in SPLIT_OF_TAG.values()}
    digest = hashlib.sha256()
    unused = 0
    for label in sorted(found):
        try:
            content = read_bounded(folder / found[label], MAX_BYTES)
        except DataError as error:
            path = folder / found[label]
            raise DataError(f"cannot read {path} ({error}); {SOURCE}") from error
        digest.update(label.encode("utf-8", "surrogateescape") + b"\0" + content + b"\0")
        for name, tag in _parse(folder / found[label], content):
            if tag == UNUSED:
                unused += 1
            else:
                splits[SPLIT_OF_TAG[tag]].append(Listed(label, name))
    return Lists(tuple(sorted(found)), splits, unused, digest.hexdigest())


def _parse(path: Path, content: bytes) -> list[tuple[str, str]]:
    """Returns the name and the tag of each video; refuses names that lead elsewhere."""
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; {SOURCE}") from error
    rows: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, tag = line.strip().rpartition(" ")
        name = name.strip()
        if tag not in (*SPLIT_OF_TAG, UNUSED) or not name:
            raise DataError(
                f"{path}, line {number}: {quote(line)} is not the name of a video and 0, 1 or 2; "
                f"{SOURCE}"
            )
        if "/" in name or "\0" in name or strip_suffix(name) in ("", ".", ".."):
            raise DataError(f"{path}, line {number}: {quote(name)} is no file name; {SOURCE}")
        if strip_suffix(name) in map(strip_suffix, rows):
            raise DataError(f"{path}, line {number}: {quote(name)} is listed twice; keep one")
        rows[name] = tag
    if not rows:
        raise DataError(f"{path} lists no video; {SOURCE}")
    return list(rows.items())
