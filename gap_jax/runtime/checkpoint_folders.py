"""Finds out which checkpoints in a folder are whole, damaged, or of another run.

A step is a folder of Orbax named by its number; without our metadata it does not count as saved.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from data_pipelines.core import faults, files
from data_pipelines.core.errors import CheckpointError
from gap_jax.runtime.digests import LeafDigest

FORMAT_VERSION = 2
RUN_ID = "run_id"  # the key in run.json and in the metadata of checkpoints
STATE, METADATA = "state", "metadata"  # Orbax's items
UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax appends this while it writes
COMMITTED = "commit_success.txt"  # Orbax writes this last
PRUNED = ".pruned"  # Orbax moves steps here before they are deleted
FORMAT_1 = "facts.json"  # a file in checkpoints of format 1
PIECE_BYTES = 1 << 20
_STEP = re.compile(r"0|[1-9]\d*", re.ASCII)
_LEFT_OVER = re.compile(rf"\d+{UNFINISHED}|{PRUNED}".replace(".", r"\."), re.ASCII)
_SET_ASIDE = re.compile(r"\d+\.corrupt(\.\d+)?", re.ASCII)


AnyPath = Path | epath.Path


class DamageError(Exception):
    """A checkpoint of ours whose content differs from what was written."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Describes a checkpoint: its run, its leaves and their files.

    The digests of files find a bad disk, before a parser reads them. The digests of leaves are
    those of the state itself and find any error between the state and the files.
    """

    step: int
    run: dict[str, Any]  # config, classes, fingerprint, metrics
    leaves: dict[str, LeafDigest]
    files: dict[str, str]  # SHA-256
    format_version: int = FORMAT_VERSION

    @property
    def run_id(self) -> str | None:
        return self.run.get(RUN_ID)


class Survey(NamedTuple):
    """The steps in a folder, ascending; `unusable` holds the reason for each."""

    good: dict[int, Metadata]
    unusable: dict[int, str]


def is_bucket(folder: AnyPath) -> bool:
    """Whether the folder is in a bucket, where a file COMMITTED replaces Orbax's renaming."""
    return "://" in str(folder)


def place_unfinished(folder: AnyPath, step: int) -> AnyPath:
    """Returns the folder in which Orbax writes a step."""
    return folder / (str(step) if is_bucket(folder) else f"{step}{UNFINISHED}")


def _is_checkpoint(path: AnyPath) -> bool:
    return (path / METADATA).exists() or (path / STATE).exists()


def _is_unfinished(path: AnyPath) -> bool:
    """Whether a step in a bucket was only partly written or deleted."""
    is_step = is_bucket(path) and _STEP.fullmatch(path.name)
    return bool(is_step) and not (path / COMMITTED).exists() and _is_checkpoint(path)


def survey(folder: AnyPath, run_id: str | None = None) -> Survey:
    """Lists the steps in the folder; with a `run_id`, checkpoints of other runs are unusable."""
    found = Survey({}, {})
    for step in sorted(int(name) for name in list_names(folder) if _STEP.fullmatch(name)):
        path = folder / str(step)
        if _is_unfinished(path):
            continue
        try:
            metadata = read_metadata(path)
        except DamageError as damage:
            if _is_checkpoint(path):
                found.unusable[step] = str(damage)
            continue
        if metadata.step != step:
            found.unusable[step] = f"it is a copy of checkpoint {metadata.step}"
        elif run_id not in (None, metadata.run_id):
            ids = f"{RUN_ID} {metadata.run_id}, here {run_id}"
            found.unusable[step] = f"it is of another run, {ids}"
        else:
            found.good[step] = metadata
    return found


def list_set_aside(folder: AnyPath) -> list[str]:
    return [name for name in list_names(folder) if _SET_ASIDE.fullmatch(name)]


