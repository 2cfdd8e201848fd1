"""Compares the pooling layer with the papers' trace forms, gradients included."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array, Key

from gap_jax.model_config import Activation, DropoutWhere
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import FactoredSaliency, LinearSaliency, Saliency, UniformSaliency
from tests.support import oracles
from tests.support.small_networks import UNOPTIMISED, by_path, drawn

pytestmark = pytest.mark.slow

F, S, K, SPATIAL = 5, 4, 3, (2, 3)  # channels pooled, channels read, classes, the map
Values = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One combination of arguments."""

    saliency: str = "linear"
    widths: tuple[int, ...] = ()
    rank: int = 1
    per_class: bool = False
    activation: Activation = "none"
    reads_other: bool = False
    dropout: float = 0.0
    where: DropoutWhere = "map"

    def __str__(self) -> str:
        """The differences from the plain layer, for the name of the test."""
        differences = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return ",".join(differences) or "plain"

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
    """Computes the scores in float64, by the trace forms of the papers where they exist."""

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
    """The largest error divided by the largest value, or by `floor` if that is larger."""
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max()) / max(
        float(np.abs(theirs).max()), floor
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_and_gradients_match_trace_form(case: Case) -> None:
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

    expected = oracles.numeric_gradients(lambda v: float((literal(v) * weight).sum()), values)
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for ours, tolerance in ((in_f32, 1e-5), (in_bf16, 2e-2)):
        for (_, logits), (parameters, dx, dz) in ours:
            assert logits.dtype == jnp.float32
            assert error(logits, literal(values)) < tolerance
            gradients = by_path(parameters) | {"x": dx} | ({"z": dz} if case.reads_other else {})
            assert gradients.keys() == expected.keys()
            for path, gradient in expected.items():
                assert error(gradients[path], gradient, floor=largest / 10) < tolerance, path
