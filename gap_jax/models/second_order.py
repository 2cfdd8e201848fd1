"""Poolings by pairs of channels or by maxima, with the maps that explain their scores."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from gap_jax.batch import AttentionMaps
from gap_jax.models.arguments import check_channels, check_counts, check_dropout
from gap_jax.models.layers import HE, SMALL, along_channels, project
from gap_jax.models.pooling import Features, Keys, SaliencyInput, by_position, drop
from gap_jax.models.saliency import EXACT

HASH_SEED = 2016  # every network has the same sketch
LENGTH_EPS = 1e-12
ROOT_EPS = 1e-5  # bounds the slope of a signed square root at 0 by 316


class PositionPooling(nnx.Module):
    """A pooling that reads only the map; its scores are means of the contributions of positions."""

    def __init__(self, features: int, classes: int, dropout: float) -> None:
        check_counts(features=features, classes=classes)
        check_dropout(dropout)
        self.features = features
        self.bias = nnx.Param(jnp.zeros(classes))
        self.dropout = dropout

    def __call__(
        self, x: Features, saliency_input: SaliencyInput = None, *, keys: Keys = ...
    ) -> Float[Array, "b k"]:
        del saliency_input
        return self._add_bias(self._score(self._values(x), keys))

    def maps(
        self, x: Features, saliency_input: SaliencyInput = None, *, keys: Keys = ...
    ) -> AttentionMaps:
        """Computes each position's contribution to each score, times n, and a bottom-up map."""
        del saliency_input
        values, spatial = self._values(x), x.shape[:-1]
        combined = self._add_bias(self._contributions(values, keys))
        return AttentionMaps(
            self._bottom_up(values).reshape(*spatial, 1),
            combined.reshape(*spatial, -1, 1),
            combined.reshape(*spatial, -1),
        )

    def _values(self, x: Features) -> Float[Array, "b n f"]:
        check_channels(x, self.features)
        return by_position(x).astype(jnp.float32)

    def _add_bias(self, scores: Float[Array, "*any k"]) -> Float[Array, "*any k"]:
        return scores + along_channels(self.bias[...], scores)

    def _score(self, values: Float[Array, "b n f"], keys: Keys) -> Float[Array, "b k"]:
        """The scores without their bias."""
        raise NotImplementedError

    def _contributions(self, values: Float[Array, "b n f"], keys: Keys) -> Float[Array, "b n k"]:
        """The maps whose mean over positions is `_score`."""
        raise NotImplementedError

    def _bottom_up(self, values: Float[Array, "b n f"]) -> Float[Array, "b n 1"]:
        return jnp.ones((*values.shape[:2], 1))


