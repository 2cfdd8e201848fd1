"""Makes tiny data sets of generated photographs: raw files, entries, and prepared records."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines import prepare
from data_pipelines.example import Entry, LabelKind, RawData, RawSplit, Reject
from data_pipelines.manifest import Manifest

CLASSES = ("jumping", "résumé, reading", "waiting")
SIZES: Mapping[str, int] = {"train": 9, "val": 4, "test": 0}

# a person who stands upright, as shares of the image's width and height
STANDING = np.array(
    [
        (0.42, 0.93), (0.43, 0.75), (0.45, 0.56), (0.55, 0.56), (0.57, 0.75), (0.58, 0.93),
        (0.50, 0.56), (0.50, 0.30), (0.50, 0.25), (0.50, 0.10),
        (0.30, 0.52), (0.35, 0.42), (0.42, 0.30), (0.58, 0.30), (0.65, 0.42), (0.70, 0.52),
    ]
)  # fmt: skip


def write_photo(path: Path, seed: int, width_px: int = 60, height_px: int = 44) -> None:
    """Writes a smooth image of random colours, different for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width_px, height_px), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=85)


def standing_people(count: int, width_px: int, height_px: int) -> np.ndarray:
    """Makes people side by side, the right wrist hidden and the head top not annotated."""
    people = np.zeros((count, 16, 3), np.float32)
    for index in range(count):
        aside = np.array([0.1 * index, 0])
        people[index, :, :2] = (STANDING + aside) * (width_px, height_px)
        people[index, :, 2] = 2
        people[index, 10, 2] = 1
        people[index, 9] = 0
    return people


def tiny_data(
    folder: Path,
    *,
    sizes: Mapping[str, int] = SIZES,
    name: str = "people",
    label_kind: LabelKind = "single",
    width_px: int = 60,
    height_px: int = 44,
) -> RawData:
    """Writes photographs into `folder`/raw; the i-th of a split shows i % 3 people."""
    splits = {}
    for code, (split, size) in enumerate(sizes.items()):
        entries = []
        for index in range(size):
            path = folder / "raw" / f"{split}_{index:03}.jpg"
            write_photo(path, 1000 * code + index, width_px, height_px)
            people = standing_people(index % 3, width_px, height_px)
            single = index % len(CLASSES)
            multi = tuple(int((index + 1) >> bit & 1) for bit in range(len(CLASSES)))
            label = single if label_kind == "single" else multi
            entries.append(Entry(path.name, path, label, people, index + 1))
        splits[split] = RawSplit(size, size, size, entries)
    return RawData(name, label_kind, CLASSES, splits, [], {"drawn by": "a test", "seed": 0})


def with_entries(raw: RawData, split: str, *entries: Entry) -> RawData:
    """Adds entries to a split."""
    old = raw.splits[split]
    grown = [*old.entries, *entries]
    size = len(grown)
    return dataclasses.replace(raw, splits={**raw.splits, split: RawSplit(size, size, size, grown)})


def with_rejects(raw: RawData, *rejects: Reject) -> RawData:
    """Adds rejects of the reader."""
    return dataclasses.replace(raw, rejects=[*raw.rejects, *rejects])


def quiet(line: str) -> None:
    """Discards a log line."""
    del line


def build(out: Path, raw: RawData, **options: Any) -> Manifest:
    """Prepares the data under `out` without log lines."""

    def source(folder: Path) -> RawData:
        del folder  # the raw files are elsewhere
        return raw

    return prepare.build(out, source, **{"log": quiet, **options})


def names_in(folder: Path) -> list[str]:
    """Lists the names in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def prepare_tiny_people(out: Path, *, sizes: Mapping[str, int] = SIZES) -> Manifest:
    """Prepares the tiny data under `out`."""
    return prepare.build(out, lambda folder: tiny_data(folder, sizes=sizes), log=quiet)
