"""The folder of checkpoints: which steps are whole, which are damaged, which are not ours.

A step is a folder named by its number that holds the arrays and, written last, `facts.json`.
While it is written or deleted its name is hidden; a damaged one is renamed to `STEP.corrupt`.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines import faults, files
from gap_jax.errors import CheckpointError
from gap_jax.runtime.digests import LeafFacts

FORMAT_VERSION = 1
RUN_ID = "run_id"  # in a run's manifest and in the metadata of its checkpoints
NO_CHECKPOINT = "is no checkpoint"  # of a foreign folder that holds nothing of ours
FACTS = "facts.json"
ARRAYS = "arrays"
_STEP = re.compile(r"0|[1-9]\d*", re.ASCII)
_LEFT_OVER = re.compile(r"\.\d+\.(partial|pruned)", re.ASCII)
_SET_ASIDE = re.compile(r"\d+\.corrupt(\.\d+)?", re.ASCII)


class DamageError(Exception):
    """A checkpoint of ours that does not hold what was written."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint says of itself: the facts of its run, its leaves and their files.

    The digests of the files find a bad disk; those of the leaves, taken from the state itself,
    find everything that went wrong between the state and the files, and back.
    """

    step: int
    facts: dict[str, Any]
    leaves: dict[str, LeafFacts]
    files: dict[str, str]  # SHA-256
    format_version: int = FORMAT_VERSION

    @property
    def run_id(self) -> str | None:
        """The id of the run that saved it; None from before runs had one."""
        return self.facts.get(RUN_ID)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What the folder holds; steps ascend. `foreign` says of each name what is wrong with it."""

    good: dict[int, Record]
    damaged: dict[int, str]
    foreign: dict[str, str]
    set_aside: list[str]


def survey(folder: Path) -> Survey:
    """Reads the folder and changes nothing."""
    with _reading(folder):
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    found = Survey({}, {}, {}, [name for name in names if _SET_ASIDE.fullmatch(name)])
    for step in sorted(int(name) for name in names if _STEP.fullmatch(name)):
        path = folder / str(step)
        try:
            record = read_record(path)
            if record.step == step:
                found.good[step] = record
            else:
                found.foreign[path.name] = f"is a copy of checkpoint {record.step}"
        except DamageError as damage:
            if (path / FACTS).exists() or (path / ARRAYS).exists():
                found.damaged[step] = str(damage)
            else:
                found.foreign[path.name] = NO_CHECKPOINT
    return found


def write_record(path: Path, record: Record) -> None:
    """Writes the facts of the step in `path`, with their own digest beside them."""
    content = dataclasses.asdict(record)
    text = json.dumps({"sha256": _digest(content), "content": content}, indent=1)
    files.write_atomically(path / FACTS, text + "\n")


def read_record(path: Path) -> Record:
    """Reads the facts of the step in `path`, and believes them only if their digest is right."""
    try:
        with _reading(path):
            held = json.loads((path / FACTS).read_bytes())
        content = held["content"]
        if held["sha256"] != _digest(content):
            raise DamageError(f"{FACTS} is not what was written")
    except FileNotFoundError as error:
        raise DamageError(f"{FACTS} is gone") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{FACTS} is not readable") from error
    version = content["format_version"]
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version} and this gap_jax reads {FORMAT_VERSION}; "
            "use the version that wrote it"
        )
    leaves = {
        name: LeafFacts(leaf["dtype"], tuple(leaf["shape"]), leaf["sha256"])
        for name, leaf in content["leaves"].items()
    }
    return Record(content["step"], content["facts"], leaves, content["files"])


def read_whole(folder: Path, step: int) -> Record | None:
    """Reads the record of a step and verifies its files; None if one is absent or damaged."""
    path = folder / str(step)
    try:
        record = read_record(path)
        verify_files(path, record)
    except DamageError:
        return None
    return record if record.step == step else None


def digest_files(path: Path) -> dict[str, str]:
    """The SHA-256 of each file that holds arrays of the step in `path`."""
    arrays = sorted(each for each in (path / ARRAYS).rglob("*") if each.is_file())
    return {str(each.relative_to(path)): files.sha256(each) for each in arrays}


def verify_files(path: Path, record: Record) -> None:
    """Finds damage before a parser meets it."""
    with _reading(path):
        found = digest_files(path)
    for name, digest in record.files.items():
        if found.get(name) != digest:
            raise DamageError(f"{name} is {'not what was written' if name in found else 'gone'}")


def set_aside(folder: Path, step: int) -> Path:
    """Renames a step's folder so that nothing takes it for a checkpoint, and loses nothing."""
    aside = folder / f"{step}.corrupt"
    attempt = 1
    while aside.exists():
        attempt += 1
        aside = folder / f"{step}.corrupt.{attempt}"
    with files.writing(aside):
        return (folder / str(step)).rename(aside)


def sweep(folder: Path) -> None:
    """Deletes what a killed process was still writing or deleting, by our own names only."""
    with files.writing(folder):
        for path in folder.iterdir() if folder.exists() else ():
            if _LEFT_OVER.fullmatch(path.name):
                _delete(path)


def prune(folder: Path, steps: Iterable[int]) -> None:
    """Deletes steps; one that is deleted half is hidden, and no longer looks like a checkpoint."""
    with files.writing(folder):
        for step in steps:
            hidden = (folder / str(step)).rename(folder / f".{step}.pruned")
            faults.point("checkpoint.prune")
            _delete(hidden)


def _delete(path: Path) -> None:
    """Deletes a folder; of a symbolic link the link, never its target."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
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
