"""Starts runs of several processes by the real command, each with its own devices."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gap_jax.runtime.arrays import load_arrays
from gap_jax.runtime.checkpoint_folders import STATE, read_metadata
from gap_jax.runtime.run_folder import RunFolder
from tests.support.tiny_training import End, Program, begin, finish


def begin_processes(
    data: Path,
    workdir: Path | str,
    *fields: str,
    processes: int = 2,
    devices: int = 2,
    faults: Mapping[int, str] = {},
    fields_of: Mapping[int, str] = {},
    words: Sequence[str] = (),
    program: Sequence[str] = ("-m", "gap_jax.main"),
    forked: bool = False,
) -> list[Program]:
    """Starts all processes; `faults` and `fields_of` are by process index."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    rendezvous = [f"--coordinator=localhost:{port}", f"--processes={processes}"]
    return [
        begin(
            data,
            workdir,
            *fields,
            *([fields_of[index]] if index in fields_of else []),
            faults=faults.get(index, ""),
            words=[*words, *([*rendezvous, f"--process={index}"] if processes > 1 else [])],
            devices=devices,
            program=program,
            forked=forked,
        )
        for index in range(processes)
    ]


def finish_processes(processes: Sequence[Program]) -> list[End]:
    """Waits for all processes."""
    return [finish(each) for each in processes]


def distance(one: Path, other: Path, step: int) -> float:
    """Returns the relative norm of the difference of two runs' saved states."""
    folders = [RunFolder(run).checkpoints / str(step) for run in (one, other)]
    first, second = (
        load_arrays(folder / STATE, read_metadata(folder).leaves) for folder in folders
    )
    assert first.keys() == second.keys()
    apart, size = 0.0, 0.0
    for name, leaf in first.items():
        apart += float(np.square(np.float64(leaf) - np.float64(second[name])).sum())
        size += float(np.square(np.float64(leaf)).sum())
    return (apart / size) ** 0.5
