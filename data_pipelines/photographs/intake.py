"""Decides which listed images become records, and groups the near-duplicates among them."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import records
from data_pipelines.core.boxes import around_joints
from data_pipelines.example import (
    MAX_POSITION_PX,
    NEGATIVE,
    UNLABELLED,
    Entry,
    RawData,
    Reject,
    find_box_fault,
)
from data_pipelines.manifest import is_labelled, list_classes
from data_pipelines.photographs.duplicates import Member, find_groups
from data_pipelines.photographs.examine import Log, examine
from data_pipelines.photographs.journal import Examined, Journal


class Accepted(NamedTuple):
    """Holds an entry that becomes a record of a split, and what is known of its file."""

    split: str
    entry: Entry
    image: Examined


def accept(raw: RawData, log: Log, journal: Journal) -> tuple[list[Accepted], list[Reject]]:
    """Divides the entries into those that can be used and rejects with their reasons."""
    rejects = list(raw.rejects)
    accepted: list[Accepted] = []
    split_of: dict[str, str] = {}  # by id
    for split, listed in raw.splits.items():
        paths = [entry.files for entry in listed.entries]
        images = examine(split, paths, upright=raw.upright, log=log, journal=journal)
        for entry, image in zip(listed.entries, images, strict=True):
            fault = _find_fault(entry, raw, split_of)
            split_of.setdefault(entry.id, split)
            if not fault and isinstance(image, Examined):
                fault = _find_size_fault(entry, image)
                if not fault:
                    accepted.append(Accepted(split, entry, image))
                    continue
            rejects.append(Reject(split, entry.id, fault or str(image)))
    return accepted, rejects


def _find_fault(entry: Entry, raw: RawData, split_of: Mapping[str, str]) -> str | None:
    """Returns the first fault of an entry, or None."""
    name = entry.id
    if not name or name.encode("utf-8", "ignore").decode() != name:
        return "its name is empty or not valid UTF-8; rename it"
    if name in split_of:
        return f"its name is already listed in split {split_of[name]!r}; list it once"
    kind, classes = raw.label_kind, len(raw.classes)
    fault = records.find_fault(entry.label, entry.keypoints, kind, classes, raw.frames)
    people = len(entry.keypoints)
    return fault or find_box_fault(boxes_of(entry), person_labels_of(entry), people, classes)


def boxes_of(entry: Entry) -> np.ndarray:
    """Returns the boxes of an entry's people, or those around their joints."""
    if entry.boxes is not None:
        return entry.boxes
    return np.clip(around_joints(entry.keypoints), -MAX_POSITION_PX, MAX_POSITION_PX)


def person_labels_of(entry: Entry) -> Sequence[int]:
    """Returns the class ids of an entry's people, unknown where it has none."""
    return (
        (UNLABELLED,) * len(entry.keypoints) if entry.person_labels is None else entry.person_labels
    )


def _find_size_fault(entry: Entry, image: Examined) -> str | None:
    """Returns a fault if the joints were annotated in an image of another size, or None."""
    if entry.annotated_size_px in (None, (image.width_px, image.height_px)):
        return None
    width_px, height_px = entry.annotated_size_px
    return (
        f"its joints are for {width_px} x {height_px} pixels and it has {image.width_px} x "
        f"{image.height_px}; annotate the image as it is stored here"
    )


def group_duplicates(accepted: Sequence[Accepted]) -> list[list[int]]:
    """Groups the positions of near-duplicates."""
    return find_groups([each.image.sketch for each in accepted])


def list_members(accepted: Sequence[Accepted], group: Sequence[int]) -> list[Member]:
    """Names the members of a group for a report."""
    return [
        make_member(each.split, each.entry.id, each.entry.label)
        for each in (accepted[position] for position in group)
    ]


def make_member(split: str, name: str, label: Any, position: int = 0) -> Member:
    """Makes a member of a group from a label; ambiguous and unknown classes are not known."""
    unknown = 0
    if not isinstance(label, numbers.Integral):
        bits = np.packbits(np.asarray(label) < NEGATIVE, bitorder="little")
        unknown = int.from_bytes(bits.tobytes(), "little")
    return Member(split, name, classes_of(label), position, unknown)


def classes_of(label: object) -> tuple[int, ...] | None:
    """Returns the ids of a label's classes, or None for an image without a label."""
    return tuple(list_classes(label)) if is_labelled(label) else None
