"""Attentional pooling: class maps weighted at each position by a saliency map.

    h_p     = saliency_p(X)                  bottom-up, one value for each position
    t_kp    = X a_kp + alpha_kp              top-down, one value for each position and class
    logit_k = sum_p mean_n(t_kp * h_p)

A linear saliency makes it attentional pooling, a factored one generalized attentional pooling.
"""

import math
from types import EllipsisType
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float, Key

from gap_jax.batch import AttentionMaps
from gap_jax.model_config import Activation, DropoutWhere, GateInit, Space
from gap_jax.models.arguments import check_channels, check_choice, check_counts, check_dropout
from gap_jax.models.layers import SMALL
from gap_jax.models.saliency import EXACT, FactoredSaliency, LinearSaliency, Saliency

Features = Float[Array, "b *spatial f"]
SaliencyInput = Float[Array, "b *spatial s"] | None  # None: the features
Keys = Key[Array, " b"] | EllipsisType | None  # None in evaluation; ...: argument not given


@runtime_checkable
class Pooling(Protocol):
    """A module that computes a score for each class, and the maps that explain it."""

    dropout: float

    def __call__(
        self, x: Features, saliency_input: SaliencyInput = None, *, keys: Keys = ...
    ) -> Float[Array, "b k"]: ...

    def maps(
        self, x: Features, saliency_input: SaliencyInput = None, *, keys: Keys = ...
    ) -> AttentionMaps: ...


