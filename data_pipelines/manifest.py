"""manifest.json: what a prepared data set says of itself, written last and checked first."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.example import FORMAT_VERSION, LabelKind
from data_pipelines.files import write_atomically

MANIFEST = "manifest.json"
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


def save(manifest: Manifest, directory: Path) -> None:
    """Writes manifest.json; call it last, because a folder with one counts as complete."""
    text = json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False)
    write_atomically(directory / MANIFEST, text + "\n")


def load(directory: Path) -> Manifest:
    """Reads and validates manifest.json, refusing what is absent, foreign or of another version."""
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no prepared data in {directory}: it holds no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the data again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format_version={version!r} and this gap_jax reads {FORMAT_VERSION}; "
            "prepare the data again"
        )
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a data manifest ({error!r}); prepare the data again"
        ) from error


def _parse(content: dict[str, Any]) -> Manifest:
    splits = {
        name: Split(
            **{
                **split,
                "class_counts": tuple(split["class_counts"]),
                "shards": tuple(Shard(**shard) for shard in split["shards"]),
            }
        )
        for name, split in content["splits"].items()
    }
    return Manifest(**{**content, "classes": tuple(content["classes"]), "splits": splits})