class MaxPooling(PositionPooling):
    """logit_k = w_k · max_n X + alpha_k.

    In the maps each channel's maximum counts at the first position that has it. `bottom_up` is the
    share of channels with their maximum at a position, times n.
    """

    def __init__(
        self, features: int, classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        super().__init__(features, classes, dropout)
        self.kernel = nnx.Param(HE(rngs.params(), (features, classes), jnp.float32))

    def _score(self, values: Float[Array, "b n f"], keys: Keys) -> Float[Array, "b k"]:
        # The gradient of jnp.max divides by the number of values equal to the maximum. XLA may
        # recompute the values with other rounding, find none that is equal, and divide by 0.
        largest = jnp.where(_is_first_maximum(values), values, 0).sum(1, keepdims=True)
        g = drop(largest, keys, self.dropout)
        return project(g, self.kernel[...], exactly=True)[:, 0]

    def _contributions(self, values: Float[Array, "b n f"], keys: Keys) -> Float[Array, "b n k"]:
        shares = jnp.where(_is_first_maximum(values), values * values.shape[1], 0)
        return project(drop(shares, keys, self.dropout), self.kernel[...], exactly=True)

    def _bottom_up(self, values: Float[Array, "b n f"]) -> Float[Array, "b n 1"]:
        return _is_first_maximum(values).mean(-1, keepdims=True) * values.shape[1]


class SecondOrderPooling(PositionPooling):
    """logit_k = Tr(X^T X W_k^T) / n + alpha_k; with W_k of rank 1 it is attentional pooling."""

    def __init__(
        self, features: int, classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        super().__init__(features, classes, dropout)
        self.kernel = nnx.Param(SMALL(rngs.params(), (features, features, classes), jnp.float32))

    def _score(self, values: Float[Array, "b n f"], keys: Keys) -> Float[Array, "b k"]:
        dropped = drop(values, keys, self.dropout)
        pairs = jnp.einsum("bnf,bng->bfg", dropped, values, precision=EXACT) / values.shape[1]
        return jnp.einsum("bfg,fgk->bk", pairs, self.kernel[...], precision=EXACT)

    def _contributions(self, values: Float[Array, "b n f"], keys: Keys) -> Float[Array, "b n k"]:
        dropped = drop(values, keys, self.dropout)
        weighted = jnp.einsum("bnf,fgk->bngk", dropped, self.kernel[...], precision=EXACT)
        return jnp.einsum("bngk,bng->bnk", weighted, values, precision=EXACT)


class CompactBilinearPooling(PositionPooling):
    """logit_k = w_k · y + alpha_k with y = sum_n sketch(x_n), or y normalised.

    sketch(x)_i is the sum of s1(a) s2(c) x_a x_c over the pairs with h1(a) + h2(c) = i modulo the
    sketch's length: a product of two Fourier transforms. The hashes h and signs s are constants.
    `normalised`: each y_i becomes y_i / sqrt(|y_i| + 1e-5), then y is scaled to unit length; the
    maps apply the same factors to the sketch of each position.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        sketch_features: int = 0,
        normalised: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(features, classes, dropout)
        check_counts(least=0, sketch_features=sketch_features)
        self.length = sketch_features or features
        self.normalised = normalised
        self.kernel = nnx.Param(SMALL(rngs.params(), (self.length, classes), jnp.float32))

    def _score(self, values: Float[Array, "b n f"], keys: Keys) -> Float[Array, "b k"]:
        y = self._sketch(values).sum(1, keepdims=True)
        y = drop(y * self._factors(y), keys, self.dropout)
        return project(y, self.kernel[...], exactly=True)[:, 0]

    def _contributions(self, values: Float[Array, "b n f"], keys: Keys) -> Float[Array, "b n k"]:
        sketches = self._sketch(values)
        factors = self._factors(sketches.sum(1, keepdims=True))
        shares = drop(sketches * factors * values.shape[1], keys, self.dropout)
        return project(shares, self.kernel[...], exactly=True)

    def _sketch(self, values: Float[Array, "b n f"]) -> Float[Array, "b n d"]:
        zeros = jnp.zeros((*values.shape[:2], self.length))
        first, second = (
            jnp.fft.rfft(zeros.at[..., indices].add(values * signs[None, None]))
            for indices, signs in draw_hashes(self.features, self.length)
        )
        return jnp.fft.irfft(first * second, n=self.length)

    def _factors(self, y: Float[Array, "b 1 d"]) -> Float[Array, "b 1 d"]:
        """The factors that normalise y."""
        if not self.normalised:
            return jnp.ones_like(y)
        roots = jax.lax.rsqrt(jnp.abs(y) + ROOT_EPS)
        length = jnp.square(y * roots).sum(-1, keepdims=True)
        return roots * jax.lax.rsqrt(length + LENGTH_EPS)


def draw_hashes(features: int, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws, twice, an index in the sketch and a sign for each channel."""
    rng = np.random.default_rng(HASH_SEED)
    return [
        (rng.integers(length, size=features), rng.choice([-1.0, 1.0], features).astype(np.float32))
        for _ in range(2)
    ]


def _is_first_maximum(values: Float[Array, "b n f"]) -> Bool[Array, "b n f"]:
    return jnp.arange(values.shape[1])[None, :, None] == values.argmax(1)[:, None, :]
