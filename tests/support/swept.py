"""Sweeps of tiny people, whose runs are trained in this process or only recorded.

python -m tests.support.swept WORDS      `gap_jax sweep WORDS` whose runs train in one process
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import manifest
from data_pipelines.loader import split_held_out
from data_pipelines.manifest import Manifest
from gap_jax import cli
from gap_jax.evaluation import evaluate
from gap_jax.runtime import run_folder
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.sweep import execute
from gap_jax.sweep.plan import Cell, Plan
from gap_jax.sweep.rows import choose_rows, make_rates, make_rows, parse_over
from gap_jax.train import train
from tests.support.reported_runs import draw_scores
from tests.support.tiny_data import CLASSES

SPEC = "gap_pose:demo"
SMALL = (
    "data.image_size_px=32", "data.short_side_px=36", "model.stage=2", "model.widths=(8,4)",
    "pose.hidden=(6,)", "init.weights=", "init.allow_random=true", "train.batch_size=8",
    "train.steps=3", "eval.batch_size=8", "optim.warmup_steps=1",
)  # fmt: skip
SIZES = {"train": 15, "val": 6, "test": 0}


def words_of(data: Path, *fields: str) -> list[str]:
    chosen = {each.partition("=")[0]: each for each in (*SMALL, f"data.root={data}", *fields)}
    return [f"--config.{each}" for each in chosen.values()]


def make_plan(
    data: Path,
    out: Path,
    kind: str = "table1",
    *fields: str,
    spec: str = SPEC,
    over: Sequence[str] = (),
    rates: Sequence[float] = (),
    seeds: int = 2,
    names: Sequence[str] = (),
) -> Plan:
    stated = manifest.load(data)
    rows = make_rows(kind, spec, words_of(data, *fields), stated, [parse_over(x) for x in over])
    by_row = {row.name: make_rates(row, rates) for row in rows}
    chosen, left_out = choose_rows(rows, names)
    return Plan(kind, out, chosen, by_row, seeds, 0.2, stated, left_out)


def train_here(
    cells: Sequence[Cell], *, more: Iterable[Cell] = (), **_: Any
) -> Iterator[tuple[Cell, int]]:
    """Trains one run after the other in this process."""
    for cell in itertools.chain(cells, more):
        train(cell.cfg, cell.workdir)
        yield cell, 0


def record(cell: Cell, data: Manifest, skill: float) -> None:
    """Writes a complete run with random scores, better with more `skill`."""
    cfg, run = cell.cfg, RunFolder(cell.workdir)
    run_folder.enter(run.root, cfg, data, {"command": "python -m gap_jax.main"})
    images = np.arange(data.splits[cfg.data.eval_split].examples)
    if cell.is_search:
        _, held = split_held_out(cfg.data, data.splits[cfg.data.train_split].examples)
        images = np.array(held)
    labels = (images % len(CLASSES)).astype(np.int32)
    scores = draw_scores(labels, len(CLASSES), skill=skill, seed=cfg.train.seed)
    scores = scores._replace(ids=images)
    summary = evaluate.summarise(scores, resamples=20)
    folder = run.scores(cfg.data.scored_split, cfg.train.steps)
    evaluate.store(folder, scores, summary, data.classes)
    run_folder.complete(run, cfg.train.steps)


class Recorder:
    """Records runs instead of training them; `started` lists their labels in order."""

    def __init__(
        self,
        data: Manifest,
        skill: Callable[[Cell], float] = lambda _: 1.0,
        code: Callable[[Cell], int] = lambda _: 0,
    ) -> None:
        self.started: list[str] = []
        self._data, self._skill, self._code = data, skill, code

    def __call__(
        self, cells: Sequence[Cell], *, more: Iterable[Cell] = ()
    ) -> Iterator[tuple[Cell, int]]:
        for cell in itertools.chain(cells, more):
            self.started.append(cell.label)
            code = self._code(cell)
            if not code:
                record(cell, self._data, self._skill(cell))
            yield cell, code


def main() -> int:
    """Runs the command of this process; its runs are not child processes."""
    execute.run_children = train_here
    return cli.run_process("sweep")


if __name__ == "__main__":
    sys.exit(main())
