"""The pooling layer against the papers' trace forms, and what each of its switches promises."""

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from jaxtyping import Array, Key
from small_networks import UNOPTIMISED, by_path, drawn

from gap_jax.config import Config, ModelConfig
from gap_jax.models.build import build
from gap_jax.models.pooling import (
    Activation,
    AttentionalPooling,
    DropoutWhere,
    FactoredSaliency,
    LinearSaliency,
    Saliency,
    UniformSaliency,
)

F, S, K, SPATIAL = 5, 4, 3, (2, 3)  # channels pooled, channels read, classes, the map
Values = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One setting of every switch."""

    saliency: str = "linear"
    widths: tuple[int, ...] = ()
    rank: int = 1
    per_class: bool = False
    activation: Activation = "none"
    reads_other: bool = False
    dropout: float = 0.0
    where: DropoutWhere = "map"

    def __str__(self) -> str:
        """What differs from the plain layer, as the name of a test."""
        told = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return ",".join(told) or "plain"

    def pooling(self, rngs: nnx.Rngs) -> AttentionalPooling:
        read, maps = (S if self.reads_other else F), self.rank * (K if self.per_class else 1)
        saliency: Saliency
        match self.saliency:
            case "uniform":
                saliency = UniformSaliency(maps)
            case "linear":
                saliency = LinearSaliency(read, maps, rngs=rngs)
            case "gate":
                saliency = LinearSaliency(read, maps, gate_init="one", rngs=rngs)
            case "weight":
                saliency = FactoredSaliency(read, self.widths, maps, space="weight", rngs=rngs)
            case _:
                saliency = FactoredSaliency(read, self.widths, maps, rngs=rngs)
        return AttentionalPooling(
            F,
            K,
            saliency=saliency,
            rank=self.rank,
            per_class=self.per_class,
            activation=self.activation,
            dropout=self.dropout,
            dropout_where=self.where,
            rngs=rngs,
        )


CASES = (
    Case("uniform"),
    Case("linear"),
    Case("linear", rank=3, dropout=0.8),
    Case("linear", rank=2, dropout=0.5, where="pooled", reads_other=True),
    Case("linear", rank=2, per_class=True, dropout=0.5),
    Case("linear", activation="relu", per_class=True, dropout=0.5, where="pooled"),
    Case("linear", rank=2, activation="softmax"),
    Case("gate", rank=2, reads_other=True),
    Case("activation", (6, 3)),
    Case("activation", (4,), rank=2, dropout=0.5, reads_other=True),
    Case("weight", (6, 3), rank=2),
)


def literal_scores(case: Case, values: Values, mask: np.ndarray) -> np.ndarray:
    """The case's scores in float64, by traces where the papers have one."""

    def with_bias(weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return np.concatenate([weights, bias[..., None, :]], axis=-2)

    def layer(path: str) -> np.ndarray:
        return with_bias(values[f"{path}/kernel"], values[f"{path}/bias"])

    x = values["x"].reshape(2, -1, F)
    z = values["z"].reshape(2, x.shape[1], -1)
    maps = case.rank * (K if case.per_class else 1)
    chain = [f"saliency/chain/{t}" for t in range(len(case.widths))]
    match case.saliency:
        case "uniform":
            c = np.concatenate([np.zeros((z.shape[-1], maps)), np.ones((1, maps))])
        case "linear":
            c = layer("saliency")
        case "gate":
            c = with_bias(values["saliency/gate"], np.ones(maps))
        case "weight":
            kernels = [values[f"{path}/kernel"] for path in chain]
            vector = oracles.weight_vector(kernels, values["saliency/last/kernel"])
            c = with_bias(vector, np.zeros(maps))
        case _:
            z = oracles.chain(z, [layer(path) for path in chain])
            c = layer("saliency/last")
    top_down = x * mask / (1 - case.dropout)
    a = with_bias(values["kernel"], values["bias"])
    if case.activation == "none" and not case.per_class:
        return oracles.trace_scores(top_down, z, a, c)
    h = np.stack([oracles.with_one(image) @ c for image in z])
    activate = {"relu": oracles.relu, "softmax": oracles.softmax_positions}
    h = activate.get(case.activation, lambda same: same)(h)
    h = h.reshape(*h.shape[:2], -1, case.rank)
    return oracles.map_scores(top_down, np.broadcast_to(h, (*h.shape[:2], K, case.rank)), a)


def error(ours: Array, theirs: np.ndarray, floor: float = 0.0) -> float:
    """The largest error in units of the largest value, which counts as `floor` at least."""
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max()) / max(
        float(np.abs(theirs).max()), floor
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_and_gradients_are_the_trace_forms(case: Case) -> None:
    graph, state = nnx.split(drawn(lambda: case.pooling(nnx.Rngs(0))), nnx.Param)
    rng = np.random.default_rng(1)
    x, other = (np.abs(rng.normal(size=(2, *SPATIAL, c))).astype(jnp.bfloat16) for c in (F, S))
    weight = rng.normal(size=(2, K)).astype(np.float32)

    def total(
        state: nnx.State, x: Array, z: Array, keys: Key[Array, " b"], in_maps: bool
    ) -> tuple[Array, Array]:
        pooling = nnx.merge(graph, state)
        read = z if case.reads_other else None
        logits = pooling.maps(x, read, keys=keys).logits if in_maps else pooling(x, read, keys=keys)
        return (logits * weight).sum(), logits

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def differentiate(state: nnx.State, x: Array, z: Array) -> tuple[Any, ...]:
        keys = jax.random.split(jax.random.key(3), 2)
        drawn = (6 if case.where == "map" else 1, F)
        mask = jnp.stack([jax.random.bernoulli(key, 1 - case.dropout, drawn) for key in keys])
        both = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
        return mask, *(
            [both(state, x.astype(dtype), z.astype(dtype), keys, order) for order in (False, True)]
            for dtype in (jnp.float32, jnp.bfloat16)
        )

    mask, in_f32, in_bf16 = differentiate(state, x, other)
    inputs = {"x": x, "z": other} if case.reads_other else {"x": x}
    values = {
        path: np.asarray(value, np.float64) for path, value in (by_path(state) | inputs).items()
    }

    def literal(values: Values) -> np.ndarray:
        return literal_scores(case, {"z": values["x"], **values}, np.asarray(mask))

    expected = oracles.numeric_gradients(lambda v: (literal(v) * weight).sum(), values)
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for ours, tolerance in ((in_f32, 1e-5), (in_bf16, 2e-2)):
        for (_, logits), (parameters, dx, dz) in ours:
            assert logits.dtype == jnp.float32
            assert error(logits, literal(values)) < tolerance
            gradients = by_path(parameters) | {"x": dx} | ({"z": dz} if case.reads_other else {})
            assert gradients.keys() == expected.keys()
            for path, gradient in expected.items():
                assert error(gradients[path], gradient, floor=largest / 10) < tolerance, path


def random_map(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.abs(np.random.default_rng(seed).normal(size=shape)), jnp.float32)


def test_no_layer_in_the_factored_saliency_is_attentional_pooling_to_the_bit() -> None:
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


def test_weight_space_starts_alive_and_is_attentional_pooling_with_one_vector() -> None:
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


@pytest.mark.parametrize(
    ("T", "count"),
    [*enumerate((2_049, 8_396_801, 16_785_409, 18_882_561, 19_406_849, 19_537_921))],
)
def test_parameters_are_the_papers_in_number(T: int, count: int) -> None:
    cfg = Config(model=ModelConfig(T=T, backbone="resnet50"))
    network = nnx.eval_shape(lambda: build(cfg, 393, nnx.Rngs(0)))
    assert parameters(network.pooling.saliency) == count
    assert parameters(network.pooling) - count == 805_257
    assert parameters(network.pose) == 1_573_632 + 12_304


def parameters(module: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize("per_class", [False, True])
def test_the_axes_of_a_map_do_not_matter(per_class: bool) -> None:
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


def test_a_mask_depends_on_its_rows_key_alone() -> None:
    pooling = drawn(lambda: AttentionalPooling(64, 3, dropout=0.8, rngs=nnx.Rngs(0)))
    x, keys = random_map(4, 5, 5, 64), jax.random.split(jax.random.key(0), 4)
    together = pooling(x, keys=keys)
    for row in range(4):
        alone = pooling(x[row : row + 1], keys=keys[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5)
    assert (jnp.abs(together - pooling(x)) > 1e-6).any()
    np.testing.assert_array_equal(pooling(x), pooling(x))


@pytest.mark.parametrize("where", ["map", "pooled"])
def test_dropout_drops_its_share_and_keeps_the_mean(where: DropoutWhere) -> None:
    """Ones through a top-down identity show the mask itself."""
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


def test_a_gate_starts_as_the_mean_and_decays_to_it() -> None:
    saliency = FactoredSaliency(8, (4,), gate_init="one", rngs=nnx.Rngs(0))
    pooling = AttentionalPooling(8, 3, saliency=saliency, rngs=nnx.Rngs(0))
    x = random_map(2, 3, 3, 8)
    np.testing.assert_array_equal(pooling.maps(x).bottom_up, jnp.ones((2, 3, 3, 1)))
    expected = x.mean((1, 2)) @ pooling.kernel[0] + pooling.bias[0]
    np.testing.assert_allclose(pooling(x), expected, rtol=1e-5)
    assert set(by_path(nnx.state(saliency))) == {"chain/0/kernel", "chain/0/bias", "last/gate"}


def test_the_call_contracts_positions_before_classes() -> None:
    pooling = nnx.eval_shape(lambda: AttentionalPooling(512, 100, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(pooling)
    x = jax.ShapeDtypeStruct((2, 14, 14, 512), jnp.float32)

    def flops(score: Callable[[AttentionalPooling, Array], Array]) -> float:
        lowered = jax.jit(lambda state, x: score(nnx.merge(graph, state), x)).lower(state, x)
        cost = lowered.cost_analysis()
        assert cost is not None
        return cost["flops"]

    assert flops(lambda p, x: p.maps(x).logits) > 20 * flops(lambda p, x: p(x))


def test_what_does_not_fit_is_refused() -> None:
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="gives 1 maps where 2 are due"):
        AttentionalPooling(4, 3, saliency=LinearSaliency(4, rngs=rngs), rank=2, rngs=rngs)
    with pytest.raises(ValueError, match="takes one width or more"):
        FactoredSaliency(4, (), space="weight", rngs=rngs)
    with pytest.raises(ValueError, match='and gate_init="paper"'):
        FactoredSaliency(4, (2,), space="weight", gate_init="one", rngs=rngs)
    with pytest.raises(ValueError, match="amounts to a vector"):
        FactoredSaliency(4, (2,), rngs=rngs).vector()


def test_the_package_is_lazy_and_gives_the_layer() -> None:
    script = (
        "import sys, gap_jax; assert 'jax' not in sys.modules; "
        "from gap_jax import AttentionalPooling as layer; "
        "import gap_jax.models.pooling as home; assert layer is home.AttentionalPooling; "
        "assert 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
