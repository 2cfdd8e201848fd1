"""Tasks and steps of one row, ours or PyTorch's, and the protocol of its process."""

import dataclasses
import importlib
import importlib.util
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int, UInt8

from benchmarks.alternating import RowFailed, pin

CELL_PX = 16  # white noise would give all images the same mean
LOSSES = 3  # of consecutive steps: the second depends on all gradients of the first
WEIGHTS = "weights.npz"
TINY: dict[str, Any] = {"backbone": "resnet50", "stage": 1, "px": 32, "classes": 5}

Answers = dict[str, list[float] | np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """The work of a row. `plain` is our PyTorch network, `timm` that of timm."""

    side: Literal["ours", "plain", "timm"] = "ours"
    mode: Literal["train", "eval"] = "train"
    head: Literal["mean", "attention", "gap"] = "mean"
    backbone: str = "resnet101"
    stage: int = 0
    px: int = 224
    batch: int = 2
    classes: int = 393
    half: bool = False  # bfloat16
    norm: Literal["train", "frozen"] = "train"
    norm_group: int = 0  # images; 0 is the whole batch, as in PyTorch
    folded: bool = True  # batch norm, in evaluation
    one_by_one: Literal["dot", "conv"] = "dot"
    recomputed: Literal["nothing", "units", "norms"] = "nothing"  # in the backward pass
    flags: str = ""  # of XLA, beside those of the environment
    compiled: bool = False  # torch.compile
    pinned: bool = True

    @property
    def input(self) -> str:
        """The choice of `model.input`; with large values relu6 would give the same everywhere."""
        return "efficientnet_lite" if self.backbone.startswith("efficientnet") else "reference"

    def is_same_function(self, other: "Task") -> bool:
        """Returns whether both must compute the same numbers."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("mode", "head", "backbone", "stage", "px", "batch", "norm", "norm_group")
        )


class Step(Protocol):
    """The interface of a step, built from a task and the folder of the shared weights."""

    def prepare(self) -> dict[str, Any]:
        """Compiles, runs a step or two, and returns measurements; then resets the state."""
        ...

    def logits(self) -> Float[np.ndarray, "b k"]:
        """Returns the logits before the first step, with batch norm as in the step."""
        ...

    def losses(self) -> list[float]:
        """Returns the losses of the first LOSSES training steps."""
        ...

    def time(self, steps: int) -> dict[str, float]:
        """Measures steps with `clock`, until the device is idle."""
        ...


def reason_to_skip(task: Task) -> str:
    """Returns the reason if a task cannot be measured here, else an empty text."""
    needed = {"ours": (), "plain": ("torch",), "timm": ("torch", "timm")}[task.side]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return ""


def draw_batch(task: Task) -> tuple[UInt8[np.ndarray, "b h w 3"], Int[np.ndarray, " b"]]:
    """Draws images of coloured squares and their labels, the same on both sides."""
    rng = np.random.default_rng(0)
    cells = -(-task.px // CELL_PX)
    squares = rng.integers(0, 256, (task.batch, cells, cells, 3), np.uint8)
    pictures = squares.repeat(CELL_PX, 1).repeat(CELL_PX, 2)[:, : task.px, : task.px]
    return pictures, rng.integers(0, task.classes, task.batch)


def build(task: Task, folder: Path) -> Step:
    """Builds the step of a task; imports its framework only in the row's process."""
    if task.pinned:
        pin()
    if task.flags:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {task.flags}"
    module = "jax_side" if task.side == "ours" else "torch_side"
    return importlib.import_module(f"benchmarks.{module}").build(task, folder)


def serve(make: Callable[..., Any], *rest: Any) -> None:
    """Calls `make` with all arguments but the last, a pipe; then answers its orders until a False.

    An order is a method's name and arguments. The last answer may be an exception.
    """
    *arguments, orders = rest
    try:
        served = make(*arguments)
        while order := orders.recv():
            name, *details = order
            orders.send(getattr(served, name)(*details))
    except Exception as error:
        orders.send(RowFailed(f"{type(error).__name__}: {error}".partition("\n")[0]))


def clock(run: Callable[[int], None], steps: int) -> dict[str, float]:
    """Returns the wall and CPU seconds of a step.

    A first step is not counted: while a row waits, a virtual machine may reclaim memory that the
    next step has to get again.
    """
    run(1)
    wall, cpu = time.perf_counter(), time.process_time()
    run(steps)
    return {
        "wall": (time.perf_counter() - wall) / steps,
        "cpu": (time.process_time() - cpu) / steps,
    }


def ask(row: Connection, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
    """Sends an order to a row; returns the answer."""
    try:
        row.send((name, *arguments))
        if not row.poll(timeout_s):
            raise RowFailed(f"{name}: no answer within {timeout_s:.0f} s")
        answer = row.recv()
    except (EOFError, OSError) as error:
        raise RowFailed(f"{name}: its process died") from error
    if isinstance(answer, RowFailed):
        raise answer
    return answer


def compare(ours: Answers, theirs: Answers, most: float) -> dict[str, float]:
    """Returns the largest difference of each answer relative to its largest value.

    Refuses a difference above `most`, or nan.
    """
    shares = {}
    for name in ours:
        a, b = (np.asarray(side[name], np.float64) for side in (ours, theirs))
        if a.shape != b.shape:
            raise RowFailed(f"{name}: shapes {a.shape} and {b.shape} differ")
        shares[name] = float(np.abs(a - b).max() / np.abs(b).max())
        if not shares[name] <= most:
            raise RowFailed(
                f"{name} differ by {shares[name]:.1e} of the largest, more than {most:.0e}"
            )
    return shares
