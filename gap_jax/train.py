"""The one loop: read this first.

`train` opens the run's folder and restores or starts a state; `_loop` moves it step by step. A
step's metrics are read one step late, so that the device never waits for the host. What happens
between two steps (evaluate, save, stop) happens in `Run.between`. Of several processes every one
runs all of this on its share of each batch, and the first one alone speaks and writes.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from data_pipelines import faults, files, manifest
from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.learning import sharding
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.state import TrainState, count_parameters
from gap_jax.run import Run
from gap_jax.runtime import environment, lock, preemption, rundir
from gap_jax.runtime.bucket import workdir as workdirs
from gap_jax.runtime.bucket.store import is_address
from gap_jax.runtime.bucket.workdir import Workdir
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.gang import agreement
from gap_jax.runtime.gang.members import ALONE, Gang
from gap_jax.runtime.places import RunDir
from gap_jax.runtime.preemption import Watch
from gap_jax.runtime.preflight import Preflight, describe_memory, render
from gap_jax.runtime.profiling import Profile
from gap_jax.runtime.reporting.logger import RunLogger
from gap_jax.runtime.reporting.reporter import Reporter
from gap_jax.runtime.reporting.writers import NullWriter, open_console
from gap_jax.runtime.rundir import Opening
from gap_jax.weights import native


def train(cfg: Config, workdir: Path | str, gang: Gang = ALONE) -> str:
    """Trains to `cfg.train.steps` from scratch, or from where an earlier start in `workdir` was.

    That is a folder, or the address of one in a bucket. Gives the JSON line of the last evaluation.
    """
    place = str(workdir)
    data = manifest.load(cfg.data.directory)
    if cfg.runtime.compile_cache:
        jax.config.update("jax_compilation_cache_dir", cfg.runtime.compile_cache)
    agreement.agree(gang, cfg, data, place if is_address(place) else "")
    setup = assemble(cfg, data)
    with preemption.watching() as watch, workdirs.open_for_writing(place, gang) as opened:
        return opened.tell(_train_in(opened, setup, data, gang, watch))


def _train_in(place: Workdir, setup: Setup, data: Manifest, gang: Gang, watch: Watch) -> str:
    """Opens the run in its folder, ends it, and gives the JSON line of its last evaluation."""
    cfg, folder = setup.cfg, RunDir(place.folder.absolute())
    if Opening(*gang.share("examined", lambda: rundir.examine(folder.root, cfg, data))).is_new:
        native.resolve_weights(cfg.init)  # refused here if absent, before anything is written
    if not place.address:
        agreement.prove_shared(gang, folder.root)
    with ExitStack() as held:
        gang.share("locked", lambda: _hold(folder, held))
        machine = environment.describe_environment()
        opening = Opening(
            *gang.share("entered", lambda: rundir.enter(folder.root, cfg, data, machine))
        )
        if opening.completed_step is None:
            metrics = _go_on(setup, data, place, gang, watch, opening)
        else:
            metrics = opening.metrics
            if gang.is_first:
                print(place.tell(f"{folder.root} is complete at step {opening.completed_step:,}"))
        return json.dumps(metrics, allow_nan=False)


def _go_on(
    setup: Setup, data: Manifest, place: Workdir, gang: Gang, watch: Watch, opening: Opening
) -> dict[str, Any]:
    """From the newest checkpoint, or the start, to the end; gives the last evaluation."""
    cfg, folder = setup.cfg, RunDir(place.folder.absolute())
    own = folder.of_process(gang.index)
    with (
        RunLogger(own, open_console if gang.is_first else NullWriter, place.tell) as logger,
        Checkpoints(
            folder.checkpoints,
            warn=logger.warning,
            keep=cfg.checkpoint.keep,
            run_id=opening.run_id,
            gang=gang,
            before_commit=place.upload,
        ) as checkpoints,
    ):
        state, metadata, loaded = _open_state(setup, checkpoints, logger)
        start = int(state.step)
        if opening.lost_step is not None:
            logger.warning(
                f"the run was complete at step {opening.lost_step:,}, but that checkpoint is no "
                f"longer usable; training goes on from step {start:,}"
            )
        reporter = Reporter(
            logger,
            own,
            cfg,
            data,
            start_step=start,
            devices=setup.mesh.size,
            weights_loaded=start > 0 or bool(loaded),
            window=metadata.get("window", {}),
            trackers=None if gang.is_first else {},
        )
        with reporter:
            history = dict(metadata.get("history", ()))
            run = Run(cfg, data, setup, folder, gang, logger, checkpoints, reporter, watch, history)
            logger.info(_preflight(run, place, start, tuple(opening.changes), loaded))
            last = _loop(run, state, start)
        if last < cfg.train.steps:
            logger.info(
                f"stopped early at step {last:,}: {cfg.train.early_stop_evals} evaluations in "
                "a row gained nothing (train.early_stop_evals)"
            )
    if gang.is_first:
        rundir.complete(folder, last)
    return run.history[last]


def _loop(run: Run, state: TrainState, start: int) -> int:
    """Makes the updates from `start` + 1 on, reports each once and in order; gives the last."""
    setup, reporter, step = run.setup, run.reporter, start
    if start:
        run.between(state, start)  # an evaluation that a stop prevented
    profile = Profile(run.cfg.runtime, run.own.profile, run.logger.warning)
    with run.micro_batches(start) as batches, profile:
        train_step, unreported = None, None
        while not run.is_over(step):
            step += 1
            faults.point("train.step")
            profile.before(step, state)
            with reporter.timing("data"):
                parts = [next(batches) for _ in range(run.cfg.train.accumulate)]
            batch = sharding.globalise(parts, setup.mesh)
            if train_step is None:
                run.draw_first_batch(parts)
                with reporter.timing("compile"):
                    train_step = setup.train_step.lower(state, batch).compile()
                run.logger.info(describe_memory(train_step))
            ids = sharding.gather_ids(batch, setup.mesh)
            state, metrics = train_step(state, batch)
            profile.after(step, state)
            if unreported:
                run.report(*unreported)
            unreported = step, metrics, ids
            if run.is_due(step):
                run.report(*unreported)
                unreported = None
                run.between(state, step)
            run.checkpoints.check()
            run.gang.beat()
    run.checkpoints.finish(step)
    return step


def _hold(folder: RunDir, held: ExitStack) -> None:
    held.enter_context(lock.hold(folder.root, print))


def _open_state(
    setup: Setup, checkpoints: Checkpoints, logger: RunLogger
) -> tuple[TrainState, dict[str, Any], tuple[str, ...]]:
    """The newest good state and its metadata, or a fresh one and the parts that were loaded."""
    restored = checkpoints.resume(setup.target)
    if restored is not None:
        return restored.state, restored.metadata, ()
    variables = setup.initial_variables()
    source = native.resolve_weights(setup.cfg.init, logger.warning)
    loaded: tuple[str, ...] = ()
    if source is not None:
        variables, report = native.load_backbone(
            source, variables, setup.cfg.model, setup.cfg.init.parts
        )
        logger.info(str(report))
        loaded = report.whole_parts
    return setup.start(variables), {}, loaded


def _preflight(
    run: Run,
    place: Workdir,
    start: int,
    changes: tuple[str, ...],
    loaded: tuple[str, ...],
) -> str:
    text = render(
        Preflight(
            cfg=run.cfg,
            data=run.data,
            workdir=place.tell(str(run.folder.root)),
            resumed_step=start,
            changes=changes,
            devices=run.setup.mesh.size,
            device_kind=jax.devices()[0].device_kind,
            parameters=count_parameters(run.setup.target.variables.params),
            loaded=loaded,
            pose_cells=run.setup.map_size(),
            first_batch=place.tell(str(run.folder.first_batch)),
        )
    )
    if run.gang.is_first:
        files.write_atomically(run.folder.preflight, text + "\n")
    return text
