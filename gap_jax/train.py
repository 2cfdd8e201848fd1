"""The training loop: read this first.

`train` opens the run's folder and restores or starts a state. `Trainer.loop` dispatches each step
and reports the previous one, so that the device never waits for the host. `Trainer.between`
evaluates, saves and stops. Several processes all run this code, each on its rows of every batch.
"""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from data_pipelines import loader, manifest
from data_pipelines.core import faults, files
from data_pipelines.core.errors import Preempted
from data_pipelines.pictures.drawing import draw_batch
from gap_jax.config import Config
from gap_jax.evaluation import evaluate
from gap_jax.learning import sharding
from gap_jax.learning.length import resolve_length
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.state import TrainState
from gap_jax.process import StopFlag
from gap_jax.runtime import environment, extraction, preemption, run_folder
from gap_jax.runtime.bucket import workdir as workdirs
from gap_jax.runtime.bucket.store import is_address
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.checkpoint_folders import rate
from gap_jax.runtime.extraction import StoredMaps
from gap_jax.runtime.preflight import Preflight, describe_memory
from gap_jax.runtime.processes import agreement
from gap_jax.runtime.processes.group import ALONE, Processes
from gap_jax.runtime.profiling import Profile
from gap_jax.runtime.reporting.logger import RunLogger
from gap_jax.runtime.reporting.reporter import Reporter
from gap_jax.runtime.reporting.writers import NullWriter, open_console
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.weights import named


def train(cfg: Config, workdir: Path | str, processes: Processes = ALONE) -> dict[str, Any]:
    """Trains to `cfg.train.steps`, from the start or from the last checkpoint in `workdir`.

    The workdir is a folder, or an address in a bucket. Returns the last evaluation.
    """
    data = manifest.load(cfg.data.directory)
    cfg = resolve_length(cfg, data)
    if cfg.runtime.compile_cache:
        jax.config.update("jax_compilation_cache_dir", cfg.runtime.compile_cache)
    agreement.check_same_settings(processes, cfg, data, str(workdir))
    setup = assemble(cfg, data)
    with (
        preemption.catching_signals() as stop_flag,
        workdirs.open_for_writing(str(workdir), processes) as opened,
        ExitStack() as lock_held,
    ):
        folder = RunFolder(opened.folder.absolute())

        def enter() -> run_folder.Opening:
            lock_held.enter_context(run_folder.acquire_lock(folder.root, print))
            return run_folder.enter(folder.root, cfg, data, environment.describe_environment())

        if processes.broadcast(
            "examined", lambda: run_folder.examine(folder.root, cfg, data).is_new
        ):
            named.resolve_weights(cfg.init)  # refuses absent weights before anything is written
        if not is_address(str(workdir)):
            agreement.check_shared_folder(processes, folder.root)
        opening = run_folder.Opening(*processes.broadcast("entered", enter))
        if opening.completed_step is None:
            return _train_on(setup, folder, opened, processes, stop_flag, opening)
        if processes.is_first:
            print(opened.display(f"{folder.root} is complete at step {opening.completed_step:,}"))
        return opening.metrics or {}


