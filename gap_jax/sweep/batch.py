"""Writes the runs of a sweep as array jobs of SLURM, and picks the run of a task."""

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError, DataError
from gap_jax.sweep.execute import ONLY
from gap_jax.sweep.plan import Cell, Plan

SCRIPT = "slurm.sh"
WRITE = "--write"


def write_script(plan: Plan, words: Sequence[str]) -> Path:
    """Writes the script that submits the sweep; `words` are the arguments of `gap_jax sweep`."""
    text = resources.files("gap_jax.sweep").joinpath(SCRIPT).read_text("utf-8")
    phases = {name: len(list_cells()) for name, list_cells in _phases(plan).items()}
    filled = {
        "FOLDER": _quote(str(Path.cwd())),
        "OUT": _quote(str(plan.out.absolute())),
        "SWEEP": " ".join(map(_quote, _without_write(words))),
        "PHASES": " ".join(f"{name}:{count}" for name, count in phases.items() if count),
    }
    for name, value in filled.items():
        text = text.replace(f"@{name}@", value, 1)
    path = plan.out / SCRIPT
    files.write_atomically(path, text)
    return path


def pick_cell(plan: Plan, text: str) -> Cell:
    """Returns the run that PHASE-INDEX names; a final run needs the rate that its row chose."""
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
