"""Moves runs of fifty steps between numbers of processes, and compares them with one process.

    python -m tests.campaigns.processes_meshes --out DIR

Each run begins with several processes, is stopped by SIGTERM, continues with one process, is
stopped, and ends with several again. The table goes into docs/reliability.md; the exit code is 1 if
any run differs in its record ids, its evaluated images or, by more than 1e-5, its parameters.
Results are kept in DIR: a campaign that is stopped continues with the next setting.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gap_jax.evaluation.evaluate import load_scores
from gap_jax.runtime.run_folder import RunFolder
from tests.campaigns.kept import PAGE, identify, keep_rows, read_rows
from tests.campaigns.table import describe, replace_marked
from tests.support.compiling import keep_compiled
from tests.support.processes import begin_processes, distance, finish_processes
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tiny_training import End

PROGRAM = "tests.campaigns.processes_meshes"
SETTINGS = ((2, 2), (2, 4), (4, 2), (4, 4))  # processes, devices of each
STEPS, CLOSE = 50, 1e-5
FIELDS = (
    f"train.steps={STEPS}", "train.batch_size=16", "eval.batch_size=16", "eval.every_steps=25",
    "checkpoint.every_steps=25",
)  # fmt: skip
CUTS = (15, 20)  # steps of the first two starts


class Found(NamedTuple):
    """The distance of a moved run's parameters from those of one process, and other differences."""

    processes: int
    devices: int
    apart: float
    fault: str
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries all settings, one after the other."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    out = parser.parse_args(arguments).out.absolute()
    keep_compiled(out / "compiled")
    head = identify(settings=SETTINGS)
    found = [Found(**row) for row in read_rows(out, head)]
    if not found:
        shutil.rmtree(out, ignore_errors=True)
        prepare_tiny_people(out / "data")
        train(out, "alone", processes=1, devices=1, codes=[0])
    for processes, devices in SETTINGS[len(found) :]:
        found.append(move(out, processes, devices))
        keep_rows(out, head, [each._asdict() for each in found])
        print(_row(found[-1]), flush=True)
    lines = [
        describe(f"python -m {PROGRAM} --out DIR", sum(each.seconds for each in found)),
        "",
        "| processes | devices of each | parameters apart | record ids, evaluated images |",
        "|---|---|---|---|",
        *map(_row, found),
    ]
    replace_marked(PAGE, "processes meshes", "\n".join(lines))
    return int(any(each.fault for each in found))


def move(out: Path, processes: int, devices: int) -> Found:
    """Moves a run from several processes to one process and back."""
    start, name = time.monotonic(), f"{processes}x{devices}"
    shutil.rmtree(out / name, ignore_errors=True)
    several = {"processes": processes, "devices": devices}
    cut = {0: f"train.step:term@{CUTS[0]}"}
    train(out, name, **several, faults=cut, codes=[75] * processes)
    cut = {0: f"train.step:term@{CUTS[1]}"}
    train(out, name, processes=1, devices=1, faults=cut, codes=[75])
    train(out, name, **several, codes=[0] * processes)
    apart, fault = compare(out / "alone", out / name)
    return Found(processes, devices, apart, fault, time.monotonic() - start)


def _row(found: Found) -> str:
    same = found.fault or "the same"
    return f"| {found.processes} | {found.devices} | {found.apart:.1e} | {same} |"


def train(out: Path, name: str, *, codes: list[int], **options: Any) -> None:
    """Starts all processes once; they must end with `codes`."""
    ends: list[End] = finish_processes(
        begin_processes(out / "data", out / name, *FIELDS, **options, forked=True)
    )
    if [end.code for end in ends] != codes:
        raise SystemExit(f"{name} ended with {ends}")


def compare(alone: Path, moved: Path) -> tuple[float, str]:
    """Returns the distance of the parameters, and other differences of the runs."""
    apart = distance(alone, moved, STEPS)
    faults = ["the parameters"] if apart > CLOSE else []
    if read_ids(alone) != read_ids(moved):
        faults.append("record ids")
    one, other = (load_scores(RunFolder(run).scores("val", STEPS)) for run in (alone, moved))
    if not (np.array_equal(one.ids, other.ids) and np.array_equal(one.labels, other.labels)):
        faults.append("evaluated images")
    return apart, ", ".join(faults)


def read_ids(workdir: Path) -> dict[int, str]:
    """Reads the digest of every step's record ids."""
    rows = map(json.loads, RunFolder(workdir).step_log.read_text("utf-8").splitlines())
    return {row["step"]: row["ids_sha256"] for row in rows if "ids_sha256" in row}


if __name__ == "__main__":
    sys.exit(main())
