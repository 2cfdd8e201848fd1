"""Compares convolution, batch norm over groups and max-pooling with numpy."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from gap_jax.models.backbones.inception import Block, Pool
from gap_jax.models.layers import BatchNorm, Conv, Norm, Padding, max_pool
from tests.support import oracles
from tests.support.compiling import FUSION_FLAG

RNG = np.random.default_rng(0)


def random_map(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def f64(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def compiled_text(function: Callable[..., Any], x: Array, **options: Any) -> str:
    """Compiles without the test suite's flags and returns the HLO text."""
    lowered = jax.jit(function, **options).lower(x)
    text = lowered.compile(dict.fromkeys(FUSION_FLAG, True)).as_text()
    assert text is not None
    return text


def convolution(size: int, stride: int) -> Conv:
    return Conv(5, 4, size=size, stride=stride, bias=True, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("shape", [(2, 9, 8, 5), (1, 12, 7, 5)])
def test_convolution_matches_numpy(size: int, stride: int, shape: tuple[int, ...]) -> None:
    conv, x = convolution(size, stride), random_map(*shape)
    conv.bias = nnx.Param(jnp.arange(4.0))
    expected = oracles.convolve(f64(x), f64(conv.kernel[...]), stride) + np.arange(4)
    ours = conv(jnp.asarray(x))
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    if size == 1:
        conv.as_product = False
        np.testing.assert_allclose(conv(jnp.asarray(x)), ours, atol=1e-5)


@pytest.mark.slow
def test_arithmetic_has_input_type_and_parameters_are_float32() -> None:
    for size in (1, 3):
        conv = convolution(size, 1)
        norm = BatchNorm(4, Norm(2))
        y = norm(conv(jnp.ones((2, 4, 4, 5), jnp.bfloat16)), train=True)
        assert y.dtype == jnp.bfloat16
        assert {v.dtype for v in jax.tree.leaves(nnx.state((conv, norm)))} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_symbolic_sizes_export() -> None:
    """A strided 1x1 convolution and a strided 3x3 one have the same size for an exporter."""
    one, three = convolution(1, 2), convolution(3, 2)

    def both(x: Array) -> Array:
        x = mean_pool("mean")(max_pool(x, "same") + max_pool(x, "symmetric"), train=False)
        return one(x) + three(x) + max_pool(x, "valid").mean()

    shape = export.symbolic_shape("b, h, w, 5", constraints=("h >= 8", "w >= 8"))
    exported = export.export(jax.jit(both))(jax.ShapeDtypeStruct(shape, jnp.float32))
    for size in ((2, 9, 16, 5), (1, 16, 11, 5)):
        x = jnp.asarray(random_map(*size))
        np.testing.assert_allclose(exported.call(x), both(x), atol=1e-5)


def mean_pool(of: Literal["mean", "mean of nine"]) -> Block:
    return Block(3, (Pool(of),), bias=False, norm=Norm(), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("of", ["mean", "mean of nine"])
def test_mean_pool_excludes_or_counts_padding(of: Literal["mean", "mean of nine"]) -> None:
    x = random_map(2, 5, 4, 3)
    expected = np.empty(x.shape)
    for row, column in np.ndindex(5, 4):
        window = f64(x)[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        cells = 9 if of == "mean of nine" else window.shape[1] * window.shape[2]
        expected[:, row, column] = window.sum((1, 2)) / cells
    np.testing.assert_allclose(mean_pool(of)(jnp.asarray(x), train=False), expected, atol=1e-6)


@pytest.mark.parametrize(("group_size", "group"), [(2, 2), (3, 3), (16, 6)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_batch_norm_matches_numpy_for_each_group(
    group_size: int, group: int, dtype: jnp.dtype, tolerance: float
) -> None:
    norm = BatchNorm(4, Norm(group_size, decay=0.9, eps=1e-3))
    gamma, beta, mean, var = RNG.normal(size=(4, 4)).astype(np.float32)
    assert norm.gamma is not None
    norm.gamma[...], norm.beta[...], norm.mean[...], norm.var[...] = gamma, beta, mean, var**2
    x = jnp.asarray(random_map(6, 3, 2, 4) * 3 + 1, dtype)
    y, group_mean, group_var = oracles.batch_norm(f64(x), gamma, beta, group, 1e-3)
    running = (f64(x) - mean) / np.sqrt(var**2 + 1e-3) * gamma + beta
    scale = np.abs(running).max()
    np.testing.assert_allclose(f64(norm(x, train=False)), running, atol=tolerance * scale)
    np.testing.assert_array_equal(norm.mean[...], mean)
    np.testing.assert_allclose(f64(norm(x, train=True)), y, atol=tolerance * np.abs(y).max())
    np.testing.assert_allclose(norm.mean[...], 0.9 * mean + 0.1 * group_mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 * var**2 + 0.1 * group_var, rtol=1e-5)


@pytest.mark.parametrize("ratio", [0, 1, 1000])
def test_batch_norm_is_precise_with_large_means(ratio: int) -> None:
    """Checks the first step, before the running mean is useful."""
    x = (random_map(32, 15, 15, 4) + np.float32(ratio)).astype(np.float32)
    y, mean, var = oracles.batch_norm(f64(x), np.ones(4), np.zeros(4), 16, 1e-5)
    norm = BatchNorm(4, Norm(16, decay=0.0))
    tolerance = 1e-6 * max(ratio, 1)  # what float32 leaves of x itself
    np.testing.assert_allclose(norm(jnp.asarray(x), train=True), y, atol=3 * tolerance)
    np.testing.assert_allclose(norm.mean[...], mean, atol=tolerance)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-5 + tolerance / 10)


@pytest.mark.slow
def test_constant_channel_has_no_negative_variance() -> None:
    """Only the pixel in the middle differs; without the clip rounding gives a variance of -128."""
    x = jnp.full((1, 4096, 4096, 1), 3e4).at[0, 2048, 2048].set(-1.1e4)
    normed = jax.jit(lambda x: BatchNorm(1, Norm(1))(x, train=True))(x)
    assert jnp.isfinite(normed).all()


@pytest.mark.parametrize(("ratio", "tolerance"), [(0, 1e-5), (1000, 2e-3)])
def test_gradient_includes_group_statistics(ratio: int, tolerance: float) -> None:
    norm = BatchNorm(2, Norm(2, eps=1e-3))
    graph, state, rest = nnx.split(norm, nnx.Param, ...)
    rng = np.random.default_rng(1)
    x, weight = random_map(4, 3, 2, 2) + np.float32(ratio), rng.normal(size=(4, 3, 2, 2))
    at = {"x": f64(x), "gamma": rng.normal(size=2), "beta": rng.normal(size=2)}

    def literal(values: Mapping[str, np.ndarray]) -> float:
        y, _, _ = oracles.batch_norm(values["x"], values["gamma"], values["beta"], 2, 1e-3)
        return float((y * weight).sum())

    @jax.jit
    def gradients(state: nnx.State, x: Array) -> tuple[nnx.State, Array]:
        def total(state: nnx.State, x: Array) -> Array:
            y = nnx.merge(graph, state, rest, copy=True)(x, train=True)
            return (y * weight.astype(np.float32)).sum()

        return jax.grad(total, argnums=(0, 1))(state, x)

    state["gamma"][...], state["beta"][...] = at["gamma"], at["beta"]
    parameters, dx = gradients(state, jnp.asarray(x))
    expected = oracles.numeric_gradients(literal, at)
    for ours, name in ((dx, "x"), (parameters["gamma"], "gamma"), (parameters["beta"], "beta")):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(ours, expected[name], atol=tolerance * scale)


def test_running_statistics_of_micro_batches_average_to_one_batch() -> None:
    x = jnp.asarray(random_map(8, 2, 2, 4))
    moved = []
    for part in (x, x[:4], x[4:]):
        norm = BatchNorm(4, Norm(2))
        norm(part, train=True)
        moved.append((norm.mean[...], norm.var[...]))
    whole, first, second = moved
    for one, a, b in zip(whole, first, second, strict=True):
        np.testing.assert_allclose(one, (a + b) / 2, rtol=1e-6)
        assert (one != first[0]).all()


def test_frozen_norm_uses_and_keeps_running_statistics() -> None:
    norm = BatchNorm(4, Norm(2, frozen=True))
    norm.mean[...] = jnp.arange(4.0)
    x = jnp.asarray(random_map(4, 2, 2, 4))
    np.testing.assert_array_equal(norm(x, train=True), norm(x, train=False))
    np.testing.assert_array_equal(norm.mean[...], np.arange(4))
    np.testing.assert_array_equal(norm.var[...], np.ones(4))
    graph, state, rest = nnx.split(norm, nnx.Param, ...)
    gradient = jax.grad(
        lambda s: jnp.square(nnx.merge(graph, s, rest, copy=True)(x, train=True)).sum()
    )(state)
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(gradient))


def test_incomplete_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="6 images do not divide into batch-norm groups of 4"):
        BatchNorm(4, Norm(4))(jnp.ones((6, 2, 2, 4)), train=True)


@pytest.mark.parametrize(("group_size", "apart"), [(2, True), (4, False)])
def test_groups_are_independent_of_mesh(group_size: int, apart: bool) -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jnp.asarray(random_map(16, 3, 3, 4))

    def forward(x: Array) -> Array:
        return BatchNorm(4, Norm(group_size))(x, train=True)

    sharded = jax.jit(forward, in_shardings=rows, out_shardings=rows)
    np.testing.assert_allclose(sharded(x), forward(x), atol=1e-6)
    text = compiled_text(forward, x, in_shardings=rows, out_shardings=rows)
    assert bool(re.search(r"all-reduce|all-gather|collective-permute", text)) is not apart


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("shape", [(2, 7, 10, 3), (1, 8, 9, 2)])
def test_max_pool_gives_ties_to_first_cell(padding: Padding, shape: tuple[int, ...]) -> None:
    """Small whole numbers, many of them equal in every window."""
    x = np.random.default_rng(1).integers(0, 3, shape).astype(np.float32)
    before = [1 if padding == "symmetric" else size % 2 for size in shape[1:3]]
    pool = functools.partial(max_pool, padding=padding)
    y, gradient_of = jax.vjp(pool, jnp.asarray(x))
    dy = random_map(*y.shape)
    expected, dx = oracles.max_pool(f64(x), (before[0], before[1]), f64(dy))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(gradient_of(jnp.asarray(dy))[0], dx, atol=1e-6)


def reduce_window(x: Array, padding: Padding) -> Array:
    """XLA's pooling, which also gives ties to the first cell."""
    edges = [(0, 0), (1, 1), (1, 1), (0, 0)] if padding == "symmetric" else padding.upper()
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "symmetric", "valid"])
def test_max_pool_equals_xla_without_scatter(padding: Padding) -> None:
    x = jnp.asarray(np.random.default_rng(1).integers(0, 4, (2, 14, 13, 8)), jnp.float32)
    x = x.at[0, 5, 5, 0].set(jnp.nan)

    def both(pool: Callable[[Array, Padding], Array], x: Array) -> tuple[Array, Array]:
        y, gradient_of = jax.vjp(lambda x: pool(x, padding), x)
        dy = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return y, gradient_of(dy)[0]

    ours, theirs = (functools.partial(both, pool) for pool in (max_pool, reduce_window))
    np.testing.assert_array_equal(ours(x)[0], theirs(x)[0])
    finite = jnp.nan_to_num(x)
    np.testing.assert_allclose(ours(finite)[1], theirs(finite)[1], atol=1e-6)
    assert "scatter(" in compiled_text(theirs, x)
    assert "scatter(" not in compiled_text(ours, x)
