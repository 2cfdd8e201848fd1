"""Measures a GPU in ten minutes: its peaks, our step at 448 px, timm's, and single choices."""

import contextlib
import dataclasses
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import alternating, sides
from benchmarks.alternating import RowFailed
from benchmarks.sides import TINY, Answers, Task

TRAFFIC_GB = {  # minimal memory traffic of an image: ResNet-101, 448 px, bfloat16
    ("train", "train"): 2.04,  # batch norm reads twice: statistics, normalisation
    ("train", "frozen"): 1.65,
    ("eval", "folded"): 0.336,
    ("eval", "not folded"): 0.595,
}
TRAFFIC_PX = 448
TOLERANCE = {True: 5e-2, False: 1e-3}  # bfloat16, float32
CHECKS = {"train": "losses", "eval": "logits"}
TURNS = 3
FLAGS = (  # of XLA, measured one by one
    "xla_gpu_experimental_enable_fusion_autotuner=true",
    "xla_gpu_experimental_enable_same_shape_multi_output_fusion=true",
    "xla_gpu_triton_gemm_any=true",
    "xla_gpu_experimental_enable_conv_fusion=true",
    "xla_gpu_enable_triton_gemm=false",
)
NO_TIME = "no time is left"
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "timm", "nvidia-cudnn-cu13")

FORMATS = {  # of the fields of a printed line
    "machine": "{}",
    "flags": "flags '{}'",
    "skipped": "skipped: {}",
    "failed": "failed: {}",
    "device": "{}",
    "matrix_tflop_s": "{:.0f} TFLOP/s",
    "copy_gb_s": "{:.0f} GB/s",
    "ms": "{:.1f} ms",
    "images_per_s": "{:.0f} images/s",
    "share_of_roofline": "{:.0%} of the roofline",
    "compile_s": "ready in {:.0f} s",
    "temporary_gb": "{:.1f} GB",
    "peak_gb": "{:.1f} GB",
}

Line = dict[str, Any]
Ask = Callable[..., Any]


class Settings(NamedTuple):
    """The options; `only` is a part of the names of groups.

    `folder` holds the compilation cache, which saves time in a second start.
    """

    is_tiny: bool = False
    backbone: str = "resnet101"
    px: int = TRAFFIC_PX
    batches: tuple[int, ...] = (64, 16, 128)
    steps: int = 10
    budget_s: float = 540
    only: str = ""
    folder: Path | None = None
    json: Path | None = None


class Group(NamedTuple):
    """A row of ours, and rows that are measured in turns with it."""

    name: str
    base: Task
    others: dict[str, Task]


def plan(settings: Settings) -> list[Group]:
    """Lists the groups, the most important first."""
    base = Task(backbone=settings.backbone, px=settings.px, half=True, pinned=False)
    batches = settings.batches
    if settings.is_tiny:
        base, batches = dataclasses.replace(base, **TINY, half=False, pinned=True), (2,)
    trains = []
    for batch in batches:
        task = dataclasses.replace(base, batch=batch)
        trains.append(Group(f"train b{batch}", task, _theirs(task, settings)))
    change = functools.partial(dataclasses.replace, trains[0].base)
    choices = {
        "1x1 as conv": change(one_by_one="conv"),
        "norms recomputed": change(recomputed="norms"),
        "both": change(one_by_one="conv", recomputed="norms"),
        "units recomputed": change(recomputed="units"),
        "batch norm frozen": change(norm="frozen"),
        "batch norm by 16": change(norm_group=min(16, batches[0])),
        "attention": change(head="attention"),
        "gap": change(head="gap"),
    }
    flags = {flag: change(flags=f"--{flag}") for flag in FLAGS if not settings.is_tiny}
    change = functools.partial(change, mode="eval")
    evaluations = {
        **_theirs(change(), settings),
        "not folded": change(folded=False),
        "1x1 as conv": change(one_by_one="conv"),
    }
    return [
        trains[0],
        Group(f"choices b{batches[0]}", trains[0].base, choices),
        Group(f"flags b{batches[0]}", trains[0].base, flags),
        *trains[1:2],
        Group(f"eval b{batches[0]}", change(), evaluations),
        *trains[2:],
    ]


def _theirs(base: Task, settings: Settings) -> dict[str, Task]:
    if settings.is_tiny:  # compiling would take minutes on a CPU
        return {"plain eager": dataclasses.replace(base, side="plain")}
    eager = dataclasses.replace(base, side="timm")
    return {"timm eager": eager, "timm compiled": dataclasses.replace(eager, compiled=True)}


