"""Poolings that look at pairs of channels or at maxima, and where their scores come from."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Initializer
from jaxtyping import Array, Float, Key

from gap_jax.batch import AttentionMaps
from gap_jax.models.layers import HE, SMALL
from gap_jax.models.pooling import by_position, drop
from gap_jax.models.saliency import EXACT

HASH_SEED = 2016  # the sketch is a constant of the method, the same in every network
TINY = 1e-12


class MaxPooling(nnx.Module):
    """logit_k = w_k · max_n X + alpha_k.

    A map tells what each position adds: of each channel its maximum stands where it is first
    reached. `bottom_up` is the share of channels that are largest there, times n.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        dropout: float = 0.0,
        init: Initializer = HE,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (features, classes), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(classes))
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "b *spatial f"],
        saliency_input: Float[Array, "b *spatial s"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        del saliency_input
        g = by_position(x).astype(jnp.float32).max(1, keepdims=True)
        return _score(drop(g, keys, self.dropout)[:, 0], self.kernel[...], self.bias[...])

    def maps(
        self,
        x: Float[Array, "b *spatial f"],
        saliency_input: Float[Array, "b *spatial s"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> AttentionMaps:
        """What each position adds to each score."""
        del saliency_input
        values = by_position(x).astype(jnp.float32)
        n = values.shape[1]
        is_first = jnp.arange(n)[None, :, None] == values.argmax(1)[:, None, :]
        kept = drop(jnp.where(is_first, values * n, 0), keys, self.dropout)
        return _as_maps(
            x, _score(kept, self.kernel[...], self.bias[...]), is_first.mean(-1, keepdims=True) * n
        )


class SecondOrderPooling(nnx.Module):
    """logit_k = Tr(X^T X W_k^T) / n + alpha_k, of which attentional pooling is the rank-1 case.

    Its f^2 weights a class are the reason why that was invented.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        dropout: float = 0.0,
        init: Initializer = SMALL,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (features, features, classes), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(classes))
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "b *spatial f"],
        saliency_input: Float[Array, "b *spatial s"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        del saliency_input
        values = by_position(x).astype(jnp.float32)
        dropped = drop(values, keys, self.dropout)
        pairs = jnp.einsum("bnf,bng->bfg", dropped, values, precision=EXACT) / values.shape[1]
        scores = jnp.einsum("bfg,fgk->bk", pairs, self.kernel[...], precision=EXACT)
        return scores + self.bias[...][None]

    def maps(
        self,
        x: Float[Array, "b *spatial f"],
        saliency_input: Float[Array, "b *spatial s"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> AttentionMaps:
        """x_n^T W_k x_n + alpha_k at each position."""
        del saliency_input
        values = by_position(x).astype(jnp.float32)
        dropped = drop(values, keys, self.dropout)
        weighed = jnp.einsum("bnf,fgk->bngk", dropped, self.kernel[...], precision=EXACT)
        combined = jnp.einsum("bngk,bng->bnk", weighed, values, precision=EXACT)
        return _as_maps(x, combined + self.bias[...][None, None])


class CompactBilinearPooling(nnx.Module):
    """logit_k = w_k · y + alpha_k with y = sum_n sketch(x_n), or y normalised.

    sketch(x)_i is the sum of s1(a) s2(c) x_a x_c over the pairs with h1(a) + h2(c) = i modulo the
    sketch's length: a product of two Fourier transforms. The hashes h and signs s are constants.
    `normalised`: each y_i becomes sign(y_i) sqrt|y_i|, and then y has unit length.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        sketch_features: int = 0,
        normalised: bool = False,
        dropout: float = 0.0,
        init: Initializer = SMALL,
        rngs: nnx.Rngs,
    ) -> None:
        self.features = features
        self.length = sketch_features or features
        self.normalised = normalised
        self.kernel = nnx.Param(init(rngs.params(), (self.length, classes), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(classes))
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "b *spatial f"],
        saliency_input: Float[Array, "b *spatial s"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b k"]:
        del saliency_input
        y = self._sketch(x).sum(1, keepdims=True)
        y = drop(y * self._factors(y), keys, self.dropout)
        return _score(y[:, 0], self.kernel[...], self.bias[...])

    def maps(
        self,
        x: Float[Array, "b *spatial f"],
        saliency_input: Float[Array, "b *spatial s"] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> AttentionMaps:
        """What each position's sketch adds, normalised by what all of them amount to."""
        del saliency_input
        sketches = self._sketch(x)
        factors = self._factors(sketches.sum(1, keepdims=True))
        values = drop(sketches * factors * sketches.shape[1], keys, self.dropout)
        return _as_maps(x, _score(values, self.kernel[...], self.bias[...]))

    def _sketch(self, x: Float[Array, "b *spatial f"]) -> Float[Array, "b n d"]:
        values = by_position(x).astype(jnp.float32)
        empty = jnp.zeros((*values.shape[:2], self.length))
        first, second = (
            jnp.fft.rfft(empty.at[..., places].add(values * signs[None, None]))
            for places, signs in draw_hashes(self.features, self.length)
        )
        return jnp.fft.irfft(first * second, n=self.length)

    def _factors(self, y: Float[Array, "b 1 d"]) -> Float[Array, "b 1 d"]:
        """What normalising multiplies y with."""
        if not self.normalised:
            return jnp.ones_like(y)
        roots = jax.lax.rsqrt(jnp.abs(y) + TINY)
        length = jnp.square(y * roots).sum(-1, keepdims=True)
        return roots * jax.lax.rsqrt(length + TINY)


def draw_hashes(features: int, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Twice: a place in the sketch and a sign for each channel."""
    rng = np.random.default_rng(HASH_SEED)
    return [
        (rng.integers(length, size=features), rng.choice([-1.0, 1.0], features).astype(np.float32))
        for _ in range(2)
    ]


def _score(
    values: Float[Array, "*any f"], kernel: Float[Array, "f k"], bias: Float[Array, " k"]
) -> Float[Array, "*any k"]:
    scores = jnp.matmul(values, kernel, precision=EXACT)
    return scores + bias.reshape((1,) * (scores.ndim - 1) + bias.shape)


def _as_maps(
    x: Float[Array, "b *spatial f"],
    combined: Float[Array, "b n k"],
    bottom_up: Float[Array, "b n 1"] | None = None,
) -> AttentionMaps:
    """A pooling without pairs as maps: one bottom-up map, uniform unless it is given."""
    spatial = x.shape[:-1]
    if bottom_up is None:
        bottom_up = jnp.ones((x.shape[0], math.prod(x.shape[1:-1]), 1))
    return AttentionMaps(
        bottom_up.reshape(*spatial, 1).astype(jnp.float32),
        combined.reshape(*spatial, -1, 1),
        combined.reshape(*spatial, -1),
    )
