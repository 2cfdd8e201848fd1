"""Writes and reads named arrays by Orbax."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_pipelines.core.errors import CheckpointError, name_some
from gap_jax.runtime import checkpoint_folders as folders
from gap_jax.runtime.checkpoint_folders import AnyPath, DamageError
from gap_jax.runtime.digests import LeafDigest, Leaves, describe

MAX_MESSAGE = 200  # characters of a library's message
_IN_PLACE = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)


def _open_orbax() -> ocp.Checkpointer:
    """Opens Orbax for host arrays, in this process alone."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def store_arrays(path: AnyPath, leaves: Leaves) -> None:
    """Writes named host arrays; raises OSError if the system refuses."""
    with raising_os_errors(), _open_orbax() as orbax:
        orbax.save(path, args=ocp.args.StandardSave(leaves))


@contextlib.contextmanager
def raising_os_errors() -> Iterator[None]:
    """Turns TensorStore's ValueError for a system error into an OSError."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def load_arrays(path: AnyPath, written: Mapping[str, LeafDigest]) -> Leaves:
    """Reads named arrays to the host and verifies their digests; verify their files before.

    Only another digest is damage. Whole files that Orbax cannot read mean too little memory, too
    few threads or open files, or files that Orbax did not write.
    """
    target = {  # without dtypes and shapes TensorStore 0.1.86 leaks kilobytes for each array
        name: np.broadcast_to(np.zeros((), np.dtype(leaf.dtype)), leaf.shape)  # takes no memory
        for name, leaf in written.items()
    }
    try:
        with _open_orbax() as orbax:
            leaves: Leaves = orbax.restore(path, args=ocp.args.StandardRestore(target))
    except Exception as error:  # Orbax and TensorStore raise many kinds
        text = " ".join(str(error).split())[:MAX_MESSAGE]
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {text}), though its files are as they "
            "were written; allow more memory, threads and open files, or use another copy"
        ) from error
    found = describe(leaves)
    if damaged := [name for name in sorted(written) if found[name] != written[name]]:
        raise DamageError(f"another digest: {name_some(damaged)}")
    return leaves


def open_manager(
    folder: AnyPath, policy: Any, verify: Callable[[], None], processes: int
) -> ocp.CheckpointManager:
    """Opens Orbax's manager, in all processes at once.

    Its thread in the first process calls `verify` before it commits a step. If `verify` raises,
    Orbax neither commits the step nor deletes others. It moves deleted steps to PRUNED.
    """
    active = set(range(processes)) if processes > 1 else None
    folder.mkdir(parents=True, exist_ok=True)
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            create=False,
            preservation_policy=policy,
            todelete_subdir=None if folders.is_bucket(folder) else folders.PRUNED,
            atomicity_options=_IN_PLACE if folders.is_bucket(folder) else None,
            lightweight_initialize=True,  # the policy reads our own metadata
            async_options=ocp.AsyncOptions(
                barrier_sync_fn=_make_barrier(active) if active else None,
                post_finalization_callback=verify,
            ),
            multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes=active),
        ),
    )


def _make_barrier(processes: set[int]) -> Callable[..., None]:
    wait = ocp.multihost.get_barrier_sync_fn(processes=processes)

    def wait_unless_failed(*, key: str, timeout_ms: int) -> None:
        """Returns at once after a failed save: the other processes never arrive."""
        if sys.exception() is None:
            wait(key=key, timeout_ms=timeout_ms)

    return wait_unless_failed


def _report_unraisable(
    unraisable: Any, previous: Callable[[Any], object] = sys.unraisablehook
) -> None:
    """Leaves out TensorStore's traceback for each write that it gives up after the first."""
    if str(unraisable.exc_value) != "Event loop is closed":
        previous(unraisable)


sys.unraisablehook = _report_unraisable
# Orbax logs each failure that it raises, and our error is one line
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
