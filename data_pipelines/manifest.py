"""Writes, reads and validates manifest.json, which describes a prepared data set."""

import dataclasses
import hashlib
import json
import numbers
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_pipelines.config import TRAINVAL
from data_pipelines.core.errors import DataError, first_line, name_some
from data_pipelines.core.files import is_file, quote, read_bounded, write_atomically
from data_pipelines.example import (
    NEGATIVE,
    NOT_ANNOTATED,
    POSITIVE,
    UNLABELLED,
    LabelKind,
    find_class_fault,
)

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, FORMAT_VERSION)  # records of version 1 hold no boxes of people
MAX_BYTES = 256 * 2**20
MOST_FRAMES = 100  # of a video in a record
MANIFEST = "manifest.json"
EXIF_IGNORED = "ignored: annotations refer to the stored pixels"
EXIF_APPLIED = "applied: images are turned upright after decoding"


@dataclasses.dataclass(frozen=True)
class Shard:
    """Describes one array_record file: its name, size, number of records and content digest."""

    file: str
    bytes: int
    examples: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """Describes a split; `ids_sha256` is the digest of its image names in record order."""

    examples: int
    labelled: int
    with_joints: int
    class_counts: tuple[int, ...]
    ids_sha256: str
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Describes the data set; `fingerprint` identifies its content in runs and checkpoints."""

    name: str
    label_kind: LabelKind
    classes: tuple[str, ...]
    max_people: int
    splits: dict[str, Split]
    provenance: dict[str, Any]
    exif: str = EXIF_IGNORED
    format_version: int = FORMAT_VERSION
    frames: int = 1  # stored of each video; 1: images

    @property
    def fingerprint(self) -> str:
        """The digest of all that a model can learn from: classes, labels, pixels, order."""
        return _digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns the content of manifest.json; that of images is as before there were videos."""
        content = dataclasses.asdict(self)
        if self.frames == 1:
            del content["frames"]
        return content

    @property
    def has_boxes(self) -> bool:
        """Tells whether records hold boxes of people; those of videos hold none."""
        return self.format_version > 1 and self.frames == 1

    @property
    def exif_applied(self) -> bool:
        """Tells whether stored images are decoded upright, by their EXIF orientation."""
        return self.exif == EXIF_APPLIED

    def list_parts(self, split: str) -> list[str]:
        """Lists the stored splits that make up a split; `trainval` is train, then val."""
        if split == TRAINVAL and split not in self.splits:
            parts = ["train", "val"]
            return parts if all(part in self.splits for part in parts) else []
        return [split] if split in self.splits else []

    def find_split(self, name: str) -> Split:
        """Describes a split, `trainval` by the sums over its parts; raises KeyError without it."""
        parts = [self.splits[part] for part in self.list_parts(name) or [name]]
        if len(parts) == 1:
            return parts[0]
        return Split(
            examples=sum(part.examples for part in parts),
            labelled=sum(part.labelled for part in parts),
            with_joints=sum(part.with_joints for part in parts),
            class_counts=tuple(map(sum, zip(*(part.class_counts for part in parts), strict=True))),
            ids_sha256=digest_ids(part.ids_sha256 for part in parts),
            shards=tuple(shard for part in parts for shard in part.shards),
        )


def is_labelled(label: Any) -> bool:
    """Tells whether the image has a label; of several classes, whether any is known."""
    if isinstance(label, numbers.Integral):
        return bool(label != UNLABELLED)
    return bool((np.asarray(label) >= NEGATIVE).any())


def list_classes(label: Any) -> list[int]:
    """Lists the ids of the classes in a label."""
    if isinstance(label, numbers.Integral):
        return [int(label)] if is_labelled(label) else []
    return [int(each) for each in np.flatnonzero(np.asarray(label) == POSITIVE)]


def describe_skipped(classes: Sequence[str], counts: Iterable[int], split: str) -> str:
    """Names the classes that mAP skips because no image shows them; empty if there are none."""
    skipped = [quote(name) for name, count in zip(classes, counts, strict=True) if not count]
    if not skipped:
        return ""
    return (
        f"mAP over {len(classes) - len(skipped):,} of {len(classes):,} classes; no image of "
        f"{split} is of {name_some(skipped)}"
    )


def list_skipped(manifest: Manifest) -> list[str]:
    """Lists a line for each labelled split except `train` that lacks images of some class."""
    lines = (
        describe_skipped(manifest.classes, split.class_counts, name)
        for name, split in manifest.splits.items()
        if name != "train" and split.labelled
    )
    return [line for line in lines if line]


