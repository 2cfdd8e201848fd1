"""Compares RoI max pooling and RoIAlign with loops in float64, on 500 boxes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from gap_jax.models.backbones.vgg import VGG16
from gap_jax.models.cells import Axis, Grid
from gap_jax.models.regions import pool
from tests.support.literal_regions import literal_align, literal_max
from tests.support.small_networks import UNOPTIMISED

IMAGES, BOXES, SIDE, CHANNELS = 2, 250, 3, 2
GRID = Grid(Axis(9, 7.5, 16.0), Axis(11, 7.5, 16.0))  # VGG16's, of 144 x 176 px
OTHER = Grid(Axis(9, 0.0, 16.0), Axis(11, 3.0, 12.0))
KINDS: dict[str, tuple[Any, Any, Callable[..., tuple[np.ndarray, np.ndarray]]]] = {
    "max": (pool.find_bins, pool.pool_max, literal_max),
    "align": (pool.find_samples, pool.pool_mean, literal_align),
}


def draw_boxes(rng: np.random.Generator) -> np.ndarray:
    """Boxes on quarters of pixels: anywhere, beyond the border, without area, of one cell."""
    sizes = np.array([11, 9, 11, 9]) * 16
    boxes = rng.uniform(-0.4, 1.4, (IMAGES, BOXES, 4)) * sizes
    boxes[..., 2:] = np.maximum(boxes[..., :2], boxes[..., 2:])
    boxes[:, ::10, 2] = boxes[:, ::10, 0]
    boxes[:, 1::10, 2:] = boxes[:, 1::10, :2]
    boxes[:, 2::10, 2:] = boxes[:, 2::10, :2] + 12
    boxes[:, 3] = (0, 0, 176, 144)
    boxes[:, 4] = (-90, -90, -50, -50)
    boxes[:, 5] = (200, 160, 260, 300)
    boxes[:, 6] = (-500, -500, 900, 900)
    return (np.round(boxes * 4) / 4).astype(np.float32)


def draw_map(rng: np.random.Generator, *, tied: bool) -> np.ndarray:
    shape = IMAGES, GRID.rows.cells, GRID.columns.cells, CHANNELS
    return (rng.integers(-2, 3, shape) if tied else rng.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "grid", "tied"),
    [("max", GRID, False), ("max", OTHER, True), ("align", GRID, False), ("align", OTHER, False)],
)
def test_pools_and_gradients_match_loops_on_500_boxes(kind: str, grid: Grid, tied: bool) -> None:
    find, reduce, literal = KINDS[kind]
    rng = np.random.default_rng(0)
    boxes, x = draw_boxes(rng), draw_map(rng, tied=tied)
    weights = rng.normal(size=(IMAGES, BOXES, SIDE, SIDE, CHANNELS)).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def compute(x: Array, boxes: Array) -> tuple[Any, ...]:
        def total(x: Array) -> tuple[Array, Array]:
            pooled = reduce(x, find(boxes, grid, SIDE))
            return (pooled.astype(jnp.float32) * weights).sum(), pooled

        half = jax.grad(total, has_aux=True)(x.astype(jnp.bfloat16))
        return jax.grad(total, has_aux=True)(x), half

    (gradient, pooled), (half_gradient, half) = compute(jnp.asarray(x), jnp.asarray(boxes))
    expected, spread = np.zeros(pooled.shape), np.zeros(x.shape)
    for b, m in np.ndindex(IMAGES, BOXES):
        expected[b, m], own = literal(
            x[b].astype(np.float64), boxes[b, m], grid, SIDE, weights[b, m].astype(np.float64)
        )
        spread[b] += own
    atol = 1e-6 if kind == "max" else 2e-5
    np.testing.assert_allclose(pooled, expected, atol=atol)
    np.testing.assert_allclose(gradient, spread, atol=1e-4 * np.abs(spread).max())
    assert half.dtype == half_gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), expected, atol=0.04)
    if tied:
        np.testing.assert_allclose(half_gradient.astype(np.float32), spread, atol=0.3)


def test_vgg16_has_caffes_scale_and_boxes_without_cells_are_zero() -> None:
    """Caffe rounds the last pixel, so 7 cells end at the first pixel of the seventh."""
    backbone = nnx.eval_shape(lambda: VGG16(width=1, rngs=nnx.Rngs(0)))
    grid = Grid(backbone.locate(Axis(144)), backbone.locate(Axis(176)))
    assert grid == GRID
    x = jnp.arange(1.0, 100.0).reshape(1, 9, 11, 1)
    boxes = jnp.array([[[16.0, 32, 113, 129], [190, 0, 200, 10]]])
    pooled = jax.jit(lambda x: pool.pool_max(x, pool.find_bins(boxes, grid, 7)))(x)
    np.testing.assert_array_equal(pooled[0, 0], x[0, 2:9, 1:8])
    assert not pooled[0, 1].any()
    whole = pool.find_samples(jnp.array([[[0.0, 0.0, 176.0, 144.0]]]), grid, 1)
    np.testing.assert_allclose(pool.pool_mean(x, whole)[0, 0, 0, 0], 50, rtol=1e-6)


@pytest.mark.parametrize("find", [pool.find_bins, pool.find_samples])
def test_shares_of_a_region_sum_to_1_and_lie_inside_it(find: Any) -> None:
    boxes = draw_boxes(np.random.default_rng(1))
    find = jax.jit(find, static_argnums=(1, 2))
    cells = find(jnp.asarray(boxes), GRID, 7)
    for shares in pool.cover(cells):
        np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    inside = find(jnp.array([[[40.0, 40.0, 100.0, 88.0]]]), GRID, 7)
    rows, columns = (np.flatnonzero(each[0, 0]) for each in pool.cover(inside))
    assert rows.min() >= 2 and rows.max() <= 6 and columns.min() >= 2 and columns.max() <= 7


def test_map_is_not_copied_for_each_region_and_no_gradient_scatters() -> None:
    """The size of VGG16's map at 600 x 800 px and R*CNN's 30 regions."""
    grid = Grid(Axis(38, 7.5, 16.0), Axis(50, 7.5, 16.0))
    x = jax.ShapeDtypeStruct((1, 38, 50, 512), jnp.float32)
    boxes = jax.ShapeDtypeStruct((1, 30, 4), jnp.float32)
    one_copy = 30 * 38 * 50 * 512 * 4
    for find, reduce, _ in KINDS.values():

        def total(x: Array, boxes: Array, find: Any = find, reduce: Any = reduce) -> Array:
            return jnp.square(reduce(x, find(boxes, grid, 7))).sum()

        compiled = jax.jit(jax.grad(total)).lower(x, boxes).compile()
        assert "scatter" not in (compiled.as_text() or "")
        memory = compiled.memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 2 * one_copy
