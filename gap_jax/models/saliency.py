"""Saliency: the bottom-up maps h of a pooling, one or several values for each position."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax import lax
from jaxtyping import Array, Float

from gap_jax.model_config import GateInit, Space
from gap_jax.models.arguments import check_choice, check_counts
from gap_jax.models.layers import HE, SMALL, Dense, along_channels, project

EXACT = lax.Precision.HIGHEST


@runtime_checkable
class Saliency(Protocol):
    """A module that computes `maps` float32 values for each position."""

    maps: int

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]: ...


class UniformSaliency(nnx.Module):
    """h = 1: the pooling becomes a linear classifier of the map's mean, the usual baseline."""

    def __init__(self, maps: int = 1) -> None:
        check_counts(maps=maps)
        self.maps = maps

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]:
        return jnp.ones((*x.shape[:-1], self.maps))


class LinearSaliency(nnx.Module):
    """h = X b + beta; with `gate_init="one"` h = 1 + X b, where b is 0 at the start.

    The second b is named `gate` and excluded from weight decay, which would pull h towards 1.
    """

    def __init__(
        self,
        features: int,
        maps: int = 1,
        *,
        bias: bool = True,
        gate_init: GateInit = "paper",
        init: Initializer = SMALL,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(features=features, maps=maps)
        check_choice("gate_init", gate_init, GateInit)
        self.maps = maps
        self.gated = gate_init == "one"
        self.bias = nnx.Param(jnp.zeros(maps, param_dtype)) if bias and not self.gated else None
        if self.gated:
            self.gate = nnx.Param(jnp.zeros((features, maps), param_dtype))
        else:
            self.kernel = nnx.Param(init(rngs.params(), (features, maps), param_dtype))

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]:
        if self.gated:
            return 1 + project(x, self.gate[...], exactly=True)
        h = project(x, self.kernel[...], exactly=True)
        return h if self.bias is None else h + along_channels(self.bias[...], h)


class FactoredSaliency(nnx.Module):
    """A linear saliency on top of T = len(widths) factored layers U_t that all its maps share.

    >>> from flax import nnx
    >>> from gap_jax import FactoredSaliency
    >>> saliency = FactoredSaliency(2048, (512, 256), rngs=nnx.Rngs(0))  # T = 2
    >>> saliency(jax.numpy.ones((2, 7, 7, 2048))).shape
    (2, 7, 7, 1)

    space="activation": Z_t = relu(Z_{t-1} U_t + u_t) from Z_0 = X, h = Z_T c + beta; without a
    layer it is the linear saliency to the bit. space="weight": h = X f(V c) with
    V = f(U_1) ... f(U_T), f = relu and no biases: the same vector for every picture. All its
    weights start positive, because at f(V c) = 0 the gradient is 0.
    """

    def __init__(
        self,
        features: int,
        widths: tuple[int, ...],
        maps: int = 1,
        *,
        space: Space = "activation",
        gate_init: GateInit = "paper",
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(features=features, maps=maps)
        for width in widths:
            check_counts(widths=width)
        check_choice("space", space, Space)
        check_choice("gate_init", gate_init, GateInit)
        literal = space == "weight"
        if literal and (gate_init != "paper" or not widths):
            raise ValueError(
                f"space='weight' takes one width or more and gate_init='paper', not {widths=} and "
                f"{gate_init=}"
            )
        self.maps = maps
        self.space: Space = space
        self.chain = nnx.List()
        stored: Any = {"bias": not literal, "param_dtype": param_dtype, "rngs": rngs}
        for width in widths:
            init = nnx.initializers.uniform(2 / width) if literal else HE
            self.chain.append(Dense(features, width, init=init, **stored))
            features = width
        init = nnx.initializers.uniform(2e-3) if literal else SMALL
        self.last = LinearSaliency(features, maps, gate_init=gate_init, init=init, **stored)

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]:
        if self.space == "weight":
            return project(x, self.vector(), exactly=True)
        for layer in self.chain:
            x = jax.nn.relu(layer(x))
        return self.last(x)

    def vector(self) -> Float[Array, "s p"]:
        """f(V c), the b of the linear saliency that is equal to `space="weight"`."""
        if self.space != "weight":
            raise ValueError(f"space={self.space!r} has no vector; only space='weight' has one")
        product = self.last.kernel[...]
        for layer in reversed(self.chain):
            product = jnp.matmul(jax.nn.relu(layer.kernel[...]), product, precision=EXACT)
        return jax.nn.relu(product)


class ChainedSaliency(nnx.Module):
    """h_1 of another saliency, then h_{p+1} = w_p h_p + c_p, each from the map before it.

    AP's released code does this at a rank above 1. All maps are one map, scaled and shifted, so
    the scores are sums of a rank-1 score and a mean-pooling score.
    """

    def __init__(self, first: Saliency, maps: int, *, rngs: nnx.Rngs) -> None:
        check_counts(maps=maps)
        if first.maps != 1:
            raise ValueError(f"first.maps={first.maps} must be 1; the other maps are computed")
        self.maps = maps
        self.first = first
        self.kernel = nnx.Param(SMALL(rngs.params(), (maps - 1, 1), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(maps - 1))

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]:
        maps = [self.first(x)]
        for p in range(self.maps - 1):
            maps.append(maps[-1] * self.kernel[...][p, 0] + self.bias[...][p])
        return jnp.concatenate(maps, axis=-1)


class PartSaliency(nnx.Module):
    """Uses the joints' heatmaps as bottom-up maps and appends h = 1, for the whole image."""

    def __init__(self, joints: int) -> None:
        check_counts(joints=joints)
        self.maps = joints + 1

    def __call__(self, x: Float[Array, "b *spatial s"], /) -> Float[Array, "b *spatial p"]:
        return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], axis=-1)