def list_names(folder: AnyPath) -> list[str]:
    """Returns the names in the folder, none if it does not exist."""
    with _reading(folder):
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def find_best(good: Mapping[int, Metadata]) -> int | None:
    """Returns the step of the best evaluation, the earliest of equals."""
    found = {step: each.run.get("metrics", {}) for step, each in good.items()}
    rated = {step: rate(metrics) for step, metrics in found.items() if "mAP" in metrics}
    return max(rated, key=rated.__getitem__, default=None)


def rate(metrics: Mapping[str, Any]) -> tuple[float, float]:
    """Returns what the best evaluation has most of: mAP, and accuracy where mAPs are equal.

    A few images are soon ranked without a fault, when most probabilities are still even.
    """
    return float(metrics["mAP"]), float(metrics.get("accuracy") or 0)


def write_metadata(path: AnyPath, metadata: Metadata) -> None:
    """Writes the metadata of the step in `path`, and their digest."""
    content = dataclasses.asdict(metadata)
    text = json.dumps({"sha256": _digest(content), "content": content}, indent=1) + "\n"
    target = path / METADATA / METADATA
    if is_bucket(path):
        target.write_text(text)  # an object is whole or absent
    else:
        files.write_atomically(Path(target), text)


def read_metadata(path: AnyPath) -> Metadata:
    """Reads the metadata of the step in `path` and verifies their digest."""
    try:
        with _reading(path):
            held = json.loads((path / METADATA / METADATA).read_bytes())
        content = held["content"]
        if held["sha256"] != _digest(content):
            raise DamageError(f"{METADATA} is not what was written")
        version = content["format_version"]
    except FileNotFoundError as error:
        version, content = 1, {}
        with _reading(path):
            if not (path / FORMAT_1).exists():
                raise DamageError(f"{METADATA} is gone") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{METADATA} is not readable") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version} and this gap_jax reads {FORMAT_VERSION}; "
            "use the version that wrote it or another --workdir"
        )
    leaves = {name: LeafDigest(**leaf) for name, leaf in content["leaves"].items()}
    known = {field.name: content[field.name] for field in dataclasses.fields(Metadata)}
    return Metadata(**{**known, "leaves": leaves})


def digest_files(path: AnyPath) -> dict[str, str]:
    """Returns the SHA-256 of each file of the state of the step in `path`."""
    base = epath.Path(path)
    found = sorted(root / name for root, _, names in (base / STATE).walk() for name in names)
    return {str(each.relative_to(base)): _digest_file(each) for each in found}


def _digest_file(path: AnyPath) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def verify_files(path: AnyPath, metadata: Metadata) -> None:
    """Raises DamageError if a file of the state is absent or different."""
    with _reading(path):
        found = digest_files(path)
    for name, digest in metadata.files.items():
        if found.get(name) != digest:
            raise DamageError(f"{name} is {'not what was written' if name in found else 'gone'}")


def find_newest_whole(folder: AnyPath, run_id: str | None) -> Metadata | None:
    """Returns the metadata of a run's newest step whose files are as they were written."""
    good = survey(folder, run_id).good
    for step in reversed(good):
        with contextlib.suppress(DamageError):
            verify_files(folder / str(step), good[step])
            return good[step]
    return None


def set_aside(folder: AnyPath, step: int) -> AnyPath:
    """Renames a step's folder to STEP.corrupt, which is no checkpoint's name."""
    names = (f"{step}.corrupt{suffix}" for suffix in ("", *(f".{n}" for n in range(2, 1000))))
    aside = next(folder / name for name in names if not (folder / name).exists())
    with files.writing(aside):
        return (folder / str(step)).rename(aside)


def sweep(folder: AnyPath) -> None:
    """Deletes partly written steps, and the steps that Orbax moved to PRUNED."""
    with files.writing(folder):
        for name in list_names(folder):
            if _LEFT_OVER.fullmatch(name) or _is_unfinished(folder / name):
                faults.point("checkpoint.prune")
                epath.Path(folder / name).rmtree()


@contextlib.contextmanager
def _reading(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}; make it readable"
        ) from error


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
