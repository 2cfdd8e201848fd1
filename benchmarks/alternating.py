"""Measures the rows of a table in turns, each in a separate process."""

import contextlib
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Rounds = dict[str, list[float]]  # one number for each row and turn
Ratio = tuple[str, str, str]  # numerator, denominator, target


class RowFailed(Exception):
    """A row could not be measured; the message is one line."""


@contextlib.contextmanager
def serving(serve: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Starts a process that runs serve(*arguments, pipe); yields the other end of the pipe.

    A False through the pipe ends the process; an exception here kills it.
    """
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        yield ours
        with contextlib.suppress(BrokenPipeError):
            ours.send(False)
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
        ours.close()


def alternate(rows: Sequence[str], turns: int, measure: Callable[[str], float]) -> Rounds:
    """Measures every row in every turn, reversing the order each time."""
    rounds: Rounds = {row: [] for row in rows}
    for turn in range(turns):
        for row in rows if turn % 2 == 0 else reversed(rows):
            rounds[row].append(measure(row))
    return rounds


def pin() -> None:
    """Limits this process to one core and one thread; call it before importing frameworks.

    All rows use the same core, so that the running row has its caches alone.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def render(title: str, rounds: Rounds, skipped: dict[str, str], ratios: Sequence[Ratio]) -> str:
    """Renders medians with their range, and the ratios of rows measured in the same turn."""
    lines = [f"{title}, median (lowest .. highest)"]
    lines += [f"  {row:<28}{spread(values)}" for row, values in rounds.items()]
    lines += [f"  {row:<28}skipped: {reason}" for row, reason in skipped.items()]
    for row, base, wanted in ratios:
        name = f"{row} : {base}"
        if {row, base} <= set(rounds):
            numbers = spread(divide(rounds, row, base))
            lines.append(f"  {name + ' ':<28}{numbers} {wanted}".rstrip())
        else:
            lines.append(f"  {name:<28}skipped")
    return "\n".join(lines)


def divide(rounds: Rounds, row: str, base: str) -> list[float]:
    """Returns the quotient of two rows in each turn."""
    return [a / b for a, b in zip(rounds[row], rounds[base], strict=True)]


def spread(values: Sequence[float]) -> str:
    """Formats the median and the range."""
    return f"{statistics.median(values):6.3f} ({min(values):.3f} .. {max(values):.3f})"


def describe_machine(packages: Sequence[str]) -> str:
    """Describes the processor, its load, the interpreter and the packages."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0].partition(":")[2].strip() if models else processor
    load = os.getloadavg()[0]
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return f"{processor}, load average {load:.1f}; Python {platform.python_version()}, {versions}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
