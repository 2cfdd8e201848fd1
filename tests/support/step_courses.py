"""Runs a few training steps on drawn batches, on any number of simulated devices."""

import functools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines.example import HostBatch
from data_pipelines.manifest import Manifest, Split
from gap_jax.batch import Batch
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.sharding import globalise
from gap_jax.learning.state import TrainState, Variables
from gap_jax.runtime.digests import name_leaves
from tests.support.saved_runs import fill_variables
from tests.support.small_networks import UNOPTIMISED

CLASSES, SIDE_PX = 8, 16
PEOPLE = Manifest(
    "people",
    "single",
    tuple("abcdefgh"),
    2,
    {"train": Split(80, 80, 80, (10,) * CLASSES, "", ())},
    {},
)
SMALL = {
    "data.image_size_px": SIDE_PX, "data.short_side_px": SIDE_PX, "eval.batch_size": 128,
    "model.stage": 2, "model.widths": (96, 48), "model.dropout": 0.5, "model.norm_group_size": 16,
    "pose.hidden": (8,), "train.batch_size": 128, "train.ema_decay": 0.9,
}  # fmt: skip
Values = tuple[tuple[str, Any], ...]
Numbers = dict[str, Any]  # of a step's TrainMetrics


class Course(NamedTuple):
    """The state after some steps, and the metrics of each."""

    state: TrainState
    metrics: list[Numbers]


def configure(values: Values = ()) -> Config:
    """A smaller config of the demo with these values."""
    fields = {**SMALL, **dict(values)}
    return read_config(
        "configs/gap_pose.py:demo", [f"--config.{name}={value}" for name, value in fields.items()]
    )


def draw_batch(seed: int, cfg: Config) -> list[HostBatch]:
    """The micro-batches of a batch with some unlabelled images and unannotated joints."""
    rng = np.random.default_rng(seed)
    images, side = cfg.train.batch_size, cfg.data.image_size_px
    keypoints = np.zeros((images, 2, 16, 3), np.float32)
    keypoints[..., :2] = rng.uniform(0, side, (images, 2, 16, 2))
    keypoints[..., 2] = rng.integers(0, 3, (images, 2, 16))
    whole = HostBatch(
        image=rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8),
        keypoints=keypoints,
        disc_radius=np.full(images, 2, np.float32),
        label=rng.integers(0, CLASSES, images).astype(np.int32),
        weight=(rng.random(images) < 0.9).astype(np.float32),
        id=np.arange(images, dtype=np.int64),
    )
    parts, size = cfg.train.accumulate, images // cfg.train.accumulate
    return [
        jax.tree.map(lambda array, part=part: array[part * size : (part + 1) * size], whole)
        for part in range(parts)
    ]


def begin(setup: Setup, variables: Variables | None = None) -> TrainState:
    """The state before the first step, drawn by numpy, so that nothing is compiled for it."""
    target = setup.target
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), target)
    variables = jax.device_get(variables or fill_variables(target.variables, 0))
    state = zeros._replace(variables=variables, ema=variables if target.ema else ())
    return jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), state, target)


def set_up(devices: int, values: Values = ()) -> tuple[Setup, Batch]:
    """The setup of a run on that number of devices, and its first batch."""
    cfg = configure(values)
    setup = assemble(cfg, PEOPLE, jax.devices()[:devices])
    return setup, globalise(draw_batch(0, cfg), setup.mesh)


def lower_step(devices: int, values: Values = ()) -> tuple[Setup, Any]:
    """Lowers the step for that number of devices."""
    setup, batch = set_up(devices, values)
    return setup, setup.train_step.lower(setup.target, batch)


@functools.cache
def compile_step(devices: int, values: Values = ()) -> tuple[Setup, Any]:
    """Compiles the step."""
    setup, lowered = lower_step(devices, values)
    return setup, lowered.compile(compiler_options=UNOPTIMISED)


@functools.cache
def take_steps(steps: int, devices: int, values: Values = ()) -> Course:
    """Runs the first steps."""
    state, metrics_of_steps = walk(
        begin(compile_step(devices, values)[0]), range(steps), devices, values
    )
    return Course(jax.device_get(state), metrics_of_steps)


def walk(
    state: TrainState, numbers: Iterable[int], devices: int, values: Values = ()
) -> tuple[TrainState, list[Numbers]]:
    """Continues from a state with the batches of these numbers."""
    setup, step = compile_step(devices, values)
    metrics_of_steps = []
    for number in numbers:
        state, metrics = step(state, globalise(draw_batch(number, setup.cfg), setup.mesh))
        metrics_of_steps.append(jax.device_get(metrics).compute())
    return state, metrics_of_steps


def distance(a: Any, b: Any) -> float:
    """Relative L2 distance of two trees."""
    named, others = name_leaves(a), name_leaves(b)
    assert named.keys() == others.keys()
    apart = sum(_square(named[name] - others[name].astype(np.float64)) for name in named)
    return float(np.sqrt(apart / sum(_square(leaf) for leaf in named.values())))


def _square(leaf: np.ndarray) -> float:
    return float(np.square(np.asarray(leaf, np.float64)).sum())


def assert_agree(one: Course, other: Course) -> None:
    """Checks 1e-5 in each part of the state and in the metrics, 1e-4 in every leaf."""
    mine, theirs = name_parts(one.state), name_parts(other.state)
    for part, tree in mine.items():
        assert distance(tree, theirs[part]) < 1e-5, part
        leaves, others = name_leaves(tree), name_leaves(theirs[part])
        for name, leaf in leaves.items():
            assert distance([leaf], [others[name]]) < 1e-4, f"{part}/{name}"
    for a, b in zip(one.metrics, other.metrics, strict=True):
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)


def name_parts(state: TrainState) -> dict[str, Any]:
    """Splits the state into parts of similar magnitude."""
    return {
        "parameters": state.variables.params,
        "statistics": state.variables.stats,
        "optimizer": state.opt_state,
        "average of parameters": state.ema[:1],
        "average of statistics": state.ema[1:],
    }


def count_convolutions(text: str) -> int:
    """Those in a lowered or compiled program."""
    return len(re.findall(r"[ .]convolution\(", text))
