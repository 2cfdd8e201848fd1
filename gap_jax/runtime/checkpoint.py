"""Checkpoints of a run: written in the background, digested leaf by leaf, verified before use.

The state is copied to the host and handed to one worker thread, which writes the arrays with
orbax into a hidden folder, reads them back, compares every leaf's SHA-256 with that of the copy,
renames the folder to the step's number and only then deletes what is no longer kept.
With several processes all of them copy, as that gathers what is spread; the first one writes, and
the others hear of what it found.
"""

import concurrent.futures
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from data_pipelines import faults, files
from gap_jax.errors import CannotWrite, CheckpointError
from gap_jax.runtime import arrays, steps
from gap_jax.runtime.digests import (
    Leaves,
    copy_to_host,
    describe,
    find_misfits,
    name_some,
    place,
)
from gap_jax.runtime.gang.members import ALONE, Gang


class Restored(NamedTuple):
    """A state as it was after `step` updates, and the facts that were saved with it."""

    step: int
    state: Any
    facts: dict[str, Any]


class Checkpoints:
    """The latest `keep` saves in a folder, and the one of the highest mAP.

    Facts are small JSON: config, classes, preprocessing, data fingerprint, `metrics`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        warn: Callable[[str], None],
        keep: int = 3,
        run_id: str | None = None,
        gang: Gang = ALONE,
        after_save: Callable[[], None] = lambda: None,
    ) -> None:
        """`run_id` goes into each checkpoint; those of another run are foreign.

        `after_save` runs in the worker's thread, and what it raises ends the run.
        """
        self.folder = folder.absolute()
        self._warn = warn
        self._keep = keep
        self._run_id = run_id
        self._gang = gang
        self._after_save = after_save
        self._held: int | None = None  # the step that was restored or saved last
        self._pending: concurrent.futures.Future[None] | None = None
        self._worker: concurrent.futures.Executor | None = None

    def __enter__(self) -> "Checkpoints":
        """Makes saving possible; a save that nobody waits for would be lost in silence."""
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for a save in progress; its failure is raised, or said beside an earlier one."""
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            if error is not failure:
                self._warn(f"{failure}")
        finally:
            if self._worker:
                self._worker.shutdown()

    def list_steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return list(self._survey().good)

    def find_best(self) -> int | None:
        """The step with the largest metric, the earliest of equals."""
        return self._best_of(self._survey().good)

    def read_facts(self, step: int) -> dict[str, Any]:
        """The facts that were saved with a step."""
        return self._find(step).facts

    def resume(self, target: Any) -> Restored | None:
        """The newest good state, or None in a fresh folder; only the holder of the lock asks.

        `target` has the state's structure, with the wanted dtypes, shapes and shardings. What is
        damaged is set aside and said, and the step before it is taken.
        """
        found: list[Restored | None] = []

        def search() -> int | None:
            found.append(self._resume_newest(target))
            return found[0].step if found[0] else None

        step = self._gang.share("resumed", search)
        if self._gang.is_first:
            return found[0]
        return None if step is None else self.load(step, target)

    def _resume_newest(self, target: Any) -> Restored | None:
        steps.sweep(self.folder)
        found = self._survey()
        for name, reason in found.foreign.items():
            self._warn(f"{self.folder / name} {reason} and stays untouched")
        for step, reason in found.damaged.items():
            self._set_aside(step, reason)
        for step in reversed(found.good):
            try:
                return self._restore(found.good[step], target)
            except steps.DamageError as damage:
                self._set_aside(step, str(damage))
        unusable = [f"{name} was set aside" for name in steps.survey(self.folder).set_aside]
        unusable += [
            f"{name} {reason}"
            for name, reason in found.foreign.items()
            if reason != steps.NO_CHECKPOINT
        ]
        if unusable:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is usable ({name_some(unusable)}); "
                "move them away to begin anew, or restore a copy"
            )
        return None

    def _survey(self) -> steps.Survey:
        """What the folder holds; the checkpoints of other runs are foreign."""
        found = steps.survey(self.folder)
        for step, record in list(found.good.items()):
            if record.run_id != self._run_id:
                del found.good[step]
                ids = f"{steps.RUN_ID} {record.run_id}, here {self._run_id}"
                found.foreign[str(step)] = f"is of another run ({ids})"
        return found

    def load(self, step: int, target: Any) -> Restored:
        """Exactly this step, or a refusal; changes nothing in the folder."""
        try:
            return self._restore(self._find(step), target)
        except steps.DamageError as damage:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} is damaged ({damage}); "
                f"choose another of {[each for each in self.list_steps() if each != step]}"
            ) from damage

    def save(self, step: int, state: Any, facts: Mapping[str, Any]) -> None:
        """Begins to save the state after `step` updates; first waits for an earlier save.

        Of the step that is held already only the facts are written anew, if they have changed.
        """
        if self._worker is None:
            raise RuntimeError("save inside a `with` block, whose end waits for the disk")
        if self._pending and not self._pending.done():
            self._warn(f"checkpoint {self._held} is still being written, and training waits for it")
        self.wait()
        if self._run_id is not None:
            facts = {**facts, steps.RUN_ID: self._run_id}
        record = steps.Record(step, json.loads(json.dumps(facts, allow_nan=False)), {}, {})
        if step == self._held:
            if self._gang.is_first:
                self._renew_facts(step, record.facts)
            return
        leaves = copy_to_host(state)
        self._held = step
        if self._gang.is_first:
            self._clear_the_way(step)
            self._pending = self._worker.submit(self._write, record, leaves)
        else:
            self._pending = self._worker.submit(self._after_save)

    def _renew_facts(self, step: int, facts: Mapping[str, Any]) -> None:
        held = self._find(step)
        if held.facts != facts:
            renewed = dataclasses.replace(held, facts=dict(facts))
            steps.write_record(self.folder / str(step), renewed)

    def check(self) -> None:
        """Raises the failure of a save that ended in the background; call it every step."""
        if self._pending and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Waits for the save in progress and raises its failure."""
        if self._pending:
            self._pending.result()

    def finish(self, step: int) -> None:
        """Waits, and proves by reading it from the disk that `step` is there and whole."""
        self._gang.share("finished", functools.partial(self._prove, step))

    def _prove(self, step: int) -> None:
        self.wait()
        try:
            _read(self.folder / str(step), self._find(step))
        except steps.DamageError as damage:
            raise CheckpointError(
                f"the final checkpoint {step} in {self.folder} does not read back ({damage}); "
                "check the disk and run the same command again"
            ) from damage

    def _write(self, record: steps.Record, leaves: Leaves) -> None:
        size_bytes = sum(leaf.nbytes for leaf in leaves.values())
        try:
            with files.fresh_folder(self.folder / str(record.step)) as partial:
                faults.point("checkpoint.begin")
                arrays.store_arrays(partial / steps.ARRAYS, leaves)
                written = steps.digest_files(partial)
                record = dataclasses.replace(record, leaves=describe(leaves), files=written)
                steps.write_record(partial, record)
                _read(partial, steps.read_record(partial))
                faults.point("checkpoint.before_commit")
        except CannotWrite as refusal:
            raise CannotWrite(
                f"{refusal}; checkpoint {record.step} takes up to {size_bytes / 2**20:,.1f} MiB, "
                "and the ones before it are intact"
            ) from refusal
        except (steps.DamageError, CheckpointError) as fault:
            raise CannotWrite(
                f"checkpoint {record.step} in {self.folder} does not read back as it was written "
                f"({fault}); check the disk and the memory"
            ) from fault
        faults.point("checkpoint.after_commit")
        good = self._survey().good
        kept = {*list(good)[-self._keep :], self._best_of(good)}
        steps.prune(self.folder, good.keys() - kept)
        self._after_save()

    def _clear_the_way(self, step: int) -> None:
        """Moves a foreign folder with the step's name aside; refuses a good checkpoint."""
        if step in self._survey().good:
            raise CheckpointError(
                f"checkpoint {step} exists already in {self.folder}; "
                "resume from it or choose another workdir"
            )
        if (self.folder / str(step)).exists():
            self._set_aside(step, "it stands where one has to be saved")

    def _set_aside(self, step: int, reason: str) -> None:
        aside = steps.set_aside(self.folder, step)
        self._warn(f"checkpoint {step} is not usable ({reason}) and was set aside as {aside}")

    def _find(self, step: int) -> steps.Record:
        found = self._survey()
        if step not in found.good:
            named = f"checkpoint {step} in {self.folder}"
            reason = found.foreign.get(str(step))
            raise CheckpointError(
                f"{f'{named} {reason}' if reason else f'no good {named}'}; "
                f"choose one of {list(found.good)}"
            )
        return found.good[step]

    def _best_of(self, good: Mapping[int, steps.Record]) -> int | None:
        scores = {step: record.facts.get("metrics", {}).get("mAP") for step, record in good.items()}
        rated = {step: score for step, score in scores.items() if score is not None}
        return max(rated, key=rated.__getitem__, default=None)

    def _restore(self, record: steps.Record, target: Any) -> Restored:
        faults.point("restore.before")
        misfits = find_misfits(record.leaves, target)
        if misfits:
            raise CheckpointError(
                f"checkpoint {record.step} in {self.folder} belongs to another model or optimiser: "
                f"{name_some(misfits)}; use the config it was made with or another workdir"
            )
        leaves = _read(self.folder / str(record.step), record)
        self._held = record.step
        return Restored(record.step, place(leaves, target), record.facts)


def _read(path: Path, record: steps.Record) -> Leaves:
    """The arrays of the step in `path`, every one of them proved by its digest."""
    steps.verify_files(path, record)
    return arrays.load_arrays(path / steps.ARRAYS, record.leaves)
