"""Measures the CPU milliseconds of attentional pooling, channels last or positions last."""

import functools
import itertools
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

from benchmarks import alternating
from benchmarks.alternating import Ratio, Rounds
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import UniformSaliency

FEATURES, CLASSES = 2048, 393
LEAST_S = 0.1  # CPU time of a turn
ORDERS = ("mean", "pooled", "maps")
PASSES = ("forward", "forward+backward")
RATIOS: tuple[Ratio, ...] = tuple(
    (f"{order} {each}", f"{base} {each}", wanted)
    for order, base, wanted in (("maps", "pooled", ">= 20"), ("pooled", "mean", ""))
    for each in PASSES
)
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


class Result(NamedTuple):
    """The numbers of every row and turn."""

    shape: tuple[int, ...]
    machine: str
    rounds: Rounds


def measure(batch: int, side: int, turns: int, features: int = FEATURES) -> Result:
    """Measures every row in every turn, in one process on one core."""
    shape = (batch, side, side, features)
    rows = [f"{order} {each}" for order in ORDERS for each in PASSES]
    with alternating.serving(serve, shape) as process:

        def cpu_ms(row: str) -> float:
            process.send(row)
            return process.recv()

        for row in rows:
            cpu_ms(row)
        machine = alternating.describe_machine(PACKAGES)
        return Result(shape, machine, alternating.alternate(rows, turns, cpu_ms))


def render(result: Result) -> str:
    """Renders the machine and the table."""
    title = f"pooling of {result.shape} to {CLASSES} classes, float32, one thread: CPU ms"
    return f"{result.machine}\n\n{alternating.render(title, result.rounds, {}, RATIOS)}"


def serve(shape: tuple[int, ...], orders: Connection) -> None:
    """Answers the name of a row with its CPU ms, until a False."""
    alternating.pin()
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    rows = {f"{order} {each}": _build(order, each, x) for order in ORDERS for each in PASSES}
    while row := orders.recv():
        orders.send(_time(rows[row]))


def _build(order: str, passes: str, x: Float[Array, "b h w f"]) -> Callable[[], Any]:
    saliency = UniformSaliency() if order == "mean" else None
    graph, params = nnx.split(
        AttentionalPooling(x.shape[-1], CLASSES, saliency=saliency, rngs=nnx.Rngs(0))
    )

    def logits(params: PyTree, x: Float[Array, "b h w f"]) -> Float[Array, "b k"]:
        pooling = nnx.merge(graph, params, copy=True)
        return pooling.maps(x).logits if order == "maps" else pooling(x)

    def loss(params: PyTree, x: Float[Array, "b h w f"]) -> Float[Array, ""]:
        return jax.nn.logsumexp(logits(params, x), axis=-1).sum()

    forward = passes == "forward"
    return functools.partial(jax.jit(logits if forward else jax.grad(loss, (0, 1))), params, x)


def _time(row: Callable[[], Any]) -> float:
    start = time.process_time()
    for calls in itertools.count(1):
        jax.block_until_ready(row())
        used = time.process_time() - start
        if used >= LEAST_S:
            return used / calls * 1e3
    raise AssertionError("unreachable")