def _train_on(
    setup: Setup,
    folder: RunFolder,
    workdir: workdirs.Workdir,
    processes: Processes,
    stop_flag: StopFlag,
    opening: run_folder.Opening,
) -> dict[str, Any]:
    """Trains from the newest checkpoint, or the start, to the end; returns the last evaluation."""
    cfg, own = setup.cfg, folder.of_process(processes.index)
    open_writer = open_console if processes.is_first else NullWriter
    with (
        RunLogger(own, open_writer, workdir.display) as logger,
        Checkpoints(
            folder.checkpoints,
            warn=logger.warning,
            keep=cfg.checkpoint.keep,
            run_id=opening.run_id,
            processes=processes,
            before_commit=workdir.upload,
        ) as checkpoints,
    ):
        state, metadata, loaded = _restore_or_start(setup, checkpoints, logger)
        start = int(state.step)
        if opening.lost_step is not None:
            logger.warning(
                f"the run was complete at step {opening.lost_step:,}, but that checkpoint is no "
                f"longer usable; training goes on from step {start:,}"
            )
        with Reporter(
            logger,
            own,
            cfg,
            setup.data,
            start_step=start,
            devices=setup.mesh.size,
            weights_loaded=start > 0 or bool(loaded),
            window=metadata.get("window", {}),
            trackers=None if processes.is_first else {},
        ) as reporter:
            maps = extraction.find_maps(
                setup, state.variables, folder, processes, logger.info, stop_flag.is_stopping
            )
            root = workdir.display(str(folder.root))
            preflight = Preflight(setup, root, start, opening.changes, loaded).render()
            if processes.is_first:
                files.write_atomically(folder.preflight, preflight + "\n")
            logger.info(preflight)
            past = dict(metadata.get("history", ()))
            parts = setup, folder, processes, stop_flag, checkpoints, reporter
            trainer = Trainer(*parts, history=past, maps=maps)
            last = trainer.loop(state)
        if last < cfg.train.steps:
            logger.info(
                f"stopped early at step {last:,}: {cfg.train.early_stop_evals} evaluations in "
                "a row gained nothing (train.early_stop_evals)"
            )
    if processes.is_first:
        run_folder.complete(folder, last)
    return past[last]


def _restore_or_start(
    setup: Setup, checkpoints: Checkpoints, logger: RunLogger
) -> tuple[TrainState, dict[str, Any], tuple[str, ...]]:
    """Returns the newest good state and its metadata, or a fresh state and its loaded parts."""
    if restored := checkpoints.resume(setup.target):
        return restored.state, restored.metadata, ()
    cfg = setup.cfg
    variables = setup.initial_variables()
    variables, loaded = named.load_start(cfg.init, variables, cfg.model, logger.info)
    return setup.start(variables), {}, loaded


