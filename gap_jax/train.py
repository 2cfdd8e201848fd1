"""The one loop: read this first.

`train` opens the run's folder and restores or starts a state; `_loop` moves it step by step. A
step's metrics are read one step late, so that the device never waits for the host. What happens
between two steps (evaluate, save, stop) happens in `_Run.between`.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines import files, loader, manifest
from data_pipelines.example import HostBatch
from data_pipelines.manifest import Manifest
from data_pipelines.pictures.drawing import draw_batch
from gap_jax.config import Config
from gap_jax.errors import Diverged, Preempted
from gap_jax.evaluation import evaluate
from gap_jax.learning import sharding
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.state import TrainState, Variables
from gap_jax.learning.steps import Metrics
from gap_jax.runtime import environment, lock, preemption, rundir
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.preflight import ParameterGroup, Preflight, describe_memory, render
from gap_jax.runtime.profiling import Profile
from gap_jax.runtime.reporting.reporter import Announcer, Reporter
from gap_jax.weights import native

MOST_SKIPPED_IN_ROW, MOST_SKIPPED = 3, 10


def train(cfg: Config, workdir: Path) -> None:
    """Trains to `cfg.train.steps` from scratch, or from where an earlier start in `workdir` was."""
    data = manifest.load(cfg.data.directory)
    if cfg.runtime.compile_cache:
        jax.config.update("jax_compilation_cache_dir", cfg.runtime.compile_cache)
    setup = assemble(cfg, data)
    opening = rundir.examine(workdir, cfg, data)
    if opening.is_new:
        native.resolve_weights(cfg.init)  # refused here if absent, before anything is written
    folder = opening.run
    with preemption.watching() as watch, lock.hold(folder.root, print):
        opening = rundir.enter(workdir, cfg, data, environment.describe_environment())
        if opening.completed_step is not None:
            print(f"{folder.root} is complete at step {opening.completed_step:,}")
            return
        with (
            Announcer(folder) as announcer,
            Checkpoints(
                folder.checkpoints, warn=announcer.warn, keep=cfg.checkpoint.keep
            ) as checkpoints,
        ):
            state, history, groups = _open_state(setup, checkpoints, announcer)
            start = int(state.step)
            weights_loaded = start > 0 or any(group.loaded for group in groups)
            with Reporter(
                announcer,
                folder,
                cfg,
                data,
                start_step=start,
                devices=setup.mesh.size,
                weights_loaded=weights_loaded,
            ) as reporter:
                run = _Run(
                    cfg, data, setup, folder, announcer, checkpoints, reporter, watch, history
                )
                text = _preflight(run, start, tuple(opening.changes), groups)
                announcer.say(text)
                last = _loop(run, state, start)
            if last < cfg.train.steps:
                announcer.say(
                    f"stopped early at step {last:,}: {cfg.train.early_stop_evals} evaluations in "
                    "a row gained nothing (train.early_stop_evals)"
                )
        rundir.complete(folder, last)
        print(json.dumps(run.history[last], allow_nan=False))


def _loop(run: "_Run", state: TrainState, start: int) -> int:
    """Makes the updates from `start` + 1 on, reports each once and in order; gives the last."""
    setup, reporter, step = run.setup, run.reporter, start
    if start:
        run.between(state, start)  # an evaluation that a stop prevented
    profile = Profile(run.cfg.runtime, run.folder.profile, run.announcer.warn)
    with _micro_batches(run, start) as batches, profile:
        train_step, unreported = None, None
        while not run.is_over(step):
            step += 1
            profile.before(step, state)
            with reporter.timing("data"):
                parts = [next(batches) for _ in range(run.cfg.train.accumulate)]
            batch = sharding.globalise(parts, setup.mesh)
            if train_step is None:
                _draw_first_batch(run, parts)
                with reporter.timing("compile"):
                    train_step = setup.train_step.lower(state, batch).compile()
                run.announcer.say(describe_memory(train_step))
            state, metrics = train_step(state, batch)
            profile.after(step, state)
            if unreported:
                run.report(*unreported)
            unreported = step, metrics, np.concatenate([part.id for part in parts])
            if run.is_due(step):
                run.report(*unreported)
                unreported = None
                run.between(state, step)
            run.checkpoints.check()
    run.checkpoints.finish(step)
    return step


@dataclasses.dataclass
class _Run:
    """An open run: what the loop works with, and what it does between two steps.

    `history` holds the numbers of every evaluation so far, by step.
    """

    cfg: Config
    data: Manifest
    setup: Setup
    folder: rundir.RunDir
    announcer: Announcer
    checkpoints: Checkpoints
    reporter: Reporter
    watch: preemption.Watch
    history: dict[int, dict[str, Any]]

    def report(self, step: int, metrics: Metrics, ids: np.ndarray) -> None:
        """Tells a step's numbers, and ends a run that only skips steps."""
        self.reporter.step(step, metrics._asdict(), ids)
        in_row, in_all = int(metrics.skipped_in_row), int(metrics.skipped)
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
            or self.watch.is_stopping(step)
        )

    def between(self, state: TrainState, step: int) -> None:
        """After `step` updates: evaluates and saves where that is due, and stops if told to."""
        is_last = step == self.cfg.train.steps
        if (is_last or _divides(self.cfg.eval.every_steps, step)) and step not in self.history:
            self._evaluate(state, step)
        stopping = self.watch.is_stopping(step)
        is_best = step in self.history and not self._evals_without_gain
        is_due = is_best or _divides(self.cfg.checkpoint.every_steps, step)
        if self.is_over(step) or stopping or is_due:
            with self.reporter.timing("save"):
                self.checkpoints.save(step, state, self._facts(step))
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
            ) as batches,
        ):
            scores = evaluate.score(
                self.setup.eval_step,
                self.setup.fold(state.best_variables),
                batches,
                self.setup.mesh,
                lambda: self.watch.is_stopping(step),
            )
        if scores is None:
            return
        protocol = evaluate.Protocol.of(cfg)
        summary = self.history[step] = evaluate.summarise(scores, protocol)
        place = self.folder.scores(cfg.data.eval_split, step)
        evaluate.store(place, scores, summary, self.data.classes, protocol)
        names = [name for name in ("mAP", "accuracy", "top5") if summary[name] is not None]
        self.reporter.evaluated(
            step,
            cfg.data.eval_split,
            {name: summary[name] for name in names},
            is_best=not self._evals_without_gain,
        )

    def _facts(self, step: int) -> dict[str, Any]:
        """What travels with a checkpoint."""
        return {
            "config": dataclasses.asdict(self.cfg),
            "classes": list(self.data.classes),
            "fingerprint": self.data.fingerprint,
            "metrics": self.history.get(step, {}),
            "history": list(self.history.items()),
        }


