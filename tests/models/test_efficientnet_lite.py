"""EfficientNet-Lite: published sizes, a small one compared with numpy, depthwise convolutions."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jaxtyping import Array

from data_pipelines.core.errors import ConfigError
from gap_jax import hardware
from gap_jax.config import Config
from gap_jax.models.backbones.efficientnet_lite import STAGES, EfficientNetLite, Stage
from gap_jax.models.build import build
from gap_jax.models.depthwise import sum_shifted
from gap_jax.models.folding import fold
from gap_jax.models.layers import Conv, Norm, pool_edges
from gap_jax.models.network import Network
from gap_jax.models.pooling import AttentionalPooling
from tests.support import oracles
from tests.support.small_networks import UNOPTIMISED, by_path, drawn

SMALL = (Stage(3, 1, 1, 1, 6), Stage(5, 2, 3, 2, 8))


def small(stage: int = 0, *, frozen: bool = False) -> EfficientNetLite:
    norm = Norm(2, eps=1e-3, frozen=frozen)
    return drawn(
        lambda: EfficientNetLite(SMALL, stage=stage, stem=4, head=10, norm=norm, rngs=nnx.Rngs(0))
    )


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def run(backbone: Any, x: np.ndarray) -> np.ndarray:
    graph, state = nnx.split(backbone)

    def apply(state: nnx.State, x: Array) -> Array:
        return nnx.merge(graph, state)(x, train=False)

    return np.asarray(jax.jit(apply, compiler_options=UNOPTIMISED)(state, x))


def convolve_same(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's SAME: the windows of all cells, spread evenly, one more cell at the end."""
    side, edges = len(kernel), [(0, 0)]
    for size in x.shape[1:3]:
        total = max((-(-size // stride) - 1) * stride + side - size, 0)
        edges.append((total // 2, total - total // 2))
    padded = np.pad(x, [*edges, (0, 0)])
    if kernel.shape[2] == x.shape[3]:
        return oracles.convolve(padded, kernel, stride, padded=False)
    channels = [
        oracles.convolve(padded[..., c : c + 1], kernel[..., c : c + 1], stride, padded=False)
        for c in range(x.shape[3])
    ]
    return np.concatenate(channels, axis=3)


def literal(arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The small network in float64, by the paths of its arrays."""

    def layer(x: np.ndarray, path: str, stride: int = 1) -> np.ndarray:
        y = convolve_same(x, arrays[f"{path}/conv/kernel"], stride)
        gamma, beta, mean, var = (
            arrays[f"{path}/norm/{name}"] for name in ("gamma", "beta", "mean", "var")
        )
        return (y - mean) / np.sqrt(var + 1e-3) * gamma + beta

    def relu6(x: np.ndarray) -> np.ndarray:
        return np.clip(x, 0, 6)

    x = relu6(layer(x, "stem", 2))
    for path, stride in (("stages/0/0", 1), ("stages/1/0", 2), ("stages/1/1", 1)):
        y = relu6(layer(x, f"{path}/expand")) if f"{path}/expand/conv/kernel" in arrays else x
        y = layer(relu6(layer(y, f"{path}/depthwise", stride)), f"{path}/project")
        x = x + y if path == "stages/1/1" else y
    return relu6(layer(x, "head"))


@pytest.mark.parametrize("shape", [(2, 24, 21, 3), (1, 18, 30, 3)])
def test_small_network_matches_numpy(shape: tuple[int, ...]) -> None:
    network, x = small(), image(*shape)
    arrays = {path: np.asarray(v, np.float64) for path, v in by_path(nnx.state(network)).items()}
    expected = literal(arrays, np.asarray(x, np.float64))
    ours = run(network, x)
    assert ours.shape == expected.shape and (expected == 6).any() and (expected == 0).any()
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (5, 2), (3, 2)])
@pytest.mark.parametrize("size", [(7, 8), (6, 5)])
def test_sum_of_shifts_equals_native_convolution(
    side: int, stride: int, size: tuple[int, int]
) -> None:
    """With the gradients, by both arguments."""
    edges = tuple(pool_edges(each, "same", side, stride)[:2] for each in size)
    x, kernel = jnp.asarray(image(2, *size, 4)), jnp.asarray(image(side, side, 4))

    def native(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x, kernel[:, :, None], (stride, stride), edges, feature_group_count=4,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    def shifted(x: Array, kernel: Array) -> Array:
        return sum_shifted(x, kernel, stride, (edges[0], edges[1]))

    def differentiated(function: Any) -> Any:
        def compute(x: Array, kernel: Array) -> tuple[Array, ...]:
            y, differentiate = jax.vjp(function, x, kernel)
            gradient = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
            return y, *differentiate(gradient)

        return jax.jit(compute, compiler_options=UNOPTIMISED)(x, kernel)

    found = differentiated(native), differentiated(shifted)
    for due, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, due, atol=1e-5 * np.abs(due).max())


def test_depthwise_layer_is_native_off_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = Conv(4, 4, size=3, stride=2, padding="same", depthwise=True, rngs=nnx.Rngs(0))
    x = jnp.asarray(image(1, 8, 8, 4))
    text, y = jax.jit(conv).lower(x).as_text(), conv(x)
    assert "stablehlo.convolution" not in text and conv.kernel.shape == (3, 3, 1, 4)
    monkeypatch.setattr(hardware, "is_cpu", lambda: False)
    assert "feature_group_count = 4" in jax.jit(lambda x: conv(x)).lower(x).as_text()
    np.testing.assert_allclose(conv(x), y, atol=1e-5)
    with pytest.raises(ValueError, match="has 5 channels; the layer takes 4"):
        conv(jnp.ones((1, 8, 8, 5)))


def test_folding_covers_every_norm() -> None:
    def make() -> Network:
        backbone = EfficientNetLite(SMALL, stem=4, head=10, norm=Norm(), rngs=nnx.Rngs(0))
        return Network(backbone, AttentionalPooling(backbone.features, 3, rngs=nnx.Rngs(0)))

    network, x = drawn(make), image(1, 24, 20, 3)
    folded = fold(network)
    assert not jax.tree.leaves(nnx.state(folded, nnx.BatchStat))
    before, after = run(network.backbone, x), run(folded.backbone, x)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_reach_every_kernel(frozen: bool) -> None:
    """Statistics move in training only, and only if they are not frozen."""
    network, x = small(frozen=frozen), jnp.asarray(image(4, 16, 16, 3))
    graph, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)

    def loss(params: Any) -> tuple[Array, Any]:
        merged = nnx.merge(graph, params, stats, copy=True)
        return jnp.square(merged(x, train=True) - 1).mean(), nnx.state(merged, nnx.BatchStat)

    compiled = jax.jit(jax.grad(loss, has_aux=True), compiler_options=UNOPTIMISED)
    gradients, moved = compiled(params)
    for path, gradient in by_path(gradients).items():
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 1e-7 or "kernel" not in path, path
    same = [
        np.array_equal(before, after)
        for before, after in zip(jax.tree.leaves(stats), jax.tree.leaves(moved), strict=True)
    ]
    assert all(same) if frozen else not any(same)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        ("efficientnet_lite0", 3_371_008),
        ("efficientnet_lite1", 4_135_680),
        ("efficientnet_lite2", 4_811_072),
    ],
)
def test_backbone_has_published_size(backbone: str, parameters: int) -> None:
    cfg = Config()
    cfg.model.backbone, cfg.model.pooling, cfg.pose.branch = backbone, "mean", False
    network = nnx.eval_shape(lambda: build(cfg.resolved(), 3, 0)).backbone
    graph, state = nnx.split(network)
    x = jax.ShapeDtypeStruct((1, 448, 448, 3), jnp.float32)
    map_ = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x, train=False), state, x)
    assert map_.shape == (1, 14, 14, 1280) == (1, 14, 14, network.features)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))) == parameters


def test_stages() -> None:
    whole, early = small(), small(1)
    assert early.features == 6 and early.head is None and whole.features == 10
    x = image(1, 16, 18, 3)
    assert run(early, x).shape == (1, 8, 9, 6)
    assert [len(stages) for stages in STAGES.values()] == [7] * 3
    assert [stage.width for stage in STAGES["efficientnet_lite2"]] == [
        16,
        24,
        48,
        88,
        120,
        208,
        352,
    ]
    cfg = Config()
    cfg.model.backbone, cfg.model.stage = "efficientnet_lite0", 7
    cfg.model.strides = "v1_5"
    with pytest.raises(ConfigError, match="strides=v1_5 has no effect with"):
        cfg.resolved()
