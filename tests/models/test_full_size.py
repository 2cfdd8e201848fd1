"""The paper's network at full size: its parameters, and a step on 450 px and MPII's 393 actions.

The step is ResNet-50's: the same map and units as ResNet-101's in half the time.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.example import HostBatch
from data_pipelines.manifest import Manifest, Split
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning.setup import assemble
from gap_jax.learning.sharding import globalise
from gap_jax.learning.state import Variables, describe_model
from gap_jax.runtime.digests import name_leaves
from gap_jax.weights.native import name_arrays, replace_arrays
from tests.support.saved_runs import fill_variables
from tests.support.small_networks import UNOPTIMISED
from tests.support.step_courses import begin

pytestmark = pytest.mark.slow

CLASSES, IMAGES, SIDE_PX = 393, 1, 450
SMALL = 1e-3  # initial scale of the pooling
# the saliency's and the top-down parameters, as docs/method.md counts them
SALIENCY, TOP_DOWN, BACKBONE = 18_882_561, 805_257, 42_500_160


def draw_batch() -> HostBatch:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (IMAGES, 15, 15, 3), dtype=np.uint8)
    keypoints = np.full((IMAGES, 1, 16, 3), 2, np.float32)
    keypoints[..., :2] = rng.uniform(0, SIDE_PX, (IMAGES, 1, 16, 2))
    return HostBatch(
        image=small.repeat(SIDE_PX // 15, axis=1).repeat(SIDE_PX // 15, axis=2),
        keypoints=keypoints,
        disc_radius=np.full(IMAGES, 22, np.float32),
        label=np.array([CLASSES - 1], np.int32),
        weight=np.ones(IMAGES, np.float32),
        id=np.arange(IMAGES, dtype=np.int64),
    )


def draw_variables(shapes: Variables) -> Variables:
    """Draws values like those of `build`, whose compilation takes longer than the step."""
    values: dict[str, jax.Array] = {}
    for name, leaf in name_arrays(fill_variables(shapes, 0)).items():
        if name.endswith(("gamma", "var")):
            leaf = jnp.ones_like(leaf)
        elif not name.endswith("kernel"):
            leaf = jnp.zeros_like(leaf)
        elif name in ("pooling/kernel", "pooling/saliency/last/kernel"):
            leaf = leaf * (SMALL / leaf.std())
        values[name] = leaf
    return replace_arrays(shapes, values)


def configure(*overrides: str) -> Config:
    fields = (
        f"train.batch_size={IMAGES}", "train.accumulate=1", f"eval.batch_size={IMAGES}",
        "init.allow_random=true", *overrides,
    )  # fmt: skip
    return read_config("configs/gap_pose.py", [f"--config.{each}" for each in fields])


def test_paper_network_has_published_parameters() -> None:
    _, variables = describe_model(configure(), CLASSES)
    sizes = {name: leaf.size for name, leaf in name_leaves(variables.params).items()}

    def count(*tops: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(tops))

    assert count("backbone/") == BACKBONE
    assert count("pooling/saliency/") == SALIENCY
    assert count("pooling/") == SALIENCY + TOP_DOWN


def test_full_size_network_trains_one_step() -> None:
    cfg = configure("model.backbone=resnet50")
    split = Split(CLASSES, CLASSES, CLASSES, (1,) * CLASSES, "", ())
    data = Manifest("mpii", "single", tuple(map(str, range(CLASSES))), 1, {"train": split}, {})
    setup = assemble(cfg, data, jax.devices()[:1])
    state = begin(setup, draw_variables(setup.target.variables))
    batch = globalise([draw_batch()], setup.mesh)
    step = setup.train_step.lower(state, batch).compile(compiler_options=UNOPTIMISED)
    state, metrics = step(state, batch)
    values = jax.device_get(metrics).compute()
    assert all(np.isfinite(value) for value in values.values())
    assert values["finite"] == 1 and values["grad_norm"] > 0 and values["loss_pose"] > 0
    assert abs(values["loss_action"] - math.log(CLASSES)) < 0.05
    assert (
        abs(values["loss"] - values["loss_action"] - cfg.pose.weight * values["loss_pose"]) < 1e-5
    )
    gradients = name_leaves(jax.device_get(state.opt_state))
    still = [name for name, leaf in gradients.items() if not leaf.any()]
    assert len(gradients) == len(jax.tree.leaves(setup.target.variables.params)) and not still
