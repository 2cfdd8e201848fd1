"""Measures the CPU seconds of a step on one core: ours, PyTorch's, and different heads."""

import contextlib
import dataclasses
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import alternating, sides
from benchmarks.alternating import Ratio, Rounds, serving
from benchmarks.sides import Task, ask

# Of our float32 from PyTorch's float64, relative to the largest value. Losses follow updates: one
# rounding of efficientnet_lite0's weights to float32 moves its second loss by 7e-4 in float64 too.
TOLERANCES = {"train": {"logits": 1e-4, "losses": 5e-3}, "eval": {"logits": 1e-4}}
STEPS = {"train": 2, "eval": 3}  # of a turn
RATIOS: dict[str, tuple[Ratio, ...]] = {
    "train": (
        ("mean", "torch eager", "<= 1.45"),
        ("attention", "mean", "<= 1.02"),
        ("gap", "mean", "<= 1.15"),
    ),
    "eval": (
        ("mean", "torch eager", "<= 1.05"),
        ("attention", "mean", ""),
        ("gap", "mean", ""),
    ),
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


class Result(NamedTuple):
    """The numbers of every row; `differences` are those of PyTorch's outputs from ours."""

    mode: str
    task: dict[str, Any]
    machine: str
    rounds: Rounds
    skipped: dict[str, str]
    differences: dict[str, float]
    compile_s: dict[str, float]


def plan(base: Task, names: list[str] | None = None) -> dict[str, Task]:
    """Lists the rows, `mean` first, which writes the weights of the others."""
    rows = {
        "mean": base,
        "torch eager": dataclasses.replace(base, side="plain"),
        "attention": dataclasses.replace(base, head="attention"),
        "gap": dataclasses.replace(base, head="gap"),
    }
    return {name: rows[name] for name in rows if names is None or name in ("mean", *names)}


def measure(rows: dict[str, Task], turns: int) -> Result:
    """Compares rows with equal outputs, then measures every row in every turn."""
    base = rows["mean"]
    skipped = {name: why for name, task in rows.items() if (why := sides.reason_to_skip(task))}
    measured = {name: task for name, task in rows.items() if name not in skipped}
    differences: dict[str, float] = {}
    compile_s: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        asks: dict[str, Connection] = {}
        for name, task in measured.items():
            row = stack.enter_context(serving(sides.serve, sides.build, task, Path(folder)))
            compile_s[name] = ask(row, "prepare")["compile_s"]
            if name == "mean":
                ask(row, "save_weights")
            elif task.is_same_function(base):
                differences |= _compare(asks["mean"], row, base.mode)
            asks[name] = row

        def cpu_seconds(name: str) -> float:
            return ask(asks[name], "time", STEPS[base.mode])["cpu"]

        rounds = alternating.alternate(list(asks), turns, cpu_seconds)
        machine = alternating.describe_machine(PACKAGES)
    described = dataclasses.asdict(base)
    return Result(base.mode, described, machine, rounds, skipped, differences, compile_s)


def _compare(ours: Connection, theirs: Connection, mode: str) -> dict[str, float]:
    differences: dict[str, float] = {}
    for check, most in TOLERANCES[mode].items():
        answers = ({check: ask(row, check)} for row in (ours, theirs))
        differences |= sides.compare(*answers, most=most)
    return differences


def render(result: Result) -> str:
    """Renders the machine, the table and the comparison of the two sides."""
    task = result.task
    title = (
        f"{result.mode} step of {task['backbone']}, {task['px']} px, batch {task['batch']}, "
        "float32, one thread: CPU s"
    )
    differences = [f"{name} {share:.0e}" for name, share in result.differences.items()]
    compiled = [f"{name} {seconds:.0f}" for name, seconds in result.compile_s.items()]
    lines = [
        result.machine,
        "",
        alternating.render(title, result.rounds, result.skipped, RATIOS[result.mode]),
        f"  ours, compared with PyTorch in float64: {', '.join(differences) or 'not compared'}",
        f"  wall s until the first step was done: {', '.join(compiled)}",
    ]
    return "\n".join(lines)
