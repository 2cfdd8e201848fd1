"""Turns photographs that a user listed into entries: classes by name, joints, splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8

from data_pipelines.core.errors import DataError, name_some
from data_pipelines.core.files import quote, sha256
from data_pipelines.datasets import joints as joints_file
from data_pipelines.example import (
    UNLABELLED,
    DerivedVal,
    Entry,
    LabelKind,
    RawData,
    RawSplit,
    Reject,
)

SPLIT_NAMES = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
MAX_NAMED = 5  # classes, in the summary
_ORDER = ("train", "val", "test")


class Photo(NamedTuple):
    """Names a photograph by its path from the root; `labels` are empty if it has none.

    `line` is that of a list, 0 without one.
    """

    split: str
    id: str
    path: Path
    labels: tuple[str, ...]
    line: int = 0


class Options(NamedTuple):
    """Holds what readers of a user's photographs have in common."""

    joints: Path | None = None
    val_fraction: float = 0.2
    seed: int = 0


def to_raw(
    name: str,
    source: str,
    photos: Sequence[Photo],
    options: Options,
    *,
    advice: str,
    rejects: Sequence[Reject] = (),
    notes: Sequence[str] = (),
    provenance: Mapping[str, str] | None = None,
) -> RawData:
    """Describes the data set; photographs with several labels make all labels multi-labels.

    A class is a name in any split, so a class that a split lacks moves no other. Where no split is
    `val`, it is derived from `train`; without a `train` the data are for scoring alone.
    """
    classes = sorted({label for photo in photos for label in photo.labels})
    is_multi = any(len(photo.labels) > 1 for photo in photos)
    kind: LabelKind = "multi" if is_multi else "single"
    if len(classes) < 2:
        named = f"one class, {quote(classes[0])}" if classes else "no class"
        raise DataError(f"{source} holds {named}; a classifier needs two: {advice}")
    number = {label: index for index, label in enumerate(classes)}
    annotated, lines, given = read_joints(options.joints, [photo.id for photo in photos])
    entries: dict[str, list[Entry]] = {split: [] for split in _ORDER}
    for photo in photos:
        numbers = [number[label] for label in photo.labels]
        label = _multi_label(numbers, len(classes)) if is_multi else [*numbers, UNLABELLED][0]
        people = annotated.get(photo.id, joints_file.NOBODY)
        entries[photo.split].append(_make_entry(photo, label, people))
    absent = Counter(each.split for each in rejects)
    splits = {
        split: RawSplit(len(listed) + absent[split], len(listed), len(listed), listed)
        for split, listed in entries.items()
        if listed
    }
    drawn = DerivedVal(options.val_fraction, options.seed)
    derived = drawn if {"train", "val"} & set(splits) == {"train"} else None
    split_kind: dict[str, str | int | float] = {"split_kind": "given"}
    if derived:
        split_kind = {
            "split_kind": "val derived from train",
            "val_fraction": derived.fraction,
            "val_seed": derived.seed,
        }
        lines.append(
            f"val: {derived.fraction:.0%} of each class, drawn from seed {derived.seed}; "
            "near-duplicates stay together"
        )
    return RawData(
        name,
        kind,
        tuple(classes),
        splits,
        list(rejects),
        {**(provenance or {}), **split_kind, **given},
        upright=True,
        derived_val=derived,
        notes=[f"classes by name: {name_some([*map(quote, classes)], MAX_NAMED)}", *notes, *lines],
    )


def _make_entry(
    photo: Photo, label: int | Int8[np.ndarray, " k"], people: joints_file.Annotated
) -> Entry:
    joints, size_px, boxes = people
    return Entry(photo.id, photo.path, label, joints, photo.line, size_px, boxes=boxes)


def read_joints(
    path: Path | None, ids: Sequence[str]
) -> tuple[Mapping[str, joints_file.Annotated], list[str], dict[str, str]]:
    """Returns the joints by id, lines for the summary and the provenance."""
    if path is None:
        return {}, [], {}
    found = joints_file.read(path)
    matched = joints_file.match(path, found, ids)
    lines = joints_file.describe(path, found, matched, len(ids))
    given = {"joints": path.name, "joints_sha256": sha256(path)}
    if found.derived:
        given["derived_joints"] = ", ".join(found.derived)
    return matched, lines, given


def _multi_label(numbers: Sequence[int], classes: int) -> Int8[np.ndarray, " k"]:
    label = np.zeros(classes, np.int8)
    label[list(numbers)] = 1
    return label
