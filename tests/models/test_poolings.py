"""Compares the other poolings with numpy: scores, maps and gradients."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from configs.gap_pose import get_config
from data_pipelines.core.errors import ConfigError
from gap_jax.config import Config
from gap_jax.model_config import ModelConfig
from gap_jax.models import build as building
from gap_jax.models.build import build
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import ChainedSaliency, LinearSaliency, PartSaliency
from gap_jax.models.second_order import (
    CompactBilinearPooling,
    MaxPooling,
    SecondOrderPooling,
    draw_hashes,
)
from tests.support.small_networks import UNOPTIMISED, by_path, drawn

F, K, J, SPATIAL, ROWS = 5, 3, 4, (2, 3), 2  # channels, classes, joints, the map, images
Values = Mapping[str, np.ndarray]


def literal_max(v: Values) -> np.ndarray:
    return v["x"].max(1) @ v["kernel"] + v["bias"]


def literal_second_order(v: Values) -> np.ndarray:
    scores = np.zeros((ROWS, K))
    for b, k in np.ndindex(ROWS, K):
        x = v["x"][b]
        scores[b, k] = np.trace(x.T @ x @ v["kernel"][:, :, k].T) / len(x) + v["bias"][k]
    return scores


def literal_sketch(v: Values, length: int, *, normalised: bool = False) -> np.ndarray:
    """The count sketch of the outer product of a position with itself, pair by pair."""
    (h1, s1), (h2, s2) = draw_hashes(F, length)
    y = np.zeros((ROWS, length))
    for b, n, i, j in np.ndindex(ROWS, v["x"].shape[1], F, F):
        pair = v["x"][b, n, i] * v["x"][b, n, j]
        y[b, (h1[i] + h2[j]) % length] += s1[i] * s2[j] * pair
    if normalised:
        y = y / np.sqrt(np.abs(y) + 1e-5)
        y /= np.linalg.norm(y, axis=1, keepdims=True)
    return y @ v["kernel"] + v["bias"]


def literal_chain(v: Values) -> np.ndarray:
    scores = np.zeros((ROWS, K))
    for b, n in np.ndindex(ROWS, v["x"].shape[1]):
        x = v["x"][b, n]
        h = x @ v["saliency/first/kernel"][:, 0] + v["saliency/first/bias"][0]
        for p in range(3):
            if p:
                h = h * v["saliency/kernel"][p - 1, 0] + v["saliency/bias"][p - 1]
            scores[b] += h * (x @ v["kernel"][p] + v["bias"][p]) / v["x"].shape[1]
    return scores


def literal_parts(v: Values) -> np.ndarray:
    """A linear classifier of the concatenated mean_n p_j X for each joint and mean_n X."""
    pooled = [(v["z"][..., j : j + 1] * v["x"]).mean(1) for j in range(J)]
    features = np.concatenate([*pooled, v["x"].mean(1)], axis=1)
    return features @ v["kernel"].reshape(-1, K) + v["bias"][0]


def chained() -> AttentionalPooling:
    rngs = nnx.Rngs(0)
    saliency = ChainedSaliency(LinearSaliency(F, rngs=rngs), 3, rngs=rngs)
    return AttentionalPooling(F, K, saliency=saliency, rank=3, rngs=rngs)


def parts() -> AttentionalPooling:
    return AttentionalPooling(
        F, K, saliency=PartSaliency(J), rank=J + 1, one_bias=True, rngs=nnx.Rngs(0)
    )


CASES: dict[str, tuple[Callable[[], Any], Callable[[Values], np.ndarray], int]] = {
    "max": (lambda: MaxPooling(F, K, rngs=nnx.Rngs(0)), literal_max, F * K + K),
    "second order": (
        lambda: SecondOrderPooling(F, K, rngs=nnx.Rngs(0)), literal_second_order, F * F * K + K,
    ),
    "sketch": (
        lambda: CompactBilinearPooling(F, K, rngs=nnx.Rngs(0)),
        functools.partial(literal_sketch, length=F), F * K + K,
    ),
    "normalised sketch": (
        lambda: CompactBilinearPooling(F, K, sketch_features=7, normalised=True, rngs=nnx.Rngs(0)),
        functools.partial(literal_sketch, length=7, normalised=True), 7 * K + K,
    ),
    "chained": (chained, literal_chain, F + 1 + 2 + 2 + 3 * (F * K + K)),
    "parts": (parts, literal_parts, (J + 1) * F * K + K),
}  # fmt: skip


def draw_map(channels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, *SPATIAL, channels)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_scores_maps_and_gradients_match_numpy(name: str) -> None:
    make, literal, count = CASES[name]
    graph, state = nnx.split(drawn(make), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == count
    x, z = draw_map(F, 1), jnp.asarray(draw_map(J, 2))
    weight = np.random.default_rng(3).normal(size=(ROWS, K)).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def compute(state: nnx.State, x: Array) -> tuple[Any, ...]:
        read = z if name == "parts" else None

        def total(state: nnx.State, x: Array, in_maps: bool) -> Array:
            pooling = nnx.merge(graph, state)
            scores = pooling.maps(x, read).logits if in_maps else pooling(x, read)
            return (scores * weight).sum()

        pooling = nnx.merge(graph, state)
        flat = pooling(x.reshape(ROWS, -1, F), None if read is None else z.reshape(ROWS, -1, J))
        deep = pooling(x[:, :, None], None if read is None else z[:, :, None])
        half = pooling(x.astype(jnp.bfloat16), read)
        gradients = [jax.grad(total, argnums=(0, 1))(state, x, order) for order in (False, True)]
        return pooling(x, read), flat, deep, half, pooling.maps(x, read), gradients

    scores, flat, deep, half, maps, gradients = compute(state, jnp.asarray(x))
    values = {path: np.asarray(leaf, np.float64) for path, leaf in by_path(state).items()}

    def at(x: np.ndarray, values: Values) -> np.ndarray:
        return literal(
            {**values, "x": x.reshape(ROWS, -1, F), "z": np.asarray(z).reshape(ROWS, -1, J)}
        )

    expected = at(x.astype(np.float64), values)
    scale = np.abs(expected).max()
    for ours in (scores, flat, deep, maps.logits):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * scale)
    assert half.dtype == jnp.float32
    assert maps.combined.shape == (ROWS, *SPATIAL, K)
    assert maps.bottom_up.shape[:-1] == (ROWS, *SPATIAL)
    assert maps.top_down.shape[:-1] == (ROWS, *SPATIAL, K)
    direction = {path: np.random.default_rng(4).normal(size=v.shape) for path, v in values.items()}
    turn = np.random.default_rng(5).normal(size=x.shape)
    step = 1e-6

    def moved(sign: float) -> float:
        there = {path: value + sign * step * direction[path] for path, value in values.items()}
        return float((at(x + sign * step * turn, there) * weight).sum())

    slope = (moved(1) - moved(-1)) / (2 * step)
    for parameters, dx in gradients:
        along = sum(float((np.asarray(leaf, np.float64) * direction[path]).sum())
                    for path, leaf in by_path(parameters).items())  # fmt: skip
        along += float((np.asarray(dx, np.float64) * turn).sum())
        assert abs(along - slope) < 1e-4 * max(abs(slope), scale)


def test_chained_rank_equals_rank_1_plus_mean_pooling() -> None:
    """h_2 = w h_1 + c: the scores are sums of a score by h_1 and a score by the mean."""
    values = {path: np.asarray(leaf, np.float64) for path, leaf in
              by_path(nnx.state(drawn(chained), nnx.Param)).items()}  # fmt: skip
    x = draw_map(F, 1).astype(np.float64).reshape(ROWS, -1, F)
    w, c = values["saliency/kernel"][:, 0], values["saliency/bias"]
    scale = [1, w[0], w[0] * w[1]]
    shift = [0, c[0], c[0] * w[1] + c[1]]
    h = x @ values["saliency/first/kernel"][:, 0] + values["saliency/first/bias"][0]
    t = [x @ values["kernel"][p] + values["bias"][p] for p in range(3)]
    rank_1 = (
        h[..., None] * np.sum([s * t_p for s, t_p in zip(scale, t, strict=True)], axis=0)
    ).mean(1)
    mean = np.sum([s * t_p for s, t_p in zip(shift, t, strict=True)], axis=0).mean(1)
    np.testing.assert_allclose(literal_chain({**values, "x": x}), rank_1 + mean, rtol=1e-9)


@pytest.mark.parametrize("name", ["max", "second order", "sketch"])
def test_dropout_drops_share_of_pooled_vector(name: str) -> None:
    pooling = drawn(CASES[name][0])
    pooling.dropout = 0.8
    x = jnp.asarray(draw_map(F, 1))
    draws = jax.jit(lambda key: pooling(x, keys=jax.random.split(key, ROWS)))
    several = np.stack([draws(jax.random.key(seed)) for seed in range(300)])
    plain = np.asarray(pooling(x, keys=None))
    assert several.std(0).min() > 0
    error = several.std(0) / np.sqrt(len(several))
    assert (np.abs(several.mean(0) - plain) < 5 * error).all()
    np.testing.assert_array_equal(pooling(x, keys=None), plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max", "rank": 2}, "model.rank=2 has no effect with model.pooling=max"),
        ({"pooling": "second_order", "per_class": True}, "model.per_class=true has no effect"),
        ({"sketch_features": 64}, "model.sketch_features=64 has no effect with model.pooling=gap"),
        ({"pooling": "attention", "T": 2}, "model.T=2 has no effect with model.pooling=attention"),
        (
            {"pooling": "mean", "widths": (8, 4)},
            r"model.widths=\(8,4\) has no effect .* model.widths=\(\)",
        ),
        ({"pooling": "max", "space": "weight"}, "model.space=weight has no effect"),
        ({"pooling": "max", "dropout_where": "pooled"}, "model.dropout_where=pooled has no effect"),
        ({"pooling": "mean", "rank": 2, "rank_form": "chained"}, "rank_form=chained has no effect"),
        (
            {"rank": 2, "rank_form": "chained", "per_class": True},
            "set model.rank_form=independent or model.per_class=false",
        ),
    ],
)
def test_fields_without_effect_on_pooling_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(model=ModelConfig(**fields)).resolved()


@pytest.mark.slow
def test_first_of_equal_maxima_gets_whole_gradient() -> None:
    """jnp.max would divide by a number of equal values, which can be 0 after rounding by XLA."""
    pooling = MaxPooling(F, K, rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 3, F)).at[:, 1:].set(2.0)
    gradient = jax.grad(lambda x: pooling(x)[0, 0])(x)
    expected = np.zeros((1, 3, F), np.float32)
    expected[0, 1] = pooling.kernel[...][:, 0]
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.slow
def test_signed_square_root_slope_is_bounded() -> None:
    """A Fourier transform returns 1e-8 for a sketch of 0, where a plain root has slope 5,000."""
    pooling = CompactBilinearPooling(256, 2, sketch_features=512, normalised=True, rngs=nnx.Rngs(0))
    pooling.kernel[...] = jnp.asarray(np.random.default_rng(0).normal(size=(512, 2)), jnp.float32)
    rng = np.random.default_rng(1)
    x = np.maximum(rng.normal(size=(4, 49, 256)), 0) * (rng.random((4, 49, 256)) < 0.002)
    differentiate = jax.jit(jax.grad(lambda x: pooling(x)[:, 0].sum()))
    assert float(jnp.abs(differentiate(jnp.asarray(x, jnp.float32))).max()) < 2e3
    np.testing.assert_array_equal(differentiate(jnp.zeros(x.shape)), 0)


@pytest.mark.slow
def test_too_large_second_order_is_refused() -> None:
    cfg = get_config("second_order")
    cfg.model.backbone, cfg.model.input = "vgg16", "vgg"
    with pytest.raises(ConfigError, match="512 channels and 5000 classes has 1,310,720,"):
        nnx.eval_shape(lambda: build(cfg.resolved(), 5_000, 0))


@pytest.mark.slow
def test_largest_second_order_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_config("second_order")
    cfg.model.backbone, cfg.model.input = "vgg16", "vgg"
    monkeypatch.setattr(building, "MOST_WEIGHTS", 512 * 512 * 2)
    nnx.eval_shape(lambda: build(cfg.resolved(), 2, 0))


def test_fields_reach_poolings() -> None:
    model = ModelConfig(
        backbone="small", pooling="attention", rank=3, rank_form="chained",
        saliency_activation="softmax",
    )  # fmt: skip
    pooling = drawn(lambda: build(Config(model=model).resolved(), 4, 0)).pooling
    assert isinstance(pooling, AttentionalPooling) and pooling.activation == "softmax"
    assert isinstance(pooling.saliency, ChainedSaliency) and pooling.saliency.maps == 3
    model = ModelConfig(
        backbone="small", pooling="compact_bilinear", sketch_features=17,
        sketch_normalisation="signed_sqrt",
    )  # fmt: skip
    pooling = drawn(lambda: build(Config(model=model).resolved(), 4, 0)).pooling
    assert isinstance(pooling, CompactBilinearPooling)
    assert (pooling.length, pooling.normalised) == (17, True)
