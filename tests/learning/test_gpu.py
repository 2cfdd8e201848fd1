"""The full network on a GPU: a step in bfloat16, folding, and both contraction orders."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.gap_pose import get_config
from data_pipelines.example import HostBatch
from gap_jax.config import Config
from gap_jax.learning import sharding
from gap_jax.learning.setup import describe_state
from gap_jax.learning.state import Model, Variables, fold_network, split_network, start_state
from gap_jax.learning.steps import build_train_step
from gap_jax.models.build import build

pytestmark = pytest.mark.gpu
CLASSES, ROWS = 393, 4


def configure(**model: Any) -> Config:
    cfg = get_config("gap_pose")
    cfg.data.image_size_px, cfg.data.short_side_px = 448, 480
    cfg.train.batch_size, cfg.train.accumulate, cfg.eval.batch_size = ROWS, 1, ROWS
    for name, value in model.items():
        setattr(cfg.model, name, value)
    return cfg.resolved()


def draw_images(cfg: Config) -> np.ndarray:
    side = cfg.data.image_size_px
    return np.random.default_rng(0).integers(0, 256, (ROWS, side, side, 3), np.uint8)


def draw_batch(cfg: Config) -> HostBatch:
    keypoints = np.full((ROWS, 1, 16, 3), 2, np.float32)
    keypoints[..., :2] = np.random.default_rng(1).uniform(0, 448, (ROWS, 1, 16, 2))
    return HostBatch(
        image=draw_images(cfg),
        keypoints=keypoints,
        disc_radius=np.full(ROWS, 20, np.float32),
        label=np.arange(ROWS, dtype=np.int32),
        weight=np.ones(ROWS, np.float32),
        id=np.arange(ROWS, dtype=np.int64),
    )


def build_and_split(cfg: Config) -> tuple[Model, Variables]:
    return split_network(build(cfg, CLASSES, 0))


def test_bfloat16_step_updates_every_parameter() -> None:
    cfg = configure(dtype="bfloat16")
    mesh = sharding.make_mesh(cfg, jax.devices()[:1])
    model, variables = build_and_split(cfg)
    optimizer, _ = describe_state(cfg, variables)
    before = start_state(variables, optimizer, averaged=False)
    step = jax.jit(build_train_step(cfg, model, optimizer, mesh))
    after, metrics = step(before, sharding.globalise([draw_batch(cfg)], mesh))
    numbers = metrics.compute()
    assert numbers["finite"] == 1 and abs(numbers["loss_action"] - np.log(CLASSES)) < 0.5
    moved = jax.tree.map(
        lambda old, new: bool((old != new).any()),
        before.variables.params,
        after.variables.params,
    )
    assert all(jax.tree.leaves(moved))


def test_folding_and_contraction_order_keep_logits() -> None:
    """Uses float32 and initial statistics."""
    cfg = configure(dtype="float32", dropout=0.0)
    model, variables = build_and_split(cfg)
    folded, multiplied = fold_network(model, variables)
    image = jnp.asarray(draw_images(cfg))
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(lambda v, x: model.apply(v, x)[0].logits)(variables, image)
        maps = jax.jit(lambda v, x: model.apply(v, x, want_maps=True)[0].logits)(variables, image)
        fast = jax.jit(lambda v, x: folded.apply(v, x)[0].logits)(multiplied, image)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(fast, expected, rtol=1e-3, atol=1e-3 * scale)


def test_bfloat16_is_near_float32() -> None:
    exact = configure(dtype="float32", dropout=0.0)
    rough = dataclasses.replace(
        exact, model=dataclasses.replace(exact.model, dtype="bfloat16")
    ).resolved()
    variables = build_and_split(exact)[1]
    image = jnp.asarray(draw_images(exact))
    logits = [
        jax.jit(lambda v, x, model=model: model.apply(v, x)[0].logits)(variables, image)
        for model in (build_and_split(cfg)[0] for cfg in (exact, rough))
    ]
    scale = float(jnp.abs(logits[0]).max())
    np.testing.assert_allclose(logits[1], logits[0], rtol=0.1, atol=0.1 * scale)
