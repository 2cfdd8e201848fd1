"""An open run: what the loop works with, and what happens between two of its steps."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from clu.metrics import Collection

from data_pipelines import files, loader
from data_pipelines.example import HostBatch
from data_pipelines.manifest import Manifest
from data_pipelines.pictures.drawing import draw_batch
from gap_jax.config import Config
from gap_jax.errors import Diverged, Preempted
from gap_jax.evaluation import evaluate
from gap_jax.learning.setup import Setup
from gap_jax.learning.state import TrainState
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.gang.members import Gang
from gap_jax.runtime.places import RunDir
from gap_jax.runtime.preemption import Watch
from gap_jax.runtime.reporting.logger import RunLogger
from gap_jax.runtime.reporting.reporter import Reporter

MOST_SKIPPED_IN_ROW, MOST_SKIPPED = 3, 10


@dataclasses.dataclass
class Run:
    """`history` holds the numbers of every evaluation so far, by step."""

    cfg: Config
    data: Manifest
    setup: Setup
    folder: RunDir
    gang: Gang
    logger: RunLogger
    checkpoints: Checkpoints
    reporter: Reporter
    watch: Watch
    history: dict[int, dict[str, Any]]

    @property
    def own(self) -> RunDir:
        """Where this process keeps its own log and numbers."""
        return self.folder.of_process(self.gang.index)

    def micro_batches(self, start: int) -> loader.Batches:
        """This process's share of the endless micro-batches, from update `start` + 1 on."""
        train = self.cfg.train
        return loader.training_batches(
            self.cfg.data,
            self.data,
            seed=train.seed,
            batch_size=train.micro_batch_size,
            start_step=start * train.accumulate,
            process=self.gang.place,
        )

    def draw_first_batch(self, parts: Sequence[HostBatch]) -> None:
        """A picture of what is trained on, once in a run."""
        if self.gang.is_first and not self.folder.first_batch.exists():
            picture = draw_batch(parts[0], self.data.classes)
            files.write_atomically(self.folder.first_batch, picture)

    def report(self, step: int, metrics: Collection, ids: jax.Array) -> None:
        """Reports a step's numbers, and ends a run that only skips steps."""
        numbers = self.reporter.step(step, metrics, np.asarray(ids))
        in_row, in_all = int(numbers["skipped_in_row"]), int(numbers["skipped"])
        if in_row >= MOST_SKIPPED_IN_ROW or in_all >= MOST_SKIPPED:
            raise Diverged(
                f"{in_row} steps in a row and {in_all} in all had no finite loss or gradient, the "
                f"last of them step {step}; lower optim.learning_rate, set optim.clip_norm, or "
                "look at the records that were named"
            )

    def is_over(self, step: int) -> bool:
        """Whether no update follows the `step`-th: all are done, or evaluations gain no more."""
        patience = self.cfg.train.early_stop_evals
        return step == self.cfg.train.steps or (
            patience > 0 and self._evals_without_gain >= patience
        )

    @property
    def _evals_without_gain(self) -> int:
        scores = [numbers["mAP"] for numbers in self.history.values()]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    def is_due(self, step: int) -> bool:
        """Whether something happens after `step` updates but the next one."""
        return (
            step == self.cfg.train.steps
            or _divides(self.cfg.eval.every_steps, step)
            or _divides(self.cfg.checkpoint.every_steps, step)
            or self.watch.is_stopping()
        )

    def between(self, state: TrainState, step: int) -> None:
        """After `step` updates: evaluates and saves where that is due, and stops if told to."""
        is_due = self.is_over(step) or _divides(self.cfg.eval.every_steps, step)
        if is_due and step not in self.history:
            self._evaluate(state, step)
        stopping = self.watch.is_stopping()
        is_best = step in self.history and not self._evals_without_gain
        is_due = is_best or _divides(self.cfg.checkpoint.every_steps, step)
        if self.is_over(step) or stopping or is_due:
            with self.reporter.timing("save"):
                self.checkpoints.save(step, state, self._describe(step))
        if stopping and not (self.is_over(step) and step in self.history):
            self.checkpoints.finish(step)
            raise Preempted(
                f"stopped by {self.watch.cause} at step {step}; checkpoint {step} is verified; "
                "run the same command to continue"
            )

    def _evaluate(self, state: TrainState, step: int) -> None:
        """Scores the evaluation split; a run that is told to stop leaves that to its next start."""
        cfg = self.cfg
        with (
            self.reporter.timing("eval"),
            loader.evaluation_batches(
                cfg.data,
                self.data,
                batch_size=cfg.eval.batch_size,
                max_examples=cfg.eval.max_examples,
                process=self.gang.place,
            ) as batches,
        ):
            scores = evaluate.score(
                self.setup.eval_step,
                self.setup.fold(state.best_variables),
                batches,
                self.setup.mesh,
                self._is_stopping,
            )
        if scores is None:
            return
        protocol = evaluate.Protocol.of(cfg)
        summary = self.history[step] = evaluate.summarise(scores, protocol)
        if self.gang.is_first:
            place = self.folder.scores(cfg.data.eval_split, step)
            evaluate.store(place, scores, summary, self.data.classes, protocol)
        total, skipped = summary["classes"], summary["skipped_classes"]
        names = [name for name in ("mAP", "accuracy", "top5") if summary[name] is not None]
        self.reporter.evaluated(
            step,
            cfg.data.eval_split,
            {name: summary[name] for name in names},
            classes=f"{total - skipped}/{total}" if skipped else "",
            is_best=not self._evals_without_gain,
        )

    def _is_stopping(self) -> bool:
        if self.gang.last_beat is not None:  # the first step's compilation has a longer limit
            self.gang.beat()
        return self.watch.is_stopping()

    def _describe(self, step: int) -> dict[str, Any]:
        """What travels with a checkpoint."""
        return {
            "config": dataclasses.asdict(self.cfg),
            "classes": list(self.data.classes),
            "fingerprint": self.data.fingerprint,
            "metrics": self.history.get(step, {}),
            "history": list(self.history.items()),
            "window": self.reporter.dump_window(),
        }


def _divides(every_steps: int, step: int) -> bool:
    return every_steps > 0 and step % every_steps == 0