class Tally:
    """Counts the records of a split for its manifest; `frames` is that of the manifest."""

    def __init__(self, classes: int, frames: int = 1) -> None:
        self._frames = frames
        self.ids: list[str] = []
        self.labelled = 0
        self.with_joints = 0
        self.max_people = 0
        self.class_counts = [0] * classes

    def add(self, id: str, label: Any, keypoints: np.ndarray) -> None:
        self.ids.append(id)
        self.labelled += is_labelled(label)
        self.with_joints += bool((keypoints[..., 2] != NOT_ANNOTATED).any())
        self.max_people = max(self.max_people, len(keypoints) // self._frames)
        for each in list_classes(label):
            self.class_counts[each] += 1

    def split(self, shards: Sequence[Shard]) -> Split:
        counts, ids = tuple(self.class_counts), digest_ids(self.ids)
        return Split(len(self.ids), self.labelled, self.with_joints, counts, ids, tuple(shards))


def save(manifest: Manifest, directory: Path) -> None:
    """Writes manifest.json; call it last, as a folder with a manifest counts as complete."""
    content = {"fingerprint": manifest.fingerprint, **manifest.to_json()}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(directory / MANIFEST, (text + "\n").encode("utf-8", "backslashreplace"))


def is_prepared(directory: Path) -> bool:
    """Tells whether a folder holds a manifest; refuses a folder that cannot be read."""
    return is_file(directory / MANIFEST, DataError)


def load(directory: Path) -> Manifest:
    """Reads and validates manifest.json; refuses an absent or invalid one and other versions."""
    path = directory / MANIFEST
    try:
        if not path.exists():
            raise FileNotFoundError
        content = json.loads(read_bounded(path, MAX_BYTES))
    except FileNotFoundError as error:
        raise DataError(f"no prepared data in {directory}: it holds no {MANIFEST}") from error
    except (OSError, DataError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the data again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"{path} has format_version={version!r} and this gap_jax reads up to {FORMAT_VERSION}; "
            "prepare the data again"
        )
    try:
        fingerprint = content.pop("fingerprint", None)
        if fingerprint != _digest(content):
            raise ValueError(f"it was changed after its fingerprint {fingerprint!r} was taken")
        manifest = _from_json(content)
        _check_sums(manifest)
        return manifest
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is not a data manifest: {first_line(error)}; prepare the data again"
        ) from error


def digest_ids(ids: Iterable[str]) -> str:
    """Computes the SHA-256 of image names in the given order, each followed by a zero byte."""
    digest = hashlib.sha256()
    for name in ids:
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


def _digest(content: dict[str, Any]) -> str:
    known = {key: value for key, value in content.items() if key != "provenance"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _from_json(content: dict[str, Any]) -> Manifest:
    splits = {}
    for name, split in content["splits"].items():
        shards = tuple(Shard(**shard) for shard in split["shards"])
        counts = tuple(split["class_counts"])
        splits[name] = Split(**{**split, "class_counts": counts, "shards": shards})
    return Manifest(**{**content, "classes": tuple(content["classes"]), "splits": splits})


def _check_sums(manifest: Manifest) -> None:
    if fault := find_class_fault(manifest.classes):
        raise ValueError(fault)
    if manifest.exif not in (EXIF_IGNORED, EXIF_APPLIED):
        raise ValueError(f"its exif is {manifest.exif!r}, not {EXIF_IGNORED!r} or {EXIF_APPLIED!r}")
    if not 1 <= manifest.frames <= MOST_FRAMES:
        raise ValueError(f"its frames={manifest.frames} is not in 1..{MOST_FRAMES}")
    for name, split in manifest.splits.items():
        if split.examples != sum(shard.examples for shard in split.shards):
            raise ValueError(f"the shards of split {name!r} do not add up to its examples")
        if len(split.class_counts) != len(manifest.classes):
            raise ValueError(f"split {name!r} does not count every class")
        for shard in split.shards:
            file = PurePosixPath(shard.file)
            if file.is_absolute() or ".." in file.parts:
                raise ValueError(f"shard {shard.file!r} lies outside the folder")


def list_moves(before: Sequence[str], after: Sequence[str]) -> str:
    """Lists the classes that are gone, new or moved; empty if there are none."""
    old, new = ({name: index for index, name in enumerate(names)} for names in (before, after))
    moves = [f"{name!r} is gone" for name in before if name not in new]
    moves += [f"{name!r} is new" for name in after if name not in old]
    moves += [
        f"{name!r} moved from {old[name]} to {new[name]}"
        for name in before
        if new.get(name, old[name]) != old[name]
    ]
    return name_some(moves, 5)
