"""Studies of `gap_jax sweep tune` whose runs are not trained.

python -m tests.support.tuned WORDS      `gap_jax sweep WORDS`, killed in its second run
"""

import csv
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

from data_pipelines import manifest
from gap_jax import cli
from gap_jax.sweep import execute
from gap_jax.sweep.plan import Cell
from gap_jax.sweep.rows import TUNE, make_rates, make_rows
from gap_jax.sweep.tune import CSV, Search, Study, parse_axis
from tests.support.swept import SPEC, Recorder, words_of

RATE, DECAY, RANK = "optim.learning_rate", "optim.weight_decay", "model.rank"
OVER = (f"{RATE}=1e-4..1e-1:log", f"{RANK}=1..3", f"{DECAY}=0.0,0.1")


def make_study(data: Path, out: Path, *fields: str, over: Sequence[str] = OVER) -> Study:
    stated, given = manifest.load(data), tuple(words_of(data, *fields))
    (row,) = make_rows(TUNE, SPEC, given, stated)
    rates, axes = {row.name: make_rates(row, ())}, tuple(map(parse_axis, over))
    return Study(TUNE, out, (row,), rates, 1, 0.2, stated, axes=axes, overrides=given)


def words(
    data: Path, out: Path, *options: str, trials: int = 3, over: Sequence[str] = OVER
) -> list[str]:
    """The arguments of `gap_jax sweep`."""
    given = [word for text in over for word in ("--over", text)]
    given += ["--trials", str(trials), f"--config={SPEC}", "--out", str(out)]
    return [TUNE, *given, *words_of(data), *options]


class Scorer:
    """Gives runs a score instead of training them; `started` names their rows in order.

    Only three trials are drawn at random.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        score: Callable[[Cell], float] = lambda _: 0.5,
        code: Callable[[Cell], int] = lambda _: 0,
    ) -> None:
        self.started: list[str] = []
        self._score, self._code = score, code
        self._metrics: dict[Path, dict[str, Any]] = {}
        sampler = partial(optuna.samplers.TPESampler, n_startup_trials=3)
        patch.setattr(optuna.samplers, "TPESampler", sampler)
        patch.setattr(Cell, "read_metrics", lambda cell: self._metrics.get(cell.workdir))

    def __call__(
        self, cells: Sequence[Cell], *, more: Iterable[Cell] = ()
    ) -> Iterator[tuple[Cell, int]]:
        for cell in itertools.chain(cells, more):
            self.started.append(cell.row.name)
            code = self._code(cell)
            if not code:
                self._metrics[cell.workdir] = {"mAP": self._score(cell)}
            yield cell, code


def run(study: Study, count: int, runner: execute.Runner) -> tuple[int, list[str]]:
    """Runs a study; returns the exit code and the lines of its log."""
    lines: list[str] = []
    study.enter()
    return Search(study, count, runner, lines.append).run(), lines


def read_table(out: Path) -> list[dict[str, str]]:
    with (out / CSV).open(newline="") as file:
        return [*csv.DictReader(file)]


def main() -> int:
    """Runs the command of this process, whose runs are only recorded."""
    root = next(word for word in sys.argv if word.startswith("--config.data.root="))
    starts = itertools.count()

    def kill(_: Cell) -> int:
        if next(starts):
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    recorder = Recorder(manifest.load(Path(root.partition("=")[2])), code=kill)
    execute.run_children = lambda cells, *_, more=(), **__: recorder(cells, more=more)
    return cli.run_process("sweep")


if __name__ == "__main__":
    sys.exit(main())
