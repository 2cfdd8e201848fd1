"""Named host arrays on a disk, by orbax and by this process alone."""

import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gap_jax.errors import CheckpointError
from gap_jax.runtime.digests import LeafFacts, Leaves, find_damaged, name_some
from gap_jax.runtime.steps import DamageError

LONGEST = 200  # letters of what a library says of a file


def _open_orbax() -> ocp.Checkpointer:
    """Orbax for host arrays, by this process alone."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def store_arrays(path: Path, leaves: Leaves) -> None:
    """Writes named host arrays with orbax; what the system refuses is an OSError."""
    try:
        with _open_orbax() as orbax:
            orbax.save(path, args=ocp.args.StandardSave(leaves))
    except ValueError as error:  # what TensorStore makes of every refusal of the system
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def load_arrays(path: Path, written: Mapping[str, LeafFacts]) -> Leaves:
    """Reads named host arrays with orbax and verifies their digests; verify their files before.

    Only another digest is damage: whole files that do not parse are read with too little memory,
    too few threads or open files, or are none that orbax wrote.

    Orbax is told their dtypes and shapes: reading those from the disk, TensorStore 0.1.86 leaks
    some kilobytes for each array.
    """
    target = {
        name: np.broadcast_to(np.zeros((), np.dtype(leaf.dtype)), leaf.shape)  # takes no memory
        for name, leaf in written.items()
    }
    try:
        with _open_orbax() as orbax:
            leaves: Leaves = orbax.restore(path, args=ocp.args.StandardRestore(target))
    except Exception as error:  # orbax and TensorStore raise many kinds
        text = " ".join(str(error).split())[:LONGEST]
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {text}), though its files are as they "
            "were written; allow more memory, threads and open files, or use another copy"
        ) from error
    damaged = find_damaged(leaves, written)
    if damaged:
        raise DamageError(f"another digest: {name_some(damaged)}")
    return leaves


def _quieten_orbax() -> None:
    """Orbax logs a failure before it raises it, and TensorStore prints a traceback for every write
    that it gives up after the first; all of that is one line of ours.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    inherited = sys.unraisablehook

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            inherited(unraisable)

    sys.unraisablehook = report


_quieten_orbax()
