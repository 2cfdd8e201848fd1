"""Measures the CPU seconds of a training step that reads people's boxes, beside mean pooling.

R*CNN has one person and ten secondary regions in each image. `dense` has VGG16's fc6 and fc7, which
all regions share; the other rows have narrow layers in their place, so that they show the cost of
the regions.
"""

import contextlib
import os
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks import alternating, sides
from benchmarks.alternating import Ratio, Rounds, serving
from benchmarks.sides import Task, ask

REGIONS, NARROW = 10, (8, 8)
STEPS = 2  # of a turn
RATIOS: tuple[Ratio, ...] = (
    ("rcnn", "mean", ""),
    ("rstarcnn", "mean", "<= 1.25"),
    ("rstarcnn align", "mean", "<= 1.25"),
    ("people", "mean", ""),
    ("dense", "mean", ""),
)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # method, fields of the model
    "mean": ("mean", {}),
    "rcnn": ("rcnn", {"region_widths": NARROW}),
    "rstarcnn": ("rstarcnn", {"region_widths": NARROW}),
    "rstarcnn align": ("rstarcnn", {"region_widths": NARROW, "region_pool": "align"}),
    "people": ("attention", {"regions": "people"}),
    "dense": ("rstarcnn", {}),
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Result(NamedTuple):
    """The CPU seconds of every row, and the wall seconds until its first step was done."""

    task: Task
    machine: str
    rounds: Rounds
    compile_s: dict[str, float]


def measure(task: Task, turns: int, names: list[str] | None = None) -> Result:
    """Measures every row in every turn; `mean` is among them."""
    chosen = [name for name in ROWS if names is None or name in ("mean", *names)]
    compile_s: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        rows: dict[str, Any] = {}
        for name in chosen:
            rows[name] = stack.enter_context(serving(sides.serve, build, task, name))
            compile_s[name] = ask(rows[name], "prepare")["compile_s"]

        def cpu_seconds(name: str) -> float:
            return ask(rows[name], "time", STEPS)["cpu"]

        rounds = alternating.alternate(chosen, turns, cpu_seconds)
        machine = alternating.describe_machine(PACKAGES)
    return Result(task, machine, rounds, compile_s)


def build(task: Task, name: str) -> "Step":
    """Builds the step of a row in the row's process."""
    if task.pinned:
        alternating.pin()
    os.environ["JAX_PLATFORMS"] = "cpu"
    return Step(task, name)


class Step:
    """The training step of a row on a fixed batch."""

    def __init__(self, task: Task, name: str) -> None:
        import jax

        from benchmarks.jax_side import draw_variables
        from configs.gap_pose import get_config
        from data_pipelines.manifest import Manifest
        from gap_jax.learning.setup import assemble
        from gap_jax.learning.sharding import globalise

        method, fields = ROWS[name]
        cfg = get_config(method)
        cfg.pose.branch, cfg.model.saliency_input = False, "features"
        cfg.model.backbone, cfg.model.stage = task.backbone, task.stage
        cfg.model.input, cfg.model.dtype = "reference", "float32"
        cfg.model.norm_group_size = task.batch
        for field, value in fields.items():
            setattr(cfg.model, field, value)
        cfg.data.image_size_px = task.px
        cfg.optim.frozen = ()  # as `mean`
        cfg.train.batch_size, cfg.train.accumulate, cfg.eval.batch_size = task.batch, 1, task.batch
        classes = tuple(map(str, range(task.classes)))
        data = Manifest("mpii", "single", classes, 1, {}, {})
        self._setup = assemble(cfg.resolved(), data, jax.devices()[:1])
        self._state = self._setup.start(draw_variables(self._setup.target.variables))
        batch = draw_rows(task, self._setup.cfg.data.regions, cfg.model.reads_boxes)
        self._batch = globalise([batch], self._setup.mesh)

    def prepare(self) -> dict[str, float]:
        """Compiles the step and runs it once."""
        start = time.perf_counter()
        self._step = self._setup.train_step.lower(self._state, self._batch).compile()
        self._run(1)
        return {"compile_s": time.perf_counter() - start}

    def time(self, steps: int) -> dict[str, float]:
        """Returns the seconds of a step."""
        return sides.clock(self._run, steps)

    def _run(self, steps: int) -> None:
        import jax

        for _ in range(steps):
            self._state, _ = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)


def draw_rows(task: Task, regions: int, reads_boxes: bool) -> Any:
    """Draws images of coloured squares, and boxes that cover a tenth to the whole of each side."""
    from benchmarks.jax_side import draw_host_batch
    from data_pipelines.example import People

    rng, rows = np.random.default_rng(1), task.batch
    size = rng.uniform(0.1, 1, (rows, 1, 1 + regions, 2)) * task.px
    corner = rng.uniform(0, 1, size.shape) * (task.px - size)
    boxes = np.concatenate([corner, corner + size], axis=-1).astype(np.float32)
    people = People(boxes[:, :, 0], boxes[:, :, 1:], np.full((rows, 1), -1, np.int32))
    return draw_host_batch(task)._replace(people=people if reads_boxes else None)


def render(result: Result) -> str:
    """Renders the machine and the table."""
    task = result.task
    title = (
        f"train step of {task.backbone}, {task.px} px, batch {task.batch}, one person with "
        f"{REGIONS} regions, float32, one thread: CPU s"
    )
    compiled = [f"{name} {seconds:.0f}" for name, seconds in result.compile_s.items()]
    lines = [
        result.machine,
        "",
        alternating.render(title, result.rounds, {}, RATIOS),
        f"  wall s until the first step was done: {', '.join(compiled)}",
    ]
    return "\n".join(lines)
