"""Layers refuse invalid arguments in one line with their names and choices."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from flax import nnx

from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.pose import PoseBranch
from gap_jax.models.saliency import (
    ChainedSaliency,
    FactoredSaliency,
    LinearSaliency,
    PartSaliency,
    UniformSaliency,
)
from gap_jax.models.second_order import CompactBilinearPooling, MaxPooling, SecondOrderPooling

POOLINGS = (AttentionalPooling, MaxPooling, SecondOrderPooling, CompactBilinearPooling)
WHOLE = "must be a whole number of 1 or more"


@pytest.fixture(autouse=True)
def without_type_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls layers as users do, without beartype, which would refuse some arguments first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    yield


def pool(
    cls: Any = AttentionalPooling, features: Any = 8, classes: Any = 3, **arguments: Any
) -> Any:
    return cls(features, classes, **arguments, rngs=nnx.Rngs(0))


def linear(features: Any = 8, **arguments: Any) -> Any:
    return LinearSaliency(features, **arguments, rngs=nnx.Rngs(0))


def factored(widths: Any = (4,), **arguments: Any) -> Any:
    return FactoredSaliency(8, widths, **arguments, rngs=nnx.Rngs(0))


def branch(features: Any = 8, hidden: Any = (4,), **arguments: Any) -> Any:
    return PoseBranch(features, hidden, **arguments, rngs=nnx.Rngs(0))


CASES: list[tuple[Callable[[], Any], str]] = [
    (lambda: pool(activation="Relu"), "activation='Relu' is not one of none, relu, softmax"),
    (lambda: pool(dropout_where="maps"), "dropout_where='maps' is not one of map, pooled"),
    (lambda: pool(rank=0), f"rank=0 {WHOLE}"),
    (lambda: pool(rank=1.0), f"rank=1.0 {WHOLE}"),
    (lambda: pool(rank=True), f"rank=True {WHOLE}"),
    (lambda: linear(features=0), f"features=0 {WHOLE}"),
    (lambda: linear(maps=0), f"maps=0 {WHOLE}"),
    (lambda: linear(gate_init="ones"), "gate_init='ones' is not one of paper, one"),
    (lambda: factored(widths=(4, 0)), f"widths=0 {WHOLE}"),
    (lambda: factored(maps=0), f"maps=0 {WHOLE}"),
    (lambda: factored(space="weights"), "space='weights' is not one of activation, weight"),
    (lambda: factored(gate_init="ones"), "gate_init='ones' is not one of paper, one"),
    (lambda: UniformSaliency(0), f"maps=0 {WHOLE}"),
    (lambda: PartSaliency(-1), f"joints=-1 {WHOLE}"),
    (lambda: ChainedSaliency(linear(), 0, rngs=nnx.Rngs(0)), f"maps=0 {WHOLE}"),
    (lambda: ChainedSaliency(linear(maps=2), 3, rngs=nnx.Rngs(0)), "first.maps=2 must be 1"),
    (
        lambda: pool(CompactBilinearPooling, sketch_features=-1),
        "sketch_features=-1 must be a whole number of 0 or more",
    ),
    (lambda: branch(features=0), f"features=0 {WHOLE}"),
    (lambda: branch(hidden=(0,)), f"hidden=0 {WHOLE}"),
    (lambda: branch(joints=0), f"joints=0 {WHOLE}"),
    (lambda: branch(kernel_size=2), "kernel_size=2 must be odd"),
]


def trace(make: Callable[[], Any]) -> None:
    """Calls a layer without computing values."""

    def call() -> None:
        make()

    jax.eval_shape(call)


def refuses(make: Callable[[], Any], line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as refusal:
        trace(make)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("make", "line"), CASES, ids=[line for _, line in CASES])
def test_constructor_refuses(make: Callable[[], Any], line: str) -> None:
    refuses(make, line)


@pytest.mark.parametrize("cls", POOLINGS)
def test_every_pooling_refuses_sizes_and_shares(cls: Any) -> None:
    for name, value in (("features", 0), ("features", 8.0), ("classes", 0), ("classes", None)):
        refuses(
            lambda name=name, value=value: pool(cls, **{name: value}), f"{name}={value} {WHOLE}"
        )
    for share in (-0.1, 1, 80, float("nan"), "0.5"):
        refuses(
            lambda share=share: pool(cls, dropout=share), f"dropout={share!r} must be 0 or more"
        )
    assert pool(cls, dropout=0).dropout == 0


@pytest.mark.parametrize("cls", POOLINGS)
@pytest.mark.parametrize("method", ["__call__", "maps"])
def test_every_pooling_refuses_other_channels_and_absent_keys(cls: Any, method: str) -> None:
    def call(channels: int = 8, dropout: float = 0.5, **keys: Any) -> Callable[[], Any]:
        x = jnp.ones((2, 3, 3, channels))
        return lambda: getattr(pool(cls, dropout=dropout), method)(x, **keys)

    refuses(call(7, keys=None), "(2, 3, 3, 7) has 7 channels; the layer takes 8")
    refuses(call(), "dropout=0.5 needs 2 keys, one for each row, and `keys` is missing")
    for count in (1, 3):
        keys = jax.random.split(jax.random.key(0), count)
        refuses(call(keys=keys), f"and keys have shape ({count},)")
    refuses(call(keys=jax.random.key(0)), "and keys have shape ()")
    trace(call(keys=None))
    trace(call(keys=jax.random.split(jax.random.key(0), 2)))
    trace(call(dropout=0))


@pytest.mark.parametrize("size", [1, 3])
def test_other_layers_refuse_other_channels(size: int) -> None:
    x, line = jnp.ones((2, 3, 3, 7)), "(2, 3, 3, 7) has 7 channels; the layer takes 8"
    refuses(lambda: linear()(x), line)
    refuses(lambda: factored()(x), line)
    refuses(lambda: factored(space="weight")(x), line)
    refuses(lambda: branch(kernel_size=size)(x), line)
    refuses(lambda: pool(saliency=UniformSaliency())(x), line)
    refuses(lambda: pool()(jnp.ones((2, 3, 3, 8)), x), line)
