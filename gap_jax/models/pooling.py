"""Attentional pooling: class maps weighted, position by position, by a map of what is salient.

    h_p     = saliency_p(X)                  bottom-up, one value a position
    t_kp    = X a_kp + alpha_kp              top-down, one value a position and class
    logit_k = sum_p mean_n(t_kp * h_p)

With a linear saliency that is attentional pooling, with a factored one its generalization.
"""

import math
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Initializer
from jax import lax
from jaxtyping import Array, Float, Key

from gap_jax.batch import AttentionMaps
from gap_jax.models.layers import HE, SMALL, Dense, along_channels, project

Activation = Literal["none", "relu", "softmax"]
DropoutWhere = Literal["map", "pooled"]
GateInit = Literal["paper", "one"]
Space = Literal["activation", "weight"]
EXACT = lax.Precision.HIGHEST


@runtime_checkable
class Saliency(Protocol):
    """Anything that gives each position `maps` float32 values."""

    maps: int

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]: ...


class UniformSaliency(nnx.Module):
    """h = 1: with it the pooling is a linear classifier of the map's mean, the usual baseline."""

    def __init__(self, maps: int = 1) -> None:
        self.maps = maps

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]:
        return jnp.ones((*x.shape[:-1], self.maps))


class LinearSaliency(nnx.Module):
    """h = X b + beta; with `gate_init="one"` h = 1 + X b, where b is 0 at the start.

    The second b is called `gate`: weight decay leaves it alone, which would pull h towards 1.
    """

    def __init__(
        self,
        features: int,
        maps: int = 1,
        *,
        bias: bool = True,
        gate_init: GateInit = "paper",
        init: Initializer = SMALL,
        rngs: nnx.Rngs,
    ) -> None:
        self.maps = maps
        self.gated = gate_init == "one"
        self.bias = nnx.Param(jnp.zeros(maps)) if bias and not self.gated else None
        if self.gated:
            self.gate = nnx.Param(jnp.zeros((features, maps)))
        else:
            self.kernel = nnx.Param(init(rngs.params(), (features, maps), jnp.float32))

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]:
        if self.gated:
            return 1 + project(x, self.gate[...], exactly=True)
        h = project(x, self.kernel[...], exactly=True)
        return h if self.bias is None else h + along_channels(self.bias[...], h)


class FactoredSaliency(nnx.Module):
    """A linear saliency at the end of T = len(widths) layers U_t that all its maps share.

    space="activation": Z_t = relu(Z_{t-1} U_t + u_t) from Z_0 = X, h = Z_T c + beta; without a
    layer it is the linear saliency to the bit. space="weight": h = X f(V c) with
    V = f(U_1) ... f(U_T), f = relu and no biases: one vector that no picture changes, which
    starts positive, because a start with f(V c) = 0 has no gradient to leave it by.
    """

    def __init__(
        self,
        features: int,
        widths: tuple[int, ...],
        maps: int = 1,
        *,
        space: Space = "activation",
        gate_init: GateInit = "paper",
        rngs: nnx.Rngs,
    ) -> None:
        literal = space == "weight"
        if literal and (gate_init != "paper" or not widths):
            raise ValueError('space="weight" takes one width or more and gate_init="paper"')
        self.maps = maps
        self.space: Space = space
        self.chain = nnx.List()
        for width in widths:
            init = _positive(1 / width) if literal else HE
            self.chain.append(Dense(features, width, bias=not literal, init=init, rngs=rngs))
            features = width
        self.last = LinearSaliency(
            features,
            maps,
            bias=not literal,
            gate_init=gate_init,
            init=_positive(1e-3) if literal else SMALL,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]:
        if self.space == "weight":
            return project(x, self.vector(), exactly=True)
        for layer in self.chain:
            x = jax.nn.relu(layer(x))
        return self.last(x)

    def vector(self) -> Float[Array, "s p"]:
        """f(V c), the b of the linear saliency that `space="weight"` amounts to."""
        if self.space != "weight":
            raise ValueError('only space="weight" amounts to a vector')
        product = self.last.kernel[...]
        for layer in reversed(self.chain):
            product = jnp.matmul(jax.nn.relu(layer.kernel[...]), product, precision=EXACT)
        return jax.nn.relu(product)


