"""Measures CPU time per image from stored records to host batches, ours and PyTorch's."""

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import alternating, photos, rows
from benchmarks.alternating import Ratio, Rounds, serving

EVERY = (*rows.PARTS, *rows.LOADERS)
COPIES = 16  # grain shuffles few records more slowly than a thousand
RATIOS: tuple[Ratio, ...] = (
    ("loader/0", "decode + crop", "<= 1.15"),
    ("loader/2", "decode + crop", "<= 1.35"),
    ("loader/0", "torch/0", "<= 1.00"),
    ("loader/2", "torch/2", "<= 1.00"),
)
PACKAGES = ("numpy", "grain", "array_record", "simplejpeg", "opencv-python-headless", "torch")


class Result(NamedTuple):
    """The numbers of every row for one size of JPEG, and the reasons of skipped rows."""

    kilobytes: int
    rounds: Rounds
    skipped: dict[str, str]


def measure_all(
    sizes: Sequence[int], images: int, pairs: int, wanted: Sequence[str] = EVERY
) -> list[Result]:
    """Measures every wanted row in every round, for each size."""
    return [_measure_size(size, images, pairs, wanted) for size in sizes]


def _measure_size(kilobytes: int, images: int, pairs: int, wanted: Sequence[str]) -> Result:
    skipped = {row: reason for row in wanted if (reason := rows.reason_to_skip(row))}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        photos.prepare(folder, kilobytes, rows.STORED, COPIES)
        asks = {
            row: stack.enter_context(serving(rows.serve, row, folder, images))
            for row in wanted
            if row not in skipped
        }

        def cpu_ms(row: str) -> float:
            asks[row].send(True)
            return asks[row].recv()

        return Result(kilobytes, alternating.alternate(list(asks), pairs, cpu_ms), skipped)


def render(results: list[Result]) -> str:
    """Renders the tables: medians with their range, and ratios within a round."""
    return "\n\n".join([alternating.describe_machine(PACKAGES), *map(_table, results)])


def _table(result: Result) -> str:
    title = f"JPEGs of about {result.kilobytes} kB: CPU ms per image"
    return alternating.render(title, result.rounds, result.skipped, RATIOS)
