"""Reads HICO's annotations and images into entries of several labels each.

The classes are pairs of a verb and an object in the order of the file. A label is +1 (positive), -1
(negative), 0 (ambiguous) or NaN (unknown) there. An unknown one is OBJECT_ABSENT in the records if
no label of the image is known for any class of the same object: nobody saw that object in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import sha256
from data_pipelines.datasets.child import parse_in_child
from data_pipelines.datasets.image_files import find_images
from data_pipelines.datasets.joints import NOBODY
from data_pipelines.datasets.own_photos import read_joints
from data_pipelines.datasets.still import hico_mat
from data_pipelines.example import (
    AMBIGUOUS,
    NEGATIVE,
    OBJECT_ABSENT,
    POSITIVE,
    UNKNOWN,
    Entry,
    RawData,
    RawSplit,
    Reject,
)

GET_HICO = (
    "get hico_20150920.tar.gz from https://umich-ywchao-hico.github.io and pass its anno.mat and "
    "its folder images/, or the archive"
)
_VALUES = dict(zip(hico_mat.CODES, (POSITIVE, NEGATIVE, AMBIGUOUS, UNKNOWN), strict=True))


class ListedSplit(NamedTuple):
    """Holds the file names of a split and one of LABEL_VALUES for each class."""

    names: list[str]
    labels: Int8[np.ndarray, "n k"]

    def describe(self, split: str) -> str:
        """Counts the values of the annotation file."""
        values, counts = np.unique(np.maximum(self.labels, UNKNOWN), return_counts=True)
        by_value = dict(zip(values.tolist(), counts.tolist(), strict=True))
        written = {POSITIVE: "+1", NEGATIVE: "-1", AMBIGUOUS: "0", UNKNOWN: "NaN"}
        listed = ", ".join(f"{by_value.get(value, 0):,} {text}" for value, text in written.items())
        return f"{split}: labels of {len(self.names):,} images: {listed}"


class Annotations(NamedTuple):
    """Holds the verb and the object of each class, and the splits."""

    classes: list[tuple[str, str]]
    splits: dict[str, ListedSplit]


def read(
    annotations: Path, images: Path, joints: Path | None = None, *, spool: Path | None = None
) -> RawData:
    """Reads the whole data set.

    `images` holds train2015/ and test2015/ or all images, or is an archive whose listed images are
    unpacked into `spool`.
    """
    if not annotations.is_file():
        raise DataError(f"no annotation file {annotations}; {GET_HICO}")
    if not images.exists():
        raise DataError(f"no images at {images}; {GET_HICO}")
    found = read_annotations(annotations)
    paths = _find(images, found.splits, spool)
    if not paths:
        raise DataError(f"none of the listed images is in {images}; {GET_HICO}")
    names = [name for split in found.splits.values() for name in split.names]
    people, lines, given = read_joints(joints, names)
    splits, rejects = {}, []
    for split, listed in found.splits.items():
        entries = []
        for row, name in enumerate(listed.names):
            if name not in paths:
                rejects.append(Reject(split, name, "has no file among the images"))
                continue
            keypoints, size_px, boxes = people.get(name, NOBODY)
            label = listed.labels[row]
            entries.append(
                Entry(name, paths[name], label, keypoints, row + 1, size_px, boxes=boxes)
            )
        splits[split] = RawSplit(len(listed.names), len(listed.names), len(entries), entries)
    return RawData(
        "hico",
        "multi",
        tuple(f"{verb} {noun}" for verb, noun in found.classes),
        splits,
        rejects,
        {
            "annotations": annotations.name,
            "annotations_sha256": sha256(annotations),
            "images": images.name,
            "objects": [noun for _, noun in found.classes],
            **given,
        },
        notes=[*(listed.describe(split) for split, listed in found.splits.items()), *lines],
    )


def read_annotations(path: Path) -> Annotations:
    """Reads the annotation file in a child process with limits of time and memory."""
    parsed = parse_in_child(hico_mat.__name__, path)
    classes = [(verb, noun) for verb, noun in parsed["classes"]]
    objects = [noun for _, noun in classes]
    return Annotations(
        classes,
        {
            split: ListedSplit(listed["names"], decode_labels(listed["labels"], objects))
            for split, listed in parsed["splits"].items()
        },
    )


def decode_labels(texts: list[str], objects: list[str]) -> Int8[np.ndarray, "n k"]:
    """Turns characters into label values; `objects` names the object of each class."""
    codes = np.frombuffer("".join(texts).encode(), np.uint8).reshape(len(texts), len(objects))
    value_of = np.zeros(256, np.int8)
    for code, value in _VALUES.items():
        value_of[ord(code)] = value
    labels = value_of[codes]
    nouns = np.array(objects)
    for noun in set(objects):
        of_object = np.flatnonzero(nouns == noun)
        is_absent = (labels[:, of_object] == UNKNOWN).all(axis=1)
        labels[np.ix_(is_absent, of_object)] = OBJECT_ABSENT
    return labels


def _find(images: Path, splits: Mapping[str, ListedSplit], spool: Path | None) -> dict[str, Path]:
    """Finds the images in a folder for each split, or all in one place."""
    if not images.is_dir():
        names = [name for listed in splits.values() for name in listed.names]
        return find_images(images, names, spool)
    paths: dict[str, Path] = {}
    for split, listed in splits.items():
        own = [images / f"{split}2015", images / "images" / f"{split}2015"]
        folder = next((path for path in own if path.is_dir()), images)
        paths.update(find_images(folder, listed.names, spool))
    return paths