@dataclasses.dataclass
class Trainer:
    """The loop of an open run; `history` holds the numbers of every evaluation so far, by step."""

    setup: Setup
    folder: RunFolder
    processes: Processes
    stop_flag: StopFlag
    checkpoints: Checkpoints
    reporter: Reporter
    history: dict[int, dict[str, Any]]
    maps: StoredMaps | None = None

    def loop(self, state: TrainState) -> int:
        """Makes the remaining updates and reports each once, in order; returns the last step."""
        setup, reporter, start = self.setup, self.reporter, int(state.step)
        cfg, step = setup.cfg, start
        if start:
            self.between(state, start)  # an earlier stop may have prevented the evaluation
        own = self.folder.of_process(self.processes.index)
        profile = Profile(cfg.runtime, own.profile, reporter.logger.warning)
        with loader.training_batches(
            cfg.data,
            setup.data,
            seed=cfg.train.seed,
            batch_size=cfg.train.micro_batch_size,
            start_step=start * cfg.train.accumulate,
            process=self.processes.index_and_count,
            maps=self.maps.training if self.maps else None,
            clip=cfg.model.frames,
            with_people=cfg.reads_boxes,
        ) as batches, profile:  # fmt: skip
            train_step, unreported = None, None
            while not self._is_over(step):
                step += 1
                faults.point("train.step")
                profile.before(step, state)
                with reporter.timing("data"):
                    micro_batches = [next(batches) for _ in range(cfg.train.accumulate)]
                batch = sharding.globalise(micro_batches, setup.mesh)
                if train_step is None:
                    if self.processes.is_first and self._draws_first_batch():
                        picture = draw_batch(micro_batches[0], setup.data.classes)
                        files.write_atomically(self.folder.first_batch, picture)
                    with reporter.timing("compile"):
                        train_step = setup.train_step.lower(state, batch).compile()
                    reporter.logger.info(describe_memory(train_step))
                ids = sharding.gather_ids(batch, setup.mesh)
                state, metrics = train_step(state, batch)
                profile.after(step, state)
                if unreported:
                    reporter.step(*unreported)
                unreported = step, metrics, ids
                if self._is_due(step):
                    reporter.step(*unreported)
                    unreported = None
                    self.between(state, step)
                self.checkpoints.check()
                self.processes.heartbeat()
        self.checkpoints.finish(step)
        return step

    def _draws_first_batch(self) -> bool:
        """Whether the first batch is drawn; maps of a backbone are no pictures."""
        return self.maps is None and not self.folder.first_batch.exists()

    def between(self, state: TrainState, step: int) -> None:
        """After `step` updates evaluates and saves if due, and stops if the stop flag is set."""
        cfg, is_over = self.setup.cfg, self._is_over(step)
        if step not in self.history and (is_over or _divides(cfg.eval.every_steps, step)):
            self._evaluate(state, step)
        is_over, is_stopping = self._is_over(step), self.stop_flag.is_stopping()
        is_best = step in self.history and not self._evals_without_gain
        if is_over or is_stopping or is_best or _divides(cfg.checkpoint.every_steps, step):
            with self.reporter.timing("save"):
                self.checkpoints.save(step, state, self._describe(step))
        if is_stopping and not (is_over and step in self.history):
            self.checkpoints.finish(step)
            raise Preempted(
                f"stopped by {self.stop_flag.cause} at step {step}; checkpoint {step} is verified; "
                "run the same command to continue"
            )

    def _is_over(self, step: int) -> bool:
        """Whether step `step` is the last: all are done, or evaluations gain no more."""
        train = self.setup.cfg.train
        patience = train.early_stop_evals
        return step == train.steps or 0 < patience <= self._evals_without_gain

    @property
    def _evals_without_gain(self) -> int:
        scores = [rate(numbers) for numbers in self.history.values()]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    def _is_due(self, step: int) -> bool:
        """Whether the loop evaluates, saves or stops before the next update."""
        cfg = self.setup.cfg
        return (
            step == cfg.train.steps
            or _divides(cfg.eval.every_steps, step)
            or _divides(cfg.checkpoint.every_steps, step)
            or self.stop_flag.is_stopping()
        )

    def _evaluate(self, state: TrainState, step: int) -> None:
        """Scores the evaluated images, unless the run is stopping: then its next start does."""
        setup, split = self.setup, self.setup.cfg.data.scored_split
        with self.reporter.timing("eval"):
            scores = evaluate.score_split(
                setup.cfg,
                setup.data,
                setup.eval_step,
                setup.fold(state.best_variables),
                setup.mesh,
                process=self.processes.index_and_count,
                max_examples=setup.cfg.eval.max_examples,
                is_stopping=self._is_stopping,
                maps=self.maps.evaluation if self.maps else None,
            )
        if scores is None:
            return
        protocol = evaluate.Protocol.of(setup.cfg)
        summary = self.history[step] = evaluate.summarise(scores, protocol)
        if self.processes.is_first:
            folder = self.folder.scores(split, step)
            evaluate.store(folder, scores, summary, setup.data.classes, protocol)
        self.reporter.evaluated(step, split, summary, is_best=not self._evals_without_gain)

    def _is_stopping(self) -> bool:
        if not self.processes.is_starting:  # compiling the first step may take longer
            self.processes.heartbeat()
        return self.stop_flag.is_stopping()

    def _describe(self, step: int) -> dict[str, Any]:
        """Returns the metadata of a checkpoint."""
        return {
            "config": dataclasses.asdict(self.setup.cfg),
            "classes": list(self.setup.data.classes),
            "fingerprint": self.setup.data.fingerprint,
            "label_kind": self.setup.data.label_kind,
            "metrics": self.history.get(step, {}),
            "history": list(self.history.items()),
            "window": self.reporter.dump_window(),
        }


def _divides(every_steps: int, step: int) -> bool:
    return every_steps > 0 and step % every_steps == 0
