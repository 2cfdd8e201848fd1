"""Reports runs of a few made-up steps, to writers that keep their items and can fail or hang."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu.metrics import Collection

from data_pipelines.manifest import Manifest, Split
from gap_jax.config import Config
from gap_jax.learning.steps import TrainMetrics
from gap_jax.runtime.reporting.logger import RunLogger
from gap_jax.runtime.reporting.reporter import Reporter
from gap_jax.runtime.run_folder import RunFolder

STEPS, BATCH = 20, 4
METRICS = {
    "loss": 1.5, "loss_action": 1.25, "loss_pose": 0.25, "accuracy": 0.75, "grad_norm": 2.0,
    "learning_rate": 1e-3, "finite": 1.0, "skipped_in_row": 0.0, "skipped": 0.0,
}  # fmt: skip


def config(**values: Any) -> Config:
    cfg = Config()
    cfg.train.steps, cfg.train.batch_size, cfg.train.accumulate = STEPS, BATCH, 1
    cfg.train.log_every_steps = 5
    for name, value in values.items():
        group, _, field = name.partition("__")
        setattr(getattr(cfg, group), field, value)
    return cfg.resolved()


def people(counts: tuple[int, ...] = (5, 5), kind: Any = "single") -> Manifest:
    split = Split(sum(counts), sum(counts), sum(counts), counts, "", ())
    return Manifest("people", kind, tuple(map(str, counts)), 1, {"train": split, "val": split}, {})


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A writer that keeps its items, and can fail or hang."""

    def __init__(self, error: Exception | None = None, gate: threading.Event | None = None) -> None:
        self.items: list[Any] = []
        self.error, self.gate, self.is_closed = error, gate, False

    def __call__(self) -> "Recorder":
        return self

    def write(self, item: Any) -> None:
        if self.gate:
            self.gate.wait()
        if self.error and self.items:
            raise self.error
        self.items.append(item)

    def close(self) -> None:
        self.is_closed = True

    @property
    def text(self) -> str:
        return "\n".join(each for each in self.items if isinstance(each, str))


@jax.jit
def metrics_of(numbers: dict[str, float]) -> Collection:
    return TrainMetrics.single_from_model_output(**numbers)


def ids_of(step: int) -> np.ndarray:
    return np.arange(BATCH, dtype=np.int64) + 100 * step


def train(
    folder: Path,
    first: int = 1,
    last: int = STEPS,
    *,
    console: Recorder | None = None,
    board: Recorder | None = None,
    cfg: Config | None = None,
    clock: Clock | None = None,
    data: Manifest | None = None,
    changes: Mapping[int, Mapping[str, float]] = {},
    windows: dict[int, Any] | None = None,
) -> RunFolder:
    """Steps `first`..`last` of 1 s each, 0.25 s of which wait for data, and 3 s of compiling.

    `windows` is what checkpoints keep of each step's window.
    """
    windows = {} if windows is None else windows
    run, clock = RunFolder(folder), clock or Clock()
    with (
        RunLogger(run, console or Recorder()) as logger,
        Reporter(
            logger, run, cfg or config(), data or people(), start_step=first - 1, devices=2,
            clock=clock, trackers={"TensorBoard writer": board or Recorder()},
            window=windows.get(first - 1, {}),
        ) as reporter,
    ):  # fmt: skip
        with reporter.timing("compile"):
            clock.now += 3
        for step in range(first, last + 1):
            with reporter.timing("data"):
                clock.now += 0.25
            clock.now += 0.75
            numbers = {**METRICS, "loss": 1 / step, **changes.get(step, {})}
            reporter.step(step, metrics_of(numbers), ids_of(step))
            windows[step] = json.loads(json.dumps(reporter.dump_window(), allow_nan=False))
            if step % 10 == 0:
                with reporter.timing("eval"):
                    clock.now += 2
                scores = {"mAP": 0.1 * step / 10, "accuracy": 1 / 3, "top5": None}
                reporter.evaluated(step, "val", {**scores, "classes": 8, "skipped_classes": 0})
    return run


def rows(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [
        json.loads(line, parse_constant=refuse) for line in path.read_text("utf-8").splitlines()
    ]
