"""Checks the documented effect of each argument of the pooling layer."""

import functools
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array, Key

from gap_jax.config import Config
from gap_jax.model_config import HARD, DropoutWhere, ModelConfig, PoolingName
from gap_jax.models.build import build
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import FactoredSaliency, LinearSaliency, UniformSaliency
from tests.support.small_networks import UNOPTIMISED, by_path, drawn

POOLINGS = [each for each in get_args(PoolingName) if each not in HARD]


def random_map(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.abs(np.random.default_rng(seed).normal(size=shape)), jnp.float32)


def test_zero_factored_layers_equal_attentional_pooling() -> None:
    x = random_map(2, 3, 3, 16)

    @jax.jit
    def train_once(x: Array) -> list[Any]:
        results = []
        for saliency in (LinearSaliency, functools.partial(FactoredSaliency, widths=())):
            rngs = nnx.Rngs(0)
            pooling = AttentionalPooling(16, 4, saliency=saliency(16, rngs=rngs), rngs=rngs)
            graph, state = nnx.split(pooling)
            gradient = jax.grad(lambda s, g=graph: jnp.square(nnx.merge(g, s)(x)).sum())(state)
            results.append((pooling(x), pooling.maps(x), jax.tree.leaves((state, gradient))))
        return results

    linear, factored = train_once(x)
    for ours, theirs in zip(jax.tree.leaves(factored), jax.tree.leaves(linear), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_weight_space_has_gradients_and_equals_one_vector() -> None:
    x = random_map(2, 2, 2, 32)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def start(key: Key[Array, ""], x: Array) -> tuple[Array, ...]:
        rngs = nnx.Rngs(key)
        saliency = FactoredSaliency(32, (64, 32, 16), space="weight", rngs=rngs)
        pooling = AttentionalPooling(32, 3, saliency=saliency, rngs=rngs)
        graph, state = nnx.split(pooling)
        gradient = jax.grad(lambda s: jnp.square(nnx.merge(graph, s)(x)).sum())(state)
        linear = LinearSaliency(32, bias=False, init=lambda *_: saliency.vector(), rngs=rngs)
        h, twin = pooling.maps(x).bottom_up, linear(x)[..., None]
        largest = [jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradient)]
        return h, twin[..., 0], jnp.stack(largest), saliency.vector()

    for seed in range(20):
        h, twin, largest, vector = start(jax.random.key(seed), x)
        np.testing.assert_array_equal(h, twin)
        assert (vector > 0).all()
        assert (h > 1e-3).all()
        assert (largest > 0).all()


@pytest.mark.parametrize("widths", [(256,), (64, 32, 16)])
def test_weight_space_starts_at_scale_of_linear_saliency(widths: tuple[int, ...]) -> None:
    """The mean of the kernels is 1 / width, so f(V c) has c's mean, 1e-3, at every width."""

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def start() -> Array:
        return FactoredSaliency(128, widths, space="weight", rngs=nnx.Rngs(0)).vector()

    assert float(start().mean()) == pytest.approx(1e-3, rel=0.2)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_initial_scales_of_classifiers_and_products(pooling: PoolingName) -> None:
    """Weights of 1e-3 would be far too small for a linear classifier."""
    widths = (8, 4, 2) if pooling == "gap" else ()
    model = ModelConfig(backbone="small", pooling=pooling, widths=widths)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def start() -> Any:
        network = build(Config(model=model), 16, 0)
        return nnx.state(network.pooling, nnx.Param)

    kernel = by_path(start())["kernel"]
    is_linear = pooling in ("mean", "max", "pose_parts")
    expected = np.sqrt(2 / np.prod(kernel.shape[:-1])) if is_linear else 1e-3
    assert float(kernel.std()) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("T", "count"),
    [*enumerate((2_049, 8_396_801, 16_785_409, 18_882_561, 19_406_849, 19_537_921))],
)
def test_parameter_counts_match_papers(T: int, count: int) -> None:
    cfg = Config(model=ModelConfig(T=T, backbone="resnet50"))
    network = nnx.eval_shape(lambda: build(cfg, 393, 0))
    assert isinstance(network.pooling, AttentionalPooling)
    assert parameters(network.pooling.saliency) == count
    assert parameters(network.pooling) - count == 805_257
    assert parameters(network.pose) == 1_573_632 + 12_304


def parameters(module: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.slow
@pytest.mark.parametrize("per_class", [False, True])
def test_any_number_of_map_axes(per_class: bool) -> None:
    pooling = drawn(lambda: AttentionalPooling(8, 3, rank=2, per_class=per_class, rngs=nnx.Rngs(0)))
    flat = random_map(2, 12, 8)
    expected = pooling.maps(flat)
    for spatial in ((12,), (3, 4), (2, 3, 2)):
        maps = pooling.maps(flat.reshape(2, *spatial, 8))
        assert maps.combined.shape == (2, *spatial, 3)
        assert maps.top_down.shape == (2, *spatial, 3, 2)
        assert maps.bottom_up.shape == (2, *spatial, *((3, 2) if per_class else (2,)))
        for ours, theirs in zip(maps, expected, strict=True):
            np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)
        np.testing.assert_allclose(pooling(flat.reshape(2, *spatial, 8)), maps.logits, rtol=1e-4)