class AttentionalPooling(nnx.Module):
    """Pools maps (b, *spatial, f) to one float32 score per class.

    >>> from flax import nnx
    >>> from gap_jax import AttentionalPooling
    >>> pool = AttentionalPooling(2048, 393, rngs=nnx.Rngs(0))
    >>> x = jax.numpy.ones((2, 7, 7, 2048))
    >>> pool(x).shape
    (2, 393)
    >>> bottom_up, top_down, combined = pool.maps(x)
    >>> bottom_up.shape, combined.shape
    ((2, 7, 7, 1), (2, 7, 7, 393))

    `saliency` (by default linear in `features`, with this `gate_init`) computes `rank` maps, or
    `classes * rank` with `per_class`. Its input is X, or the `saliency_input` of a call.
    `activation` is applied to its maps. With `one_bias` only the last pair has an alpha.

    `dropout` is the share of the top-down input that is dropped in training: single values of X
    (`map`), or whole channels (`pooled`, cheaper). With dropout every call must pass `keys`: one
    key for each row in training, None in evaluation.

    >>> pool = AttentionalPooling(2048, 393, dropout=0.8, rngs=nnx.Rngs(0))
    >>> logits = pool(x, keys=jax.random.split(jax.random.key(0), 2))  # in training
    >>> logits = pool(x, keys=None)  # in evaluation

    The saliency multiplies in the type of X, the scores in float32, or both in `dtype`; sums are
    in float32. Parameters are stored in `param_dtype`.

    A call contracts positions first, g_p = X^T h_p / n, then channels: the same scores as from
    the maps in a thirtieth of the time. `per_class` cannot use this order.
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
        one_bias: bool = False,
        gate_init: GateInit = "paper",
        init: Initializer = SMALL,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(features=features, classes=classes, rank=rank)
        check_choice("activation", activation, Activation)
        check_dropout(dropout)
        check_choice("dropout_where", dropout_where, DropoutWhere)
        maps = rank * classes if per_class else rank
        if saliency is None:
            saliency = LinearSaliency(
                features, maps, gate_init=gate_init, param_dtype=param_dtype, rngs=rngs
            )
        elif gate_init != "paper":
            raise ValueError(f"{gate_init=} has no effect with a saliency; give it to the saliency")
        self.saliency = saliency
        if self.saliency.maps != maps:
            raise ValueError(
                f"saliency.maps={self.saliency.maps} must be {maps} with {rank=} and {per_class=}"
            )
        self.kernel = nnx.Param(init(rngs.params(), (rank, features, classes), param_dtype))
        self.bias = nnx.Param(jnp.zeros((1 if one_bias else rank, classes), param_dtype))
        self.dtype = dtype
        self.per_class = per_class
        self.activation: Activation = activation
        self.dropout = dropout
        self.dropout_where: DropoutWhere = dropout_where

    def __call__(
        self, x: Features, saliency_input: SaliencyInput = None, *, keys: Keys = ...
    ) -> Float[Array, "b k"]:
        if self.per_class:
            return self.maps(x, saliency_input, keys=keys).logits
        h = self._bottom_up(x, saliency_input)
        values = self._values(x)
        if self.dropout_where == "map":
            values = self._drop(values, keys)
        g = self._contract("bnf,bnp->bpf", values, h) / h.shape[1]
        if self.dropout_where == "pooled":
            g = self._drop(g, keys)
        return self._contract("bpf,pfk->bk", g, self.kernel[...]) + jnp.einsum(
            "bp,pk->bk", h.mean(1), self._alpha(), precision=EXACT
        )

    def maps(
        self, x: Features, saliency_input: SaliencyInput = None, *, keys: Keys = ...
    ) -> AttentionMaps:
        """Computes the contribution of each position to each class."""
        h = self._bottom_up(x, saliency_input)
        values = self._drop(self._values(x), keys)
        t = self._contract("bnf,pfk->bnkp", values, self.kernel[...])
        t = t + self._alpha().T[None, None]
        h_kp = h.reshape(*h.shape[:2], -1, t.shape[-1])  # k is 1 if the classes share a map
        maps = (h_kp if self.per_class else h, t, (t * h_kp).sum(-1))
        return AttentionMaps(*(v.reshape(*x.shape[:-1], *v.shape[2:]) for v in maps))

    def _values(self, x: Features) -> Float[Array, "b n f"]:
        check_channels(x, self.kernel.shape[1])
        return by_position(x).astype(jnp.float32 if self.dtype is None else self.dtype)

    def _contract(
        self, indices: str, values: Float[Array, "..."], other: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """Sums products over the indices, with operands in `dtype` and sums in float32."""
        dtype = jnp.float32 if self.dtype is None else self.dtype
        pair = values.astype(dtype), other.astype(dtype)
        return jnp.einsum(indices, *pair, precision=EXACT, preferred_element_type=jnp.float32)

    def _bottom_up(self, x: Features, saliency_input: SaliencyInput) -> Float[Array, "b n p"]:
        read = x if saliency_input is None else saliency_input
        h = by_position(self.saliency(read if self.dtype is None else read.astype(self.dtype)))
        match self.activation:
            case "relu":
                return jax.nn.relu(h)
            case "softmax":
                return jax.nn.softmax(h, axis=1)
            case _:
                return h

    def _alpha(self) -> Float[Array, "p k"]:
        """The biases of all pairs; with `one_bias` all but the last are 0."""
        rank, given = self.kernel.shape[0], self.bias[...]
        return jnp.concatenate([jnp.zeros((rank - len(given), given.shape[1])), given])

    def _drop(self, values: Float[Array, "b m f"], keys: Keys) -> Float[Array, "b m f"]:
        return drop(values, keys, self.dropout, channels=self.dropout_where == "pooled")


class GeneralizedAttentionalPooling(AttentionalPooling):
    """Attentional pooling whose saliency has T = len(widths) factored layers.

    >>> from flax import nnx
    >>> from gap_jax import GeneralizedAttentionalPooling
    >>> pool = GeneralizedAttentionalPooling(2048, 393, (512, 256), rngs=nnx.Rngs(0))  # T = 2
    >>> pool(jax.numpy.ones((2, 7, 7, 2048))).shape
    (2, 393)

    `widths`, `space` and `gate_init` are arguments of `FactoredSaliency`, all others of
    `AttentionalPooling`.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        widths: tuple[int, ...],
        *,
        rank: int = 1,
        per_class: bool = False,
        space: Space = "activation",
        gate_init: GateInit = "paper",
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
        **arguments: Any,
    ) -> None:
        check_counts(classes=classes, rank=rank)
        maps = rank * classes if per_class else rank
        own: Any = {"param_dtype": param_dtype, "rngs": rngs}
        saliency = FactoredSaliency(features, widths, maps, space=space, gate_init=gate_init, **own)
        super().__init__(
            features, classes, saliency=saliency, rank=rank, per_class=per_class, **own, **arguments
        )


def drop(
    values: Float[Array, "b m f"], keys: Keys, share: float, *, channels: bool = True
) -> Float[Array, "b m f"]:
    """Drops that share of the values and scales up the rest; `channels`: whole channels."""
    if keys is None or not share:
        return values
    b = len(values)
    if keys is ... or keys.shape[:1] != (b,):
        given = "`keys` is missing" if keys is ... else f"keys have shape {keys.shape}"
        raise ValueError(
            f"dropout={share:g} needs {b} keys, one for each row, and {given}; pass "
            f"keys=jax.random.split(key, {b}) in training and keys=None in evaluation"
        )
    kept = 1 - share
    rows = 1 if channels else values.shape[1]
    drawn = jax.vmap(lambda key: jax.random.bernoulli(key, kept, (rows, values.shape[2])))
    return jnp.where(drawn(keys), values / kept, 0)


def by_position(x: Float[Array, "b *spatial c"]) -> Float[Array, "b n c"]:
    """Flattens the spatial axes into one axis of positions."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
