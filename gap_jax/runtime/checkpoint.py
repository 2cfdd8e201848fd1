"""Saves and restores a run's state by Orbax's CheckpointManager, and verifies it both times.

Orbax writes the state in the background, each process its own shards, commits it and deletes older
steps. Before the commit, `_verify` in the first process reads it back and compares the SHA-256 of
each array; if it fails, Orbax neither commits the step nor deletes others.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import orbax.checkpoint as ocp

from data_pipelines.core import faults, files
from data_pipelines.core.errors import CannotWrite, CheckpointError, name_some
from gap_jax.runtime import arrays
from gap_jax.runtime import checkpoint_folders as folders
from gap_jax.runtime.checkpoint_folders import METADATA, STATE, AnyPath, DamageError, Metadata
from gap_jax.runtime.digests import Leaves, copy_to_host, describe, find_misfits, name_leaves, place
from gap_jax.runtime.processes.group import ALONE, Processes


class Restored(NamedTuple):
    """The state after `step` updates, and the metadata that were saved with it."""

    step: int
    state: Any
    metadata: dict[str, Any]


@dataclasses.dataclass(eq=False, repr=False)
class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """Keeps the latest `keep` checkpoints in a folder, and the best one.

    Each contains `run_id`. A save fails if `before_commit` raises.
    """

    folder: AnyPath
    _: dataclasses.KW_ONLY
    warn: Callable[[str], None]
    keep: int = 3
    run_id: str | None = None
    processes: Processes = ALONE
    before_commit: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()
        self._manager: ocp.CheckpointManager | None = None  # only saving needs it
        self._own: Mapping[int, Metadata] = {}  # not of another run
        self._latest: int | None = None  # the step that was restored or saved last
        self._pending: tuple[Metadata, Leaves] | None = None
        self._failure: Exception | None = None  # Orbax raises it only once

    def __exit__(self, *raised: Any) -> None:
        """Waits for a save in progress; raises its failure, or warns of it after another error."""
        error = raised[1]
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            if error is not failure:
                self.warn(f"{failure}")
        finally:
            if self._manager:
                self._manager.close()

    def survey(self) -> folders.Survey:
        """Lists the steps that can be restored, and those that cannot."""
        return folders.survey(self.folder, self.run_id)

    def find(self, step: int) -> Metadata:
        """Returns the metadata of a step that can be restored."""
        found = self.survey()
        if step not in found.good:
            named, reason = f"checkpoint {step} in {self.folder}", found.unusable.get(step)
            trouble = f"{named} is not usable ({reason})" if reason else f"no good {named}"
            raise CheckpointError(f"{trouble}; choose one of {list(found.good)}")
        return found.good[step]

    def resume(self, target: Any) -> Restored | None:
        """Restores the newest good state, or returns None in a fresh folder; needs the lock.

        Sets unusable steps aside. `target` has the dtypes, shapes and shardings of the state.
        """
        restored = None

        def search() -> int | None:
            nonlocal restored
            restored = self._resume_newest(target)
            return restored and restored.step

        step = self.processes.broadcast("resumed", search)
        if step is None or self.processes.is_first:
            return restored
        return self.load(step, target)

    def _resume_newest(self, target: Any) -> Restored | None:
        folders.sweep(self.folder)
        found = self.survey()
        for step, reason in found.unusable.items():
            self._set_aside(step, reason)
        for step in reversed(found.good):
            try:
                return self._restore(found.good[step], target)
            except DamageError as damage:
                self._set_aside(step, str(damage))
        if unusable := folders.list_set_aside(self.folder):
            raise CheckpointError(
                f"no checkpoint in {self.folder} is usable (set aside: {name_some(unusable)}); "
                "move them away to begin anew, or restore a copy"
            )
        return None

    def load(self, step: int, target: Any) -> Restored:
        """Restores exactly this step, or refuses; changes nothing in the folder."""
        try:
            return self._restore(self.find(step), target)
        except DamageError as damage:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} is damaged ({damage}); "
                f"choose another of {[each for each in self.survey().good if each != step]}"
            ) from damage

    def _restore(self, metadata: Metadata, target: Any) -> Restored:
        faults.point("restore.before")
        if misfits := find_misfits(metadata.leaves, target):
            raise CheckpointError(
                f"checkpoint {metadata.step} in {self.folder} belongs to another model or optimiser"
                f": {name_some(misfits)}; use the config it was made with or another workdir"
            )
        path = self.folder / str(metadata.step)
        leaves = _read(path, metadata)
        self._latest = metadata.step
        return Restored(metadata.step, place(leaves, target), metadata.run)

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Starts to save the state after `step` updates, or its changed metadata if it is saved.

        First waits for an earlier save.
        """
        if self._is_writing():
            self.warn(
                f"checkpoint {self._latest} is still being written, and training waits for it"
            )
        self.wait()
        if self.run_id is not None:
            metadata = {**metadata, folders.RUN_ID: self.run_id}
        run = json.loads(json.dumps(metadata, allow_nan=False))
        if step != self._latest:
            self._begin(Metadata(step, run, {}, {}), state)
        elif self.processes.is_first and (held := self.find(step)).run != run:
            folders.write_metadata(self.folder / str(step), dataclasses.replace(held, run=run))

    def _begin(self, metadata: Metadata, state: Any) -> None:
        step = self._latest = metadata.step
        if self.processes.is_first:
            good = self.survey().good
            self._own = {**good, step: metadata}
            if step not in good and (self.folder / str(step)).exists():  # Orbax would delete it
                self._set_aside(step, "it has the name of the step to save")
        self._pending = metadata, copy_to_host(state)
        with self._saving():
            faults.point("checkpoint.begin")
            if self._manager is None:
                self._manager = arrays.open_manager(
                    self.folder, self, self._verify, self.processes.count
                )
            items = {
                STATE: ocp.args.StandardSave(name_leaves(state)),
                METADATA: ocp.args.JsonSave({}),  # `_verify` writes it, once it knows the digests
            }
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Tells Orbax which of its steps to keep; those of other runs stay."""
        del context
        kept = {*list(self._own)[-self.keep :], folders.find_best(self._own)}
        return [each.step not in self._own or each.step in kept for each in checkpoints]

    def _verify(self) -> None:
        """Writes the metadata and reads all back, in Orbax's thread before it commits."""
        metadata, leaves = cast("tuple[Metadata, Leaves]", self._pending)
        path = folders.place_unfinished(self.folder, metadata.step)
        metadata = dataclasses.replace(
            metadata, leaves=describe(leaves), files=folders.digest_files(path)
        )
        folders.write_metadata(path, metadata)
        _read(path, folders.read_metadata(path))
        self.before_commit()
        faults.point("checkpoint.before_commit")

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns the failure of a save into one line, and keeps it for every later call."""
        metadata, leaves = cast("tuple[Metadata, Leaves]", self._pending)
        path = self.folder / str(metadata.step)
        try:
            with files.writing(path), arrays.raising_os_errors():
                yield
        except CannotWrite as refusal:
            size_mib = sum(leaf.nbytes for leaf in leaves.values()) / 2**20
            self._failure = CannotWrite(
                f"{refusal}; the checkpoint takes up to {size_mib:,.1f} MiB, and earlier ones are "
                "intact"
            )
        except (DamageError, CheckpointError) as fault:
            self._failure = CannotWrite(
                f"{path} does not read back ({fault}); check disk and memory"
            )
        except Exception as failure:
            self._failure = failure
        if self._failure:
            raise self._failure

    def check(self) -> None:
        """Raises the failure of a save that ended in the background; call it after every step."""
        if self._pending and not self._is_writing():
            self.wait()

    def wait(self) -> None:
        """Waits for the save in progress and raises its failure."""
        if self._failure:
            raise self._failure
        if self._pending and self._manager:
            with self._saving():
                self._manager.wait_until_finished()
            self._pending = None
            faults.point("checkpoint.after_commit")
            if self.processes.is_first:
                folders.sweep(self.folder)
            else:
                self.before_commit()

    def _is_writing(self) -> bool:
        return self._manager is not None and self._manager.is_saving_in_progress()

    def finish(self, step: int) -> None:
        """Waits, and verifies by reading the files that `step` is there and whole."""

        def verify() -> None:
            self.wait()
            with contextlib.suppress(DamageError):
                if final := self.survey().good.get(step):
                    return folders.verify_files(self.folder / str(step), final)
            raise CheckpointError(
                f"the final checkpoint {step} in {self.folder} is absent or damaged; "
                "check the disk and run the same command again"
            )

        self.processes.broadcast("finished", verify)
        self.wait()

    def _set_aside(self, step: int, reason: str) -> None:
        aside = folders.set_aside(self.folder, step)
        if self._manager:
            self._manager.reload()
        self.warn(f"checkpoint {step} is not usable ({reason}) and was set aside as {aside}")


def _read(path: AnyPath, metadata: Metadata) -> Leaves:
    """Reads the state of the step in `path`, verifying its files and then its leaves."""
    folders.verify_files(path, metadata)
    return arrays.load_arrays(path / STATE, metadata.leaves)