@pytest.mark.slow
def test_dropout_mask_depends_only_on_row_key() -> None:
    pooling = drawn(lambda: AttentionalPooling(64, 3, dropout=0.8, rngs=nnx.Rngs(0)))
    x, keys = random_map(4, 5, 5, 64), jax.random.split(jax.random.key(0), 4)
    together = pooling(x, keys=keys)
    for row in range(4):
        alone = pooling(x[row : row + 1], keys=keys[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5)
    evaluated = pooling(x, keys=None)
    assert (jnp.abs(together - evaluated) > 1e-6).any()
    np.testing.assert_array_equal(pooling(x, keys=None), evaluated)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["map", "pooled"])
def test_dropout_drops_share_and_keeps_mean(where: DropoutWhere) -> None:
    """With X = 1 and an identity as the top-down weights, the scores are the mask."""
    pooling = AttentionalPooling(256, 256, dropout=0.8, dropout_where=where, rngs=nnx.Rngs(0))
    pooling.kernel[...] = jnp.eye(256)[None]
    keys = jax.random.split(jax.random.key(0), 8)
    mask = pooling.maps(jnp.ones((8, 3, 3, 256)), keys=keys).top_down[..., 0]
    values = np.unique(mask)
    np.testing.assert_allclose(values, [0, 5], rtol=1e-6)
    assert abs(float((mask > 0).mean()) - 0.2) < 0.03
    constant = (mask == mask[:, :1, :1]).all()
    assert bool(constant) is (where == "pooled")
    assert not (mask[0] == mask[1]).all()


def test_gate_starts_as_mean_pooling_and_decays_to_it() -> None:
    saliency = FactoredSaliency(8, (4,), gate_init="one", rngs=nnx.Rngs(0))
    pooling = AttentionalPooling(8, 3, saliency=saliency, rngs=nnx.Rngs(0))
    x = random_map(2, 3, 3, 8)
    np.testing.assert_array_equal(pooling.maps(x).bottom_up, jnp.ones((2, 3, 3, 1)))
    expected = x.mean((1, 2)) @ pooling.kernel[0] + pooling.bias[...]
    np.testing.assert_allclose(pooling(x), expected, rtol=1e-5)
    assert set(by_path(nnx.state(saliency))) == {"chain/0/kernel", "chain/0/bias", "last/gate"}


def test_call_contracts_positions_before_classes() -> None:
    pooling = nnx.eval_shape(lambda: AttentionalPooling(512, 100, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(pooling)
    x = jax.ShapeDtypeStruct((2, 14, 14, 512), jnp.float32)

    def flops(score: Callable[[AttentionalPooling, Array], Array]) -> float:
        lowered = jax.jit(lambda state, x: score(nnx.merge(graph, state), x)).lower(state, x)
        cost = lowered.cost_analysis()
        assert cost is not None
        return cost["flops"]

    assert flops(lambda p, x: p.maps(x).logits) > 20 * flops(lambda p, x: p(x))


def test_mismatched_arguments_are_refused() -> None:
    rngs = nnx.Rngs(0)
    with pytest.raises(
        ValueError, match=r"saliency\.maps=1 must be 2 with rank=2 and per_class=False"
    ):
        AttentionalPooling(4, 3, saliency=LinearSaliency(4, rngs=rngs), rank=2, rngs=rngs)
    with pytest.raises(ValueError, match=r"takes one width or more .* not widths=\(\)"):
        FactoredSaliency(4, (), space="weight", rngs=rngs)
    with pytest.raises(ValueError, match="and gate_init='one'"):
        FactoredSaliency(4, (2,), space="weight", gate_init="one", rngs=rngs)
    with pytest.raises(ValueError, match="space='activation' has no vector"):
        FactoredSaliency(4, (2,), rngs=rngs).vector()


def test_dtype_rounds_both_factors_of_every_product() -> None:
    x, half = random_map(2, 3, 3, 8), jnp.bfloat16
    pool = AttentionalPooling(
        8, 3, saliency=UniformSaliency(), init=nnx.initializers.normal(1), dtype=half,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    mean = np.asarray(x.astype(half), np.float64).mean((1, 2)).astype(half)
    kernel = pool.kernel[...][0].astype(half)
    due = np.asarray(mean, np.float64) @ np.asarray(kernel, np.float64)
    np.testing.assert_allclose(pool(x), due, rtol=1e-5, atol=1e-5)
