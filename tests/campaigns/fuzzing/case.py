"""A case of the fuzz campaign, and how it is judged."""

import os
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from data_pipelines.core.errors import CheckpointError, DataError
from gap_jax import process

REFUSALS = (DataError.exit_code, CheckpointError.exit_code)
OUTCOMES = ("refused", "accepted", "crash")
MESSAGE_CHARS = 300
LONGEST_CPU_S = 60.0

T = TypeVar("T")


class Case(NamedTuple):
    """A mutated input: `read` reads it, and `find_damage` judges what an accepted one gave.

    `read` returns, or raises what the user's command would end with.
    """

    mutation: str
    read: Callable[[], Any]
    find_damage: Callable[[Any], str]


Rng = np.random.Generator
Mutate = Callable[[bytes, Rng], bytes]
Make = Callable[[Rng, Path], Case]  # may write into the folder


class Verdict(NamedTuple):
    """The result of a case: one of OUTCOMES, and the damage that another check finds."""

    group: str
    number: int
    kind: str
    mutation: str
    outcome: str
    message: str
    damage: str
    seconds: float
    peak_mib: float

    @property
    def fails(self) -> bool:
        """Returns whether the case breaks a promise."""
        return self.outcome == "crash" or bool(self.damage) or self.seconds > LONGEST_CPU_S


def choose(rng: Rng, options: Sequence[T]) -> T:
    """Chooses one of the options; numpy would turn them into an array."""
    return options[int(rng.integers(len(options)))]


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of the processes that it waited for."""
    return sum(os.times()[:4])


def judge(group: str, number: int, kind: str, made: Case, stderr: IO[bytes]) -> Verdict:
    """Reads a case as a command does; `stderr` is the file behind this process's stderr.

    Anything on stderr beside the one line of a refusal counts as a crash, so a warning does.
    """
    given: list[Any] = []
    stderr.truncate(0)
    stderr.seek(0)
    start = cpu_seconds()
    with warnings.catch_warnings(action="always"):
        for hidden in (DeprecationWarning, ResourceWarning):  # from users, by Python's own filters
            warnings.simplefilter("ignore", hidden)
        code = process.exit_code(lambda: given.append(made.read()))
    seconds = cpu_seconds() - start
    sys.stderr.flush()
    stderr.seek(0)
    printed = stderr.read().decode("utf-8", "replace")
    is_refused = code in REFUSALS and printed.count("\n") == 1
    outcome = "refused" if is_refused else "accepted" if not code and not printed else "crash"
    message = printed if outcome == "refused" else f"{code}: {printed[-MESSAGE_CHARS:]}"
    damage = made.find_damage(given[0]) if outcome == "accepted" else ""
    peak_kib = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return Verdict(
        group, number, kind, made.mutation, outcome,
        "" if outcome == "accepted" else message[:MESSAGE_CHARS].strip(),
        damage[:MESSAGE_CHARS], seconds, peak_kib / 1024,
    )  # fmt: skip


def write_once(folder: Path, write: Callable[[Path], object]) -> Path:
    """Returns the folder of unchanged originals, which the first case writes.

    `folder` is that of a case; the originals lie beside it.
    """
    originals = folder.parent / "originals" / write.__name__
    if not originals.exists():
        partial = originals.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(originals)
    return originals


def copy_original(folder: Path, write: Callable[[Path], object]) -> Path:
    """Copies the originals into the folder of a case as `in`."""
    return Path(shutil.copytree(write_once(folder, write), folder / "in", symlinks=True))


def list_below(folder: Path) -> set[Path]:
    """Lists all that is below a folder, without following links."""
    return {
        Path(parent, name)
        for parent, folders, names in os.walk(folder)
        for name in (*folders, *names)
    }