def _positive(mean: float) -> Initializer:
    return nnx.initializers.uniform(2 * mean)


class AttentionalPooling(nnx.Module):
    """Pools maps (b, *spatial, f) to one float32 score per class.

        pool = AttentionalPooling(2048, 393, rngs=nnx.Rngs(0))
        logits = pool(x)                      # in training: pool(x, keys=jax.random.split(key, b))
        bottom_up, top_down, combined = pool.maps(x)

    `saliency` (by default linear in `features`) gives `rank` maps, or `classes * rank` with
    `per_class`; it reads X unless a call names another `saliency_input`. `activation` is applied
    to its maps. `dropout` is the share of the top-down input that is dropped where `keys` come,
    one for each row: single values of X (`map`), or whole channels (`pooled`, cheaper).

    A call contracts positions first, g_p = X^T h_p / n, then channels: the same scores as from
    the maps in a thirtieth of the time. Only `per_class` has no such order.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        saliency: Saliency | None = None,
        rank: int = 1,
        per_class: bool = False,
        activation: Activation = "none",
        dropout: float = 0.0,
        dropout_where: DropoutWhere = "map",
        init: Initializer = SMALL,
        rngs: nnx.Rngs,
    ) -> None:
        maps = rank * classes if per_class else rank
        self.saliency = saliency or LinearSaliency(features, maps, rngs=rngs)
        if self.saliency.maps != maps:
            raise ValueError(f"the saliency gives {self.saliency.maps} maps where {maps} are due")
        self.kernel = nnx.Param(init(rngs.params(), (rank, features, classes), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((rank, classes)))
        self.per_class = per_class
        self.activation: Activation = activation
        self.dropout = dropout
        self.dropout_where: DropoutWhere = dropout_where

    def __call__(
        self,
        x: Float[Array, "b *spatial f"],
        saliency_input: Float[Array, "b *spatial s"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        if self.per_class:
            return self.maps(x, saliency_input, keys=keys).logits
        h = self._bottom_up(x if saliency_input is None else saliency_input)
        values = _by_position(x).astype(jnp.float32)
        if self.dropout_where == "map":
            values = self._drop(values, keys)
        g = jnp.einsum("bnf,bnp->bpf", values, h, precision=EXACT) / h.shape[1]
        if self.dropout_where == "pooled":
            g = self._drop(g, keys)
        return jnp.einsum("bpf,pfk->bk", g, self.kernel[...], precision=EXACT) + jnp.einsum(
            "bp,pk->bk", h.mean(1), self.bias[...], precision=EXACT
        )

    def maps(
        self,
        x: Float[Array, "b *spatial f"],
        saliency_input: Float[Array, "b *spatial s"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> AttentionMaps:
        """What each position says of each class, and how much it counts."""
        h = self._bottom_up(x if saliency_input is None else saliency_input)
        values = self._drop(_by_position(x).astype(jnp.float32), keys)
        t = jnp.einsum("bnf,pfk->bnkp", values, self.kernel[...], precision=EXACT)
        t = t + self.bias[...].T[None, None]
        h_kp = h.reshape(*h.shape[:2], -1, t.shape[-1])  # k is 1 where the classes share a map
        by_position = (h_kp if self.per_class else h, t, (t * h_kp).sum(-1))
        return AttentionMaps(*(v.reshape(*x.shape[:-1], *v.shape[2:]) for v in by_position))

    def _bottom_up(self, x: Float[Array, "b *spatial s"]) -> Float[Array, "b n p"]:
        h = _by_position(self.saliency(x))
        match self.activation:
            case "relu":
                return jax.nn.relu(h)
            case "softmax":
                return jax.nn.softmax(h, axis=1)
            case _:
                return h

    def _drop(
        self, values: Float[Array, "b m f"], keys: Key[Array, " b"] | None
    ) -> Float[Array, "b m f"]:
        if keys is None or not self.dropout:
            return values
        kept = 1 - self.dropout
        positions = values.shape[1] if self.dropout_where == "map" else 1
        drawn = jax.vmap(lambda key: jax.random.bernoulli(key, kept, (positions, values.shape[2])))
        return jnp.where(drawn(keys), values / kept, 0)


def _by_position(x: Float[Array, "b *spatial c"]) -> Float[Array, "b n c"]:
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
