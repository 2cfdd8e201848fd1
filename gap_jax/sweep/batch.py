"""Writes the runs of a sweep as jobs of SLURM or Kubernetes, and picks the run of a task."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError, DataError
from gap_jax.sweep.execute import ONLY
from gap_jax.sweep.plan import Cell, Plan

SCRIPT, JOBSET = "slurm.sh", "jobset.yaml"
WRITE = "--write"
REQUIRED = ("IMAGE", "CLAIM", "CPUS", "MEMORY", "ACCELERATOR", "PODS")  # variables of a JobSet


def write_jobs(plan: Plan, words: Sequence[str], system: str) -> str:
    """Writes the jobs of a sweep for a system; returns the command that submits them."""
    if system == "slurm":
        return f"bash {write_script(plan, words)}"
    return f"kubectl create --filename={write_jobset(plan, words, os.environ)}"


def write_jobset(plan: Plan, words: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Writes the JobSet of a sweep: a Job for each phase, which waits for the one before."""
    if unset := [name for name in REQUIRED if not environment.get(name)]:
        raise ConfigError(f"{', '.join(unset)} not set; --write jobset needs them, see --help")
    if not environment["PODS"].isdecimal() or environment["PODS"].strip("0") == "":
        raise ConfigError(f"PODS={environment['PODS']} must be an integer of 1 or more")
    given = {"NAME": f"sweep-{plan.kind}", "MOUNT": "/shared", **environment}
    out = plan.out.absolute()
    if not out.is_relative_to(given["MOUNT"]):
        raise ConfigError(f"--out {out} must be in MOUNT={given['MOUNT']}, where the pods write")
    text = resources.files("gap_jax.sweep").joinpath(JOBSET).read_text("utf-8")
    head, start, job = text.partition("  replicatedJobs:\n")
    escaped = [word.replace("$", "$$") for word in _without_write(words)]  # as $(NAME) is expanded
    jobs, before = "", ""
    for phase, count in {**_count(plan), "results": 1}.items():
        only = [] if phase == "results" else [ONLY, f"{phase}-$(INDEX)"]
        parallel = min(count, int(given["PODS"]))
        own = {"PHASE": phase, "BEFORE": before, "COUNT": count, "PARALLEL": parallel}
        kept = job if before else re.sub(r".*@BEFORE@.*\n", "", job)
        jobs += _fill(kept, {**given, **own, "ARGUMENTS": [*escaped, *only]})
        before = phase
    path = plan.out / JOBSET
    files.write_atomically(path, _fill(head, given) + start + jobs)
    return path


def _fill(template: str, values: Mapping[str, object]) -> str:
    """Replaces @NAME@ by its value in JSON, which is YAML, too."""
    return re.sub("@([A-Z]+)@", lambda found: json.dumps(values[found[1]]), template)


def write_script(plan: Plan, words: Sequence[str]) -> Path:
    """Writes the script that submits the sweep; `words` are the arguments of `gap_jax sweep`."""
    text = resources.files("gap_jax.sweep").joinpath(SCRIPT).read_text("utf-8")
    filled = {
        "FOLDER": _quote(str(Path.cwd())),
        "OUT": _quote(str(plan.out.absolute())),
        "SWEEP": " ".join(map(_quote, _without_write(words))),
        "PHASES": " ".join(f"{name}:{count}" for name, count in _count(plan).items()),
    }
    for name, value in filled.items():
        text = text.replace(f"@{name}@", value, 1)
    path = plan.out / SCRIPT
    files.write_atomically(path, text)
    return path


def pick_cell(plan: Plan, text: str) -> Cell | None:
    """Returns the run that PHASE-INDEX names; a final run needs the rate that its row chose.

    A row that diverged at every rate has no final run.
    """
    phase, _, index = text.rpartition("-")
    phases = _phases(plan)
    if phase not in phases or not index.isdecimal():
        raise ConfigError(f"{ONLY} {text} must be {', '.join(phases)}, each with -INDEX")
    cells = phases[phase]()
    if int(index) >= len(cells):
        raise ConfigError(f"{ONLY} {text} must be below {phase}-{len(cells)}")
    cell = cells[int(index)]
    if phase != "final":
        return cell
    rate = plan.choose(cell.row)
    scores = plan.scores_of(cell.row)
    if rate is None and len(scores) == len(plan.rates[cell.row.name]):
        return None
    if rate is None:
        raise DataError(
            f"the learning rates of {cell.row.name} are not all searched; do that first"
        )
    return plan.finals_of(cell.row, rate)[cell.cfg.train.seed]


def _phases(plan: Plan) -> Mapping[str, Callable[[], Sequence[Cell]]]:
    return {
        "features": plan.list_extractions,
        "search": lambda: plan.searches,
        "final": lambda: plan.cells[len(plan.searches) :],
    }


def _count(plan: Plan) -> dict[str, int]:
    """Counts the runs of the phases that have any."""
    counts = {name: len(list_cells()) for name, list_cells in _phases(plan).items()}
    return {name: count for name, count in counts.items() if count}


def _without_write(words: Sequence[str]) -> list[str]:
    """Leaves --write and its value out of the arguments."""
    kept: list[str] = []
    for index, word in enumerate(words):
        is_value = index > 0 and words[index - 1] == WRITE
        if word.partition("=")[0] != WRITE and not is_value:
            kept.append(word)
    return kept


def _quote(word: str) -> str:
    """Quotes a word for bash, also where shlex would see no need."""
    return "'" + word.replace("'", "'\\''") + "'"
