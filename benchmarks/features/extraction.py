"""Measures the extraction of maps on one core: ours, PyTorch's, and our evaluation step."""

import contextlib
import dataclasses
import math
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import alternating, sides
from benchmarks.alternating import Ratio, Rounds
from benchmarks.sides import Task, ask

EXTRACTION, EVALUATION = "extraction", "evaluation"
TOLERANCE = 2e-3  # relative to the largest value; the maps are float16
RATIOS: tuple[Ratio, ...] = (
    (EXTRACTION, EVALUATION, "<= 1.1"),
    (EXTRACTION, "torch compiled", "<= 1.1"),
    (EXTRACTION, "torch eager", ""),
)


class Result(NamedTuple):
    """The CPU ms of an image in every row and turn; `shape` is that of an image's map."""

    task: dict[str, Any]
    shape: tuple[int, ...]
    rounds: Rounds
    skipped: dict[str, str]
    differences: dict[str, float]
    compile_s: dict[str, float]

    @property
    def bytes_per_image(self) -> int:
        """Returns the bytes of a view's map in float16."""
        return math.prod(self.shape) * np.dtype(np.float16).itemsize


def plan(base: Task) -> dict[str, Task]:
    """Lists the rows, ours first, which writes the weights of the others."""
    torch = dataclasses.replace(base, side="plain")
    return {
        EXTRACTION: base,
        "torch eager": torch,
        "torch compiled": dataclasses.replace(torch, compiled=True),
        EVALUATION: base,
    }


def measure(rows: dict[str, Task], turns: int) -> Result:
    """Compares the maps, then measures every row in every turn."""
    skipped = {name: why for name, task in rows.items() if (why := sides.reason_to_skip(task))}
    base = rows[EXTRACTION]
    compile_s: dict[str, float] = {}
    differences: dict[str, float] = {}
    maps = np.empty(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        asks: dict[str, Connection] = {}
        for name, task in rows.items():
            if name in skipped:
                continue
            make = sides.build if name == EVALUATION else build
            row = stack.enter_context(alternating.serving(sides.serve, make, task, Path(folder)))
            compile_s[name] = ask(row, "prepare")["compile_s"]
            asks[name] = row
            if name == EXTRACTION:
                ask(row, "save_weights")
                maps = ask(row, "maps")
            elif task.side == "plain":
                [differences[name]] = sides.compare(
                    {"maps": maps}, {"maps": ask(row, "maps")}, TOLERANCE
                ).values()

        def cpu_ms(name: str) -> float:
            return ask(asks[name], "time", 1)["cpu"] / base.batch * 1e3

        rounds = alternating.alternate(list(asks), turns, cpu_ms)
    described = dataclasses.asdict(base)
    return Result(described, maps.shape[1:], rounds, skipped, differences, compile_s)


def build(task: Task, folder: Path) -> Any:
    """Builds a row; imports its framework only in the row's process."""
    return _find_module(task.side).build_extraction(task, folder)


def _find_module(side: str) -> Any:
    if side == "ours":
        from benchmarks.features import jax_rows

        return jax_rows
    from benchmarks.features import torch_rows

    return torch_rows


def render(result: Result) -> str:
    """Renders the table, images/s, bytes and the comparison of the maps."""
    task = result.task
    title = (
        f"maps of {task['backbone']}, {task['px']} px, batch {task['batch']}, float32, one thread: "
        "CPU ms per image"
    )
    speeds = [f"{row} {1e3 / statistics.median(ms):.2f}" for row, ms in result.rounds.items()]
    differences = [f"{row} {share:.0e}" for row, share in result.differences.items()]
    compiled = [f"{row} {seconds:.0f}" for row, seconds in result.compile_s.items()]
    lines = [
        alternating.render(title, result.rounds, result.skipped, RATIOS),
        f"  images/s: {', '.join(speeds)}",
        f"  a map of {result.shape} has {result.bytes_per_image:,} bytes in float16",
        f"  largest difference from our maps: {', '.join(differences) or 'not compared'}",
        f"  wall s until the first batch was done: {', '.join(compiled)}",
    ]
    return "\n".join(lines)