def _divides(every_steps: int, step: int) -> bool:
    return every_steps > 0 and step % every_steps == 0


def _micro_batches(run: _Run, start: int) -> loader.Batches:
    """The run's endless micro-batches, from those of update `start` + 1 on."""
    train = run.cfg.train
    return loader.training_batches(
        run.cfg.data,
        run.data,
        seed=train.seed,
        batch_size=train.micro_batch_size,
        start_step=start * train.accumulate,
    )


def _draw_first_batch(run: _Run, parts: Sequence[HostBatch]) -> None:
    if not run.folder.first_batch.exists():
        picture = draw_batch(parts[0], run.data.classes)
        files.write_atomically(run.folder.first_batch, picture)


def _open_state(
    setup: Setup, checkpoints: Checkpoints, announcer: Announcer
) -> tuple[TrainState, dict[int, dict[str, Any]], tuple[ParameterGroup, ...]]:
    """The newest good state and the evaluations up to it, or a fresh one from `init.weights`."""
    restored = checkpoints.resume(setup.target)
    if restored is not None:
        groups = _count_parameters(restored.state.variables, loaded=())
        return restored.state, dict(restored.facts["history"]), groups
    variables = setup.initial_variables()
    source = native.resolve_weights(setup.cfg.init, announcer.warn)
    loaded: tuple[str, ...] = ()
    if source is not None:
        variables, report = native.load_backbone(
            source, variables, setup.cfg.model, setup.cfg.init.parts
        )
        announcer.say(str(report))
        loaded = report.whole_parts
    return setup.start(variables), {}, _count_parameters(variables, loaded)


def _count_parameters(variables: Variables, loaded: Sequence[str]) -> tuple[ParameterGroup, ...]:
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in variables.params.items()
    }
    return tuple(
        ParameterGroup(name, size, size if name in loaded else 0) for name, size in sizes.items()
    )


def _preflight(
    run: _Run, start: int, changes: tuple[str, ...], groups: tuple[ParameterGroup, ...]
) -> str:
    text = render(
        Preflight(
            cfg=run.cfg,
            data=run.data,
            workdir=run.folder.root,
            resumed_step=start,
            changes=changes,
            devices=run.setup.mesh.size,
            device_kind=jax.devices()[0].device_kind,
            groups=groups,
            pose_cells=run.setup.map_size(),
            first_batch=run.folder.first_batch,
        )
    )
    files.write_atomically(run.folder.preflight, text + "\n")
    return text
