"""Ten minutes on a GPU: its peaks, our step at 448 px beside timm's, and what each choice costs."""

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

TRAFFIC_GB = {  # least memory traffic for an image of ResNet-101 at 448 px in bfloat16
    ("train", "train"): 2.04,  # batch norm reads once for statistics, once to normalise
    ("train", "frozen"): 1.65,
    ("eval", "folded"): 0.336,
    ("eval", "not folded"): 0.595,
}
TRAFFIC_PX = 448
TOLERANCE = {True: 5e-2, False: 1e-3}  # in bfloat16, in float32
CHECKS = {"train": "losses", "eval": "logits"}
TURNS = 3
NO_TIME = "no time is left"
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "timm", "nvidia-cudnn-cu13")

FIELDS = {  # of a printed line
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
    """What a person can choose; `only` is a part of the groups' names.

    `folder` keeps the compilation cache, with which a second start comes further.
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
    """Rows beside ours, which stays while the others come and go."""

    name: str
    base: Task
    others: dict[str, Task]


def plan(settings: Settings) -> list[Group]:
    """The groups, the most wanted first."""
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
        "batch norm frozen": change(norm="frozen"),
        "batch norm by 16": change(norm_group=min(16, batches[0])),
        "attention": change(head="attention"),
        "gap": change(head="gap"),
    }
    change = functools.partial(change, mode="eval")
    evaluations = {
        **_theirs(change(), settings),
        "not folded": change(folded=False),
        "1x1 as conv": change(one_by_one="conv"),
    }
    return [
        *trains[:2],
        Group(f"choices b{batches[0]}", trains[0].base, choices),
        Group(f"eval b{batches[0]}", change(), evaluations),
        *trains[2:],
    ]


def _theirs(base: Task, settings: Settings) -> dict[str, Task]:
    if settings.is_tiny:  # compiling would take minutes on a CPU
        return {"plain eager": dataclasses.replace(base, side="plain")}
    eager = dataclasses.replace(base, side="timm")
    return {"timm eager": eager, "timm compiled": dataclasses.replace(eager, compiled=True)}


class Session:
    """One run of the script: what is left of its time, and where its lines go."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.end_s = time.monotonic() + settings.budget_s
        self.copy_gb_s: float | None = None

    @property
    def left_s(self) -> float:
        """What is left of the budget."""
        return self.end_s - time.monotonic()

    def say(self, **line: Any) -> None:
        """Prints a line and appends it to the file, so that a killed run leaves what it had."""
        print(render(line), flush=True)
        if self.settings.json:
            with self.settings.json.open("a") as file:
                file.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def serving(self, title: str, make: Callable[..., Any], *arguments: Any) -> Iterator[Ask]:
        """A row's process; whatever fails in it is told, and the next row comes."""
        try:
            with alternating.serving(sides.serve, make, *arguments) as row:
                yield functools.partial(self._ask, row)
        except Exception as error:
            kind = "" if isinstance(error, RowFailed) else f"{type(error).__name__}: "
            self.say(row=title, failed=f"{kind}{error}")

    def _ask(self, row: Connection, name: str, *arguments: Any) -> Any:
        if self.left_s <= 0:
            raise RowFailed(f"the budget of {self.settings.budget_s:.0f} s is spent")
        return sides.ask(row, name, *arguments, timeout_s=self.left_s)


def run(settings: Settings) -> None:
    """Everything that there is time for; a row that fails costs only itself."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # rows share the memory
    session = Session(settings)
    machine = alternating.describe_machine(PACKAGES)
    session.say(row="machine", machine=machine, flags=os.environ.get("XLA_FLAGS", ""))
    with session.serving("peaks", Peaks, settings.is_tiny) as ask:
        peaks = ask("measure")
        session.copy_gb_s = peaks["copy_gb_s"]
        session.say(row="peaks", **peaks)
    with tempfile.TemporaryDirectory() as temporary:
        for group in plan(settings):
            if settings.only not in group.name:
                continue
            if session.left_s <= 0:
                session.say(row=group.name, skipped=NO_TIME)
            else:
                _measure_group(session, group, settings.folder or Path(temporary))


def _measure_group(session: Session, group: Group, folder: Path) -> None:
    base, title = group.base, f"{group.name}: ours"
    with session.serving(title, sides.build, base, folder) as ask:
        facts = ask("prepare")
        ask("save_weights")
        answers: Answers = {CHECKS[base.mode]: ask(CHECKS[base.mode])}
        seconds = [ask("time", session.settings.steps)["wall"] for _ in range(TURNS)]
        session.say(row=title, **_describe_speed(session, base, seconds), **facts)
        for name, task in group.others.items():
            title = f"{group.name}: {name}"
            why = sides.reason_to_skip(task) or (NO_TIME if session.left_s <= 0 else "")
            if why:
                session.say(row=title, skipped=why)
                continue
            with session.serving(title, sides.build, task, folder) as ask_other:
                facts = ask_other("prepare")
                if task.is_same_function(base):
                    theirs: Answers = {check: ask_other(check) for check in answers}
                    facts["differences"] = sides.compare(answers, theirs, TOLERANCE[base.half])
                facts |= _measure_beside(session, ask, ask_other, task)
                session.say(row=title, **facts)


def _measure_beside(session: Session, ask: Ask, ask_other: Ask, task: Task) -> Line:
    """A row and ours in turns: its speed, and its time as a multiple of ours."""
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
    """One line for people: what is known of a row, in a fixed order."""
    shown = [f"{line['row']:<28}"]
    for name, pattern in FIELDS.items():
        if line.get(name) is not None:
            shown.append(pattern.format(line[name]))
    if "times_ours" in line:
        shown.append(f"time / ours {alternating.spread(line['times_ours']).strip()}")
    return "  ".join(shown)


class Peaks:
    """What the device can do at best: a matrix product and a copy, on random numbers."""

    def __init__(self, is_tiny: bool) -> None:
        self.side, self.copied = (256, 2**16) if is_tiny else (8192, 2**30)

    def measure(self) -> Line:
        """TFLOP/s in bfloat16, and GB/s that are read and written."""
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