class Session:
    """The remaining time and the output of a run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.end_s = time.monotonic() + settings.budget_s
        self.copy_gb_s: float | None = None

    @property
    def left_s(self) -> float:
        """Returns the remaining seconds of the budget."""
        return self.end_s - time.monotonic()

    def report(self, **line: Any) -> None:
        """Prints a line and appends it to the file, which survives a kill."""
        print(render(line), flush=True)
        if self.settings.json:
            with self.settings.json.open("a") as file:
                file.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def serving(self, title: str, make: Callable[..., Any], *arguments: Any) -> Iterator[Ask]:
        """Starts the process of a row; reports a failure and continues with the next row."""
        try:
            with alternating.serving(sides.serve, make, *arguments) as row:
                yield functools.partial(self._ask, row)
        except Exception as error:
            kind = "" if isinstance(error, RowFailed) else f"{type(error).__name__}: "
            self.report(row=title, failed=f"{kind}{error}")

    def _ask(self, row: Connection, name: str, *arguments: Any) -> Any:
        if self.left_s <= 0:
            raise RowFailed(f"the budget of {self.settings.budget_s:.0f} s is spent")
        return sides.ask(row, name, *arguments, timeout_s=self.left_s)


def run(settings: Settings) -> None:
    """Measures all rows within the budget; a failed row does not affect the others."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # rows share the memory
    session = Session(settings)
    machine = alternating.describe_machine(PACKAGES)
    session.report(row="machine", machine=machine, flags=os.environ.get("XLA_FLAGS", ""))
    with session.serving("peaks", Peaks, settings.is_tiny) as ask:
        peaks = ask("measure")
        session.copy_gb_s = peaks["copy_gb_s"]
        session.report(row="peaks", **peaks)
    with tempfile.TemporaryDirectory() as temporary:
        for group in plan(settings):
            if settings.only not in group.name:
                continue
            if session.left_s <= 0:
                session.report(row=group.name, skipped=NO_TIME)
            else:
                _measure_group(session, group, settings.folder or Path(temporary))


def _measure_group(session: Session, group: Group, folder: Path) -> None:
    base, title = group.base, f"{group.name}: ours"
    with session.serving(title, sides.build, base, folder) as ask:
        measured = ask("prepare")
        ask("save_weights")
        answers: Answers = {CHECKS[base.mode]: ask(CHECKS[base.mode])}
        seconds = [ask("time", session.settings.steps)["wall"] for _ in range(TURNS)]
        session.report(row=title, **_describe_speed(session, base, seconds), **measured)
        for name, task in group.others.items():
            title = f"{group.name}: {name}"
            why = sides.reason_to_skip(task) or (NO_TIME if session.left_s <= 0 else "")
            if why:
                session.report(row=title, skipped=why)
                continue
            with session.serving(title, sides.build, task, folder) as ask_other:
                measured = ask_other("prepare")
                if task.is_same_function(base):
                    theirs: Answers = {check: ask_other(check) for check in answers}
                    measured["differences"] = sides.compare(answers, theirs, TOLERANCE[base.half])
                measured |= _measure_beside(session, ask, ask_other, task)
                session.report(row=title, **measured)


def _measure_beside(session: Session, ask: Ask, ask_other: Ask, task: Task) -> Line:
    """Measures a row in turns with ours: its speed, and its time relative to ours."""
    asks = {"ours": ask, "other": ask_other}
    rounds = alternating.alternate(
        list(asks), TURNS, lambda name: asks[name]("time", session.settings.steps)["wall"]
    )
    ratios = sorted(alternating.divide(rounds, "other", "ours"))
    return {**_describe_speed(session, task, rounds["other"]), "times_ours": ratios}


def _describe_speed(session: Session, task: Task, seconds: list[float]) -> Line:
    median = statistics.median(seconds)
    images = task.batch / median
    line: Line = {"ms": median * 1e3, "images_per_s": images, "seconds": seconds}
    if session.copy_gb_s and task.backbone == "resnet101":
        kind = task.norm if task.mode == "train" else "folded" if task.folded else "not folded"
        traffic_gb = TRAFFIC_GB[task.mode, kind] * (task.px / TRAFFIC_PX) ** 2
        line["share_of_roofline"] = images * traffic_gb / session.copy_gb_s
    return line


def render(line: Line) -> str:
    """Formats a line of a row, in a fixed order."""
    shown = [f"{line['row']:<28}"]
    for name, pattern in FORMATS.items():
        if line.get(name) is not None:
            shown.append(pattern.format(line[name]))
    if "times_ours" in line:
        shown.append(f"time / ours {alternating.spread(line['times_ours']).strip()}")
    return "  ".join(shown)


class Peaks:
    """Measures peak rates of the device: a matrix product and a copy of random numbers."""

    def __init__(self, is_tiny: bool) -> None:
        self.side, self.copied = (256, 2**16) if is_tiny else (8192, 2**30)

    def measure(self) -> Line:
        """Returns TFLOP/s in bfloat16, and GB/s read and written."""
        draw = functools.partial(jax.random.normal, dtype=jnp.bfloat16)
        a, b = (draw(jax.random.key(seed), (self.side, self.side)) for seed in range(2))
        product_s = self._time(jax.jit(jnp.matmul), a, b)
        long = draw(jax.random.key(2), (self.copied,))
        copy_s = self._time(jax.jit(jnp.negative), long)
        return {
            "device": jax.devices()[0].device_kind,
            "matrix_tflop_s": 2 * self.side**3 / product_s / 1e12,
            "copy_gb_s": 2 * long.nbytes / copy_s / 1e9,
        }

    def _time(self, function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
        function(*arguments).block_until_ready()
        calls = 10

        def run(steps: int) -> None:
            jax.block_until_ready([function(*arguments) for _ in range(steps)][-1])

        return statistics.median(sides.clock(run, calls)["wall"] for _ in range(5))
