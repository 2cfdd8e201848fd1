"""Measures training steps on one core: from stored maps, from images, and PyTorch's from maps."""

import contextlib
import dataclasses
import importlib.util
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import alternating, photos, sides
from benchmarks.alternating import Ratio, Rounds
from benchmarks.features.tasks import HeadTask, Stored
from benchmarks.sides import ask

ON_MAPS, ON_IMAGES, TORCH = "on maps", "with the backbone", "torch on maps"
ROWS = (ON_MAPS, ON_IMAGES, TORCH)
STEPS = {ON_MAPS: 5, ON_IMAGES: 1, TORCH: 5}  # of a turn
RATIOS: tuple[Ratio, ...] = ((ON_IMAGES, ON_MAPS, ">= 50"), (ON_MAPS, TORCH, ""))
TOLERANCE = 1e-4  # of the logits, relative to the largest
KILOBYTES, DRAWN = 200, 50  # of a photo; different photos
CLASSES = tuple(map(str, range(393)))


class Result(NamedTuple):
    """The CPU ms of a step in every row and turn, and the seconds of storing maps of `images`."""

    task: dict[str, Any]
    row_bytes: int
    views: int
    images: int
    store_cpu_s: float
    store_wall_s: float
    rounds: Rounds
    skipped: dict[str, str]
    differences: dict[str, float]


def measure_all(
    base: HeadTask, heads: Sequence[str], records: int, turns: int, rows: Sequence[str] = ROWS
) -> Iterator[Result]:
    """Stores the maps of drawn photos for the first head, and yields the result of each."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        drawn = min(DRAWN, records)
        photos.prepare(data, KILOBYTES, drawn, records // drawn, classes=CLASSES)
        for index, head in enumerate(heads):
            task = dataclasses.replace(base, data=data, head=head)
            result = _measure(task, turns, rows, Path(name))
            yield result._replace(images=0) if index else result


def _measure(task: HeadTask, turns: int, rows: Sequence[str], folder: Path) -> Result:
    skipped, differences = {}, {}
    with contextlib.ExitStack() as stack:
        asks: dict[str, Connection] = {}

        def start(name: str, *arguments: Any) -> Connection:
            asks[name] = stack.enter_context(alternating.serving(sides.serve, *arguments))
            return asks[name]

        ours = start(ON_MAPS, build, task, folder)
        stored: Stored = ask(ours, "store")
        ask(ours, "save_head")
        ask(ours, "prepare")
        if ON_IMAGES in rows:
            images = dataclasses.replace(task, on_maps=False)
            ask(start(ON_IMAGES, build, images, folder), "prepare")
        if TORCH in rows and importlib.util.find_spec("torch") is None:
            skipped[TORCH] = "torch is not installed"
        elif TORCH in rows:
            theirs = start(TORCH, build_torch, task, folder, stored)
            answers = ({"logits": ask(row, "logits")} for row in (ours, theirs))
            differences = sides.compare(*answers, most=TOLERANCE)
            ask(theirs, "prepare")

        def cpu_ms(name: str) -> float:
            return ask(asks[name], "time", STEPS[name])["cpu"] * 1e3

        rounds = alternating.alternate(list(asks), turns, cpu_ms)
        for row in asks.values():
            ask(row, "close")
    described = dataclasses.asdict(task) | {"data": "drawn photos"}
    row_type = stored.maps.row_type
    return Result(
        described, row_type.itemsize, row_type["maps"].shape[0], stored.images, stored.cpu_s,
        stored.wall_s, rounds, skipped, differences,
    )  # fmt: skip


def build(task: HeadTask, folder: Path) -> Any:
    """Builds our row; imports jax only in its process."""
    from benchmarks.features import jax_rows

    return jax_rows.build_head(task, folder)


def build_torch(task: HeadTask, folder: Path, stored: Stored) -> Any:
    """Builds PyTorch's row; imports torch only in its process."""
    from benchmarks.features import torch_rows

    return torch_rows.build_head(task, folder, stored)


def render(result: Result) -> str:
    """Renders the table of a head, and the cost of storing the maps if it did."""
    task = result.task
    title = (
        f"training step of {task['head']}, {task['backbone']}, {task['px']} px, batch "
        f"{task['batch']}, float32, one thread: CPU ms"
    )
    speeds = [f"{row} {1e3 / statistics.median(ms):.2f}" for row, ms in result.rounds.items()]
    differences = [f"{name} {share:.0e}" for name, share in result.differences.items()]
    lines = [
        alternating.render(title, result.rounds, result.skipped, RATIOS),
        f"  steps/s: {', '.join(speeds)}",
        f"  largest difference between the two sides: {', '.join(differences) or 'not compared'}",
    ]
    if result.images:
        lines.append(
            f"  maps of {result.images:,} images stored in {result.store_cpu_s:.0f} CPU s "
            f"({result.store_wall_s:.0f} wall s), {result.images / result.store_cpu_s:.2f} "
            "images/s, with compiling, decoding and writing; "
            f"{result.row_bytes:,} bytes for the {result.views} views of a record"
        )
    return "\n".join(lines)
