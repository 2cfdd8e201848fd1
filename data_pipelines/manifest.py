"""manifest.json: what a prepared data set says of itself, written last and checked first."""

import builtins
import dataclasses
import hashlib
import json
import numbers
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.example import FORMAT_VERSION, NOT_ANNOTATED, UNLABELLED, LabelKind, class_fault
from data_pipelines.files import is_file, quote, write_atomically

MANIFEST = "manifest.json"
MOST_NAMED = 3  # classes that a message names
EXIF_POLICY = "ignored: annotations refer to the stored pixels"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One array_record file: its name, size, number of records and content digest."""

    file: str
    bytes: int
    examples: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """What a split holds; `ids_sha256` is the digest of its image names in record order."""

    examples: int
    labelled: int
    with_joints: int
    class_counts: tuple[int, ...]
    ids_sha256: str
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The whole data set; `fingerprint` names its content in runs and checkpoints."""

    name: str
    label_kind: LabelKind
    classes: tuple[str, ...]
    max_people: int
    splits: dict[str, Split]
    provenance: dict[str, Any]
    exif: str = EXIF_POLICY
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """A digest of everything a model can learn from: classes, labels, pixels, order."""
        content = dataclasses.asdict(self)
        del content["provenance"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def is_labelled(label: Any) -> bool:
    """Whether anybody said what the image shows; a label of several classes always says so."""
    return not isinstance(label, numbers.Integral) or bool(label != UNLABELLED)


def has_joints(keypoints: np.ndarray) -> bool:
    """Whether any joint of any person is annotated."""
    return bool((keypoints[..., 2] != NOT_ANNOTATED).any())


def classes_of(label: Any) -> list[int]:
    """The ids of the classes that a label names."""
    if isinstance(label, numbers.Integral):
        return [int(label)] if is_labelled(label) else []
    return [int(each) for each in np.flatnonzero(label)]


def describe_skipped(classes: Sequence[str], counts: Iterable[int], split: str) -> str:
    """Names the classes that mAP leaves out because no image is of them; empty if there is none."""
    skipped = [quote(name) for name, count in zip(classes, counts, strict=True) if not count]
    if not skipped:
        return ""
    more = [f"{len(skipped) - MOST_NAMED:,} more"] if len(skipped) > MOST_NAMED else []
    return (
        f"mAP over {len(classes) - len(skipped):,} of {len(classes):,} classes; no image of "
        f"{split} is of {', '.join([*skipped[:MOST_NAMED], *more])}"
    )


def list_skipped(manifest: Manifest) -> list[str]:
    """A line for each labelled split but `train` that has no image of some class."""
    lines = (
        describe_skipped(manifest.classes, split.class_counts, name)
        for name, split in manifest.splits.items()
        if name != "train" and split.labelled
    )
    return [line for line in lines if line]


class Tally:
    """The sums over a split's records that its manifest states."""

    def __init__(self, classes: int) -> None:
        self.ids: list[str] = []
        self.labelled = 0
        self.with_joints = 0
        self.max_people = 0
        self.class_counts = [0] * classes

    def add(self, id: str, label: Any, keypoints: np.ndarray) -> None:
        """Counts one record in."""
        self.ids.append(id)
        self.labelled += is_labelled(label)
        self.with_joints += has_joints(keypoints)
        self.max_people = max(self.max_people, len(keypoints))
        for each in classes_of(label):
            self.class_counts[each] += 1

    def split(self, shards: Sequence[Shard]) -> Split:
        """The split's part of a manifest."""
        return Split(
            examples=len(self.ids),
            labelled=self.labelled,
            with_joints=self.with_joints,
            class_counts=tuple(self.class_counts),
            ids_sha256=digest_ids(self.ids),
            shards=tuple(shards),
        )


def save(manifest: Manifest, directory: Path) -> None:
    """Writes manifest.json; call it last, because a folder with one counts as complete."""
    content = {"fingerprint": manifest.fingerprint, **dataclasses.asdict(manifest)}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(directory / MANIFEST, (text + "\n").encode("utf-8", "backslashreplace"))


def is_prepared(directory: Path) -> bool:
    """Whether a folder holds a manifest; refuses one that cannot be looked into."""
    return is_file(directory / MANIFEST, DataError)


def load(directory: Path) -> Manifest:
    """Reads and validates manifest.json, refusing what is absent, foreign or of another version."""
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no prepared data in {directory}: it holds no {MANIFEST}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the data again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format_version={version!r} and this gap_jax reads {FORMAT_VERSION}; "
            "prepare the data again"
        )
    try:
        fingerprint = content.pop("fingerprint", None)
        manifest = _parsed(Manifest, content, MANIFEST)
        _check_sums(manifest)
        if manifest.fingerprint != fingerprint:
            raise ValueError(f"it was changed after its fingerprint {fingerprint!r} was taken")
    except ValueError as error:
        raise DataError(
            f"{path} is not a data manifest: {error}; prepare the data again"
        ) from error
    return manifest


def digest_ids(ids: Iterable[str]) -> str:
    """The SHA-256 over image names in the order given, each ended by a zero byte."""
    digest = hashlib.sha256()
    for name in ids:
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


def _parsed(kind: Any, value: Any, where: str) -> Any:
    """The value as the type it must have; a ValueError says where it is something else."""
    if kind is Any:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        types = {field.name: field.type for field in dataclasses.fields(kind)}
        if not isinstance(value, dict) or set(value) != set(types):
            raise ValueError(f"{where} must hold exactly {', '.join(types)}")
        return kind(**{key: _parsed(types[key], value[key], f"{where}.{key}") for key in types})
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case builtins.tuple if isinstance(value, list):
            return tuple(_parsed(arguments[0], each, f"{where}[]") for each in value)
        case builtins.dict if isinstance(value, dict):
            return {
                key: _parsed(arguments[1], each, f"{where}.{key}") for key, each in value.items()
            }
        case typing.Literal if value in arguments:
            return value
        case None if type(value) is kind and not (kind is int and value < 0):
            return value
    raise ValueError(f"{where} is {value!r:.80}")


def _check_sums(manifest: Manifest) -> None:
    if fault := class_fault(manifest.classes):
        raise ValueError(fault)
    for name, split in manifest.splits.items():
        if split.examples != sum(shard.examples for shard in split.shards):
            raise ValueError(f"the shards of split {name!r} do not add up to its examples")
        if len(split.class_counts) != len(manifest.classes):
            raise ValueError(f"split {name!r} does not count every class")
        for shard in split.shards:
            file = PurePosixPath(shard.file)
            if file.is_absolute() or ".." in file.parts:
                raise ValueError(f"shard {shard.file!r} lies outside the folder")
