"""Reports the numbers of a run to metrics.jsonl and trackers, and of every step to steps.jsonl."""

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu.metrics import Collection
from jaxtyping import Int

from data_pipelines.core.errors import Diverged
from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.learning.steps import TrainMetrics
from gap_jax.runtime.reporting.baseline import BaselineCheck, compute_baseline, remedies
from gap_jax.runtime.reporting.forecast import forecast
from gap_jax.runtime.reporting.jsonl import JsonlWriter, cut_after
from gap_jax.runtime.reporting.logger import RunLogger
from gap_jax.runtime.reporting.progress import Pace, Progress, number
from gap_jax.runtime.reporting.writers import Background, Row, TensorBoardWriter, Writer
from gap_jax.runtime.run_folder import RunFolder

NAMES = {"learning_rate": "lr"}
SCORES = ("mAP", "accuracy", "top5")
NAMED_IDS = 8
MOST_SKIPPED_IN_ROW, MOST_SKIPPED = 3, 10


class Reporter(AbstractContextManager["Reporter"]):
    """Reports a run from `start_step` on; drops the later rows of earlier attempts.

    With the `window` that `dump_window` returned there, the next row is that of an unbroken run.
    `trackers` opens writers by name, by default TensorBoard's, which get each row of metrics.jsonl.
    """

    def __init__(
        self,
        logger: RunLogger,
        run: RunFolder,
        cfg: Config,
        data: Manifest,
        *,
        start_step: int = 0,
        devices: int = 1,
        weights_loaded: bool = False,
        window: Mapping[str, str] = {},
        clock: Callable[[], float] = time.monotonic,
        trackers: Mapping[str, Callable[[], Writer[Row]]] | None = None,
    ) -> None:
        self.logger = logger
        self._train = cfg.train
        self._forecast = partial(forecast, cfg, data)
        self._devices = devices
        self._pace = Pace(clock)
        self.timing = self._pace.timing
        split = data.find_split(cfg.data.train_split)
        self._images = cfg.data.count_trained(split.examples)
        baseline = compute_baseline(split, data.label_kind, cfg.train)
        self._baseline = BaselineCheck(baseline, cfg.train)
        self._remedies = remedies(cfg, split, weights_loaded=weights_loaded)
        self._window = _restore_window(window)
        self._row: Row = {}
        self._cut(run.metrics, start_step)
        lost = start_step - self._cut(run.step_log, start_step)
        if lost > 0:
            logger.warning(
                f"{run.step_log.name} lacks {lost:,} of the {start_step:,} steps before this start"
            )
        board = partial(TensorBoardWriter, run.tensorboard, start_step)
        trackers = {"TensorBoard writer": board} if trackers is None else trackers
        self._step_log = JsonlWriter(run.step_log, logger.warning)
        self._writers: list[Writer[Row]] = [
            JsonlWriter(run.metrics, logger.warning),
            *(Background(name, open_, logger.warning) for name, open_ in trackers.items()),
        ]

    def step(self, step: int, metrics: Collection, ids: jax.Array | Int[np.ndarray, "*b"]) -> None:
        """Reports the `step`-th update with its record ids; ends a run that only skips steps."""
        # in float64 the sums over a window are exact, whatever their order
        metrics = jax.tree.map(np.float64, jax.device_get(metrics))
        ids = np.ascontiguousarray(ids, "<i8")
        values = {name: float(value) for name, value in metrics.compute().items()}
        digest = hashlib.sha256(ids.tobytes()).hexdigest()
        row = {"step": step, "loss_hex": values["loss"].hex(), "ids_sha256": digest}
        self._step_log.write(row)
        self._window = self._window.merge(metrics) if self._window else metrics
        self._pace.count_step()
        in_row, in_all = int(values["skipped_in_row"]), int(values["skipped"])
        if not values["finite"]:
            named = ", ".join(str(each) for each in ids.ravel()[:NAMED_IDS])
            self.logger.warning(
                f"step {step:,} changed nothing: its loss {values['loss']:g} or gradient norm "
                f"{values['grad_norm']:g} is not finite ({in_row} in a row, {in_all} in all); "
                f"its records begin with {named}"
            )
        if warning := self._baseline.observe(step, values["loss_action"], values["accuracy"]):
            self.logger.warning(f"{warning}; try {', or '.join(self._remedies)}")
        is_due = step % self._train.log_every_steps == 0 or step == self._train.steps
        if is_due:
            self._row = self._end_window(step, self._window)
            self._write(self._row)
        if pace := self._pace.seconds_per_step():
            self.logger.info(self._forecast(step, pace))
        eta_s = self._pace.eta_s(self._train.steps - step)
        self.logger.progress(Progress(step, self._train.steps, self._row, eta_s, is_due))
        if in_row >= MOST_SKIPPED_IN_ROW or in_all >= MOST_SKIPPED:
            raise Diverged(
                f"{in_row} steps in a row and {in_all} in all had no finite loss or gradient, the "
                f"last of them step {step}; lower optim.learning_rate, set optim.clip_norm, or "
                "look at the records that were named"
            )

    def evaluated(
        self, step: int, split: str, summary: Mapping[str, Any], *, is_best: bool = False
    ) -> None:
        """Reports an evaluation after `step` updates; classes=5/8 if its mAP is over 5 of 8."""
        values = {name: float(summary[name]) for name in SCORES if summary.get(name) is not None}
        exact = {name: value.hex() for name, value in values.items()}
        self._step_log.write({"step": step, split: exact})
        self._write({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})
        texts = [f"{name}={number(value)}" for name, value in values.items()]
        total, skipped = summary["classes"], summary["skipped_classes"]
        texts += [f"classes={total - skipped}/{total}"] * bool(skipped) + ["best"] * is_best
        self.logger.info(" ".join([f"{split} step={step}/{self._train.steps}", *texts]))

    def dump_window(self) -> dict[str, str]:
        """Returns the exact metrics of the steps since the last row, for a checkpoint."""
        leaves = jax.tree.leaves_with_path(self._window)
        return {jax.tree_util.keystr(path): leaf.hex() for path, leaf in leaves}

    def __exit__(self, *error: object) -> None:
        """Logs where the time went and closes every writer."""
        self.logger.info(self._pace.summary())
        for writer in (*self._writers, self._step_log):
            writer.close()

    def _cut(self, path: Path, step: int) -> int:
        """Drops rows beyond a step, and damaged ones; returns how many steps still have a row."""
        cut = cut_after(path, step)
        if cut.beyond:
            self.logger.info(f"{path.name}: dropped {cut.beyond:,} rows beyond step {step:,}")
        if cut.damaged:
            self.logger.info(f"{path.name}: dropped {cut.damaged:,} damaged rows")
        return cut.steps

    def _end_window(self, step: int, window: Collection) -> Row:
        """Makes a row of the metrics since the last row, which are those of `steps` steps."""
        loss: Any = vars(window)["loss"]
        row = {
            "step": step,
            "steps": int(loss.count),
            "train/epoch": step * self._train.batch_size / max(self._images, 1),
            **{
                f"train/{NAMES.get(name, name)}": float(value)
                for name, value in window.compute().items()
            },
            **self._pace.end_lap(self._train.batch_size, self._devices),
        }
        self._window = None
        return row

    def _write(self, row: Row) -> None:
        for writer in self._writers:
            writer.write(row)


def _restore_window(saved: Mapping[str, str]) -> Collection | None:
    """Restores a dumped window; None if another version of gap_jax saved it."""
    leaves, structure = jax.tree.flatten_with_path(TrainMetrics.empty())
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    if saved.keys() != set(names):
        return None
    return jax.tree.unflatten(structure, [np.float64(float.fromhex(saved[n])) for n in names])
