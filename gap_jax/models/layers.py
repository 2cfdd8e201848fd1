"""The layers of the backbones: convolution, batch norm over groups of images, pools."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax import lax
from jaxtyping import Array, Float, UInt8

from gap_jax import hardware
from gap_jax.models.arguments import check_channels
from gap_jax.models.depthwise import sum_shifted

HE = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
SMALL = nnx.initializers.normal(1e-3)  # the start of the layers on top of a backbone, as in AP
Padding = Literal["same", "symmetric", "valid"]


def along_channels(vector: Float[Array, " c"], x: Float[Array, "*any c"]) -> Float[Array, "*one c"]:
    """Reshapes one value per channel to broadcast against `x`."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def project(
    x: Float[Array, "*any c"], kernel: Float[Array, "c d"], *, exactly: bool = False
) -> Float[Array, "*any d"]:
    """`x @ kernel` over channels, in the type of `x` or, `exactly`, summed and given in float32."""
    check_channels(x, kernel.shape[0])
    return lax.dot_general(
        x,
        kernel.astype(x.dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST if exactly else None,
        preferred_element_type=jnp.float32 if exactly else None,
    )


class Dense(nnx.Module):
    """A 1x1 convolution over a map with any number of axes."""

    def __init__(
        self,
        features_in: int,
        features: int,
        *,
        bias: bool = True,
        init: Initializer = HE,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (features_in, features), param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype)) if bias else None

    def __call__(
        self, x: Float[Array, "*any c"], *, exactly: bool = False
    ) -> Float[Array, "*any d"]:
        y = project(x, self.kernel[...], exactly=exactly)
        return y if self.bias is None else y + along_channels(self.bias[...].astype(y.dtype), y)


class Conv(nnx.Module):
    """A convolution with an odd window, NHWC by HWIO.

    `symmetric` padding adds half a window on every side, `same` is TensorFlow's: at stride 2 an
    even map has more at its end. `valid` adds nothing. A `depthwise` convolution has one window for
    each channel, kernel HW1O.

    A 1x1 convolution is computed as a matrix product. Otherwise XLA writes its weight gradient as
    a convolution with a window as large as the map, which took a third of a training step on CPU.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        *,
        size: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: Padding = "symmetric",
        depthwise: bool = False,
        bias: bool = False,
        init: Initializer = HE,
        rngs: nnx.Rngs,
    ) -> None:
        window = (size, size) if isinstance(size, int) else size
        shape = (*window, 1 if depthwise else features_in, features)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features)) if bias else None
        self.stride = stride
        self.padding: Padding = padding
        self.depthwise = depthwise
        self.as_product = window == (1, 1) and not depthwise

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        kernel = self.kernel[...].astype(x.dtype)
        if self.as_product:
            y = project(subsample(x, self.stride), kernel[0, 0])
        else:
            check_channels(x, kernel.shape[3] if self.depthwise else kernel.shape[2])
            edges = self.edges(x.shape[1], 0), self.edges(x.shape[2], 1)
            if self.depthwise and hardware.is_cpu():
                y = sum_shifted(x, kernel[:, :, 0], self.stride, edges)
            else:
                y = lax.conv_general_dilated(
                    x,
                    kernel,
                    (self.stride, self.stride),
                    edges,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=x.shape[3] if self.depthwise else 1,
                )
        return y if self.bias is None else y + along_channels(self.bias[...].astype(y.dtype), y)

    def edges(self, size: Any, axis: int = 0) -> tuple[Any, Any]:
        """The cells to add before and after an axis of that size."""
        side = self.kernel.shape[axis]
        if self.padding == "same":
            return pool_edges(size, "same", side, self.stride)[:2]
        half = side // 2 if self.padding == "symmetric" else 0
        return half, half


def subsample(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b h2 w2 c"]:
    """Takes every `stride`-th row and column from the first on.

    With symbolic shapes a slice has the same size expression as a padded strided convolution, so
    that an exporter can add the two.
    """
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))


@dataclasses.dataclass(frozen=True)
class Norm:
    """The settings of all batch norms of a network."""

    group_size: int = 16  # images that share statistics in training
    decay: float = 0.997  # share of the running statistics that a step keeps
    eps: float = 1e-5
    frozen: bool = False  # the running statistics are used in training too, unchanged
    scaled: bool = True  # with gamma
    follows_first: bool = False  # the running statistics follow the first group alone


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(var + eps) * gamma + beta, with statistics per group of images.

    In training a batch of b images is split into b / min(group_size, b) groups of neighbours. Each
    group has its own mean and (biased) variance, so the result does not depend on the device mesh.
    The running statistics then move by the mean over the groups (or by the first group). They are
    linear in it: the mean of the results of several calls equals one call with all groups.
    """

    def __init__(self, features: int, norm: Norm) -> None:
        self.gamma = nnx.Param(jnp.ones(features)) if norm.scaled else None
        self.beta = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.norm = norm

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        if not train or self.norm.frozen:
            scale, shift = self.affine()
            return (x * along_channels(scale, x) + along_channels(shift, x)).astype(x.dtype)
        size = min(self.norm.group_size, len(x))
        if len(x) % size:
            raise ValueError(f"{len(x)} images do not divide into batch-norm groups of {size}")
        grouped = x.reshape(-1, size, *x.shape[1:])
        mean, var = _moments(grouped)
        self._update(mean, var)
        scale = self._scale(var)
        shift = self.beta[...][None] - mean * scale
        normed = grouped * scale[:, None, None, None] + shift[:, None, None, None]
        return normed.astype(x.dtype).reshape(x.shape)

    def affine(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """The scale and shift that are equal to the norm by running statistics."""
        scale = self._scale(self.var[...])
        return scale, self.beta[...] - self.mean[...] * scale

    def _scale(self, var: Float[Array, "*groups c"]) -> Float[Array, "*groups c"]:
        scale = lax.rsqrt(var + self.norm.eps)
        return scale if self.gamma is None else scale * along_channels(self.gamma[...], scale)

    def _update(self, mean: Float[Array, "groups c"], var: Float[Array, "groups c"]) -> None:
        keep, groups = self.norm.decay, slice(1 if self.norm.follows_first else None)
        mean, var = (lax.stop_gradient(each[groups]).mean(0) for each in (mean, var))
        self.mean[...] = keep * self.mean[...] + (1 - keep) * mean
        self.var[...] = keep * self.var[...] + (1 - keep) * var


@jax.custom_jvp
def _moments(
    grouped: Float[Array, "groups g h w c"],
) -> tuple[Float[Array, "groups c"], Float[Array, "groups c"]]:
    """Mean and biased variance in float32, computed without a temporary as large as the data.

    Squares are of distances to one value of each channel, taken from the middle of a map, out of
    reach of padding: squares of the values would lose the variance where |mean| >> std.
    """
    values = grouped.astype(jnp.float32)
    middle = values[:, 0, values.shape[2] // 2, values.shape[3] // 2]
    mean = values.mean((1, 2, 3))
    squares = jnp.square(values - middle[:, None, None, None]).mean((1, 2, 3))
    return mean, jnp.maximum(squares - jnp.square(mean - middle), 0)


@_moments.defjvp
def _differentiate_moments(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    values, tangent = (each[0].astype(jnp.float32) for each in (primals, tangents))
    mean, var = _moments(*primals)
    d_mean, d_square = tangent.mean((1, 2, 3)), 2 * (values * tangent).mean((1, 2, 3))
    return (mean, var), (d_mean, d_square - 2 * mean * d_mean)


class ConvNorm(nnx.Module):
    """A `Conv` with `arguments` and its batch norm; `folding` replaces the pair by a `Conv`."""

    def __init__(self, features_in: int, features: int, *, norm: Norm, **arguments: Any) -> None:
        self.conv = Conv(features_in, features, **arguments)
        self.norm: BatchNorm | None = BatchNorm(features, norm)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        y = self.conv(x)
        return y if self.norm is None else self.norm(y, train=train)


def max_pool(
    x: Float[Array, "b h w c"], padding: Padding, *, side: int = 3, stride: int = 2
) -> Float[Array, "b h2 w2 c"]:
    """Maxima of square windows; of equal values the first in a window gets the whole gradient.

    `same` is TensorFlow's padding: at stride 2 an even map is padded at its end only. `symmetric`
    (torch's padding=1) always starts one cell outside, `valid` has whole windows only. Computed by
    shifted slices: the scatter in the gradient of `reduce_window` is ten times slower on CPU.
    """
    edges = [pool_edges(size, padding, side, stride) for size in x.shape[1:3]]
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return _max_pool(padded, side, stride)


def pool_edges(size: Any, padding: Padding, side: int, stride: int) -> tuple[Any, Any, int]:
    """The cells to add (below 0: cut) before and after; `size` may be an exporter's symbol."""
    reach = size - side if padding == "valid" else size - 1  # of the last window's corner
    total = reach // stride * stride + side - size
    before = {"same": total // 2, "symmetric": 1, "valid": 0}[padding]
    return before, total - before, 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: Float[Array, "b h w c"], side: int, stride: int) -> Float[Array, "b h2 w2 c"]:
    return _max_and_index(x, side, stride)[0]


def _max_and_index(
    x: Float[Array, "b h w c"], side: int, stride: int
) -> tuple[Float[Array, "b h2 w2 c"], UInt8[Array, "b h2 w2 c"]]:
    """The maximum of each window, and the index of the first cell that has it."""
    b, h, w, c = x.shape
    rows, columns = h - side + 1, w - side + 1  # the extent of the windows' corners

    def shifted(i: int, j: int) -> Float[Array, "b h2 w2 c"]:
        return lax.slice(x, (0, i, j, 0), (b, i + rows, j + columns, c), (1, stride, stride, 1))

    largest = shifted(0, 0)
    index = jnp.zeros(largest.shape, jnp.uint8)
    for cell in range(1, side * side):
        value = shifted(*divmod(cell, side))
        index = jnp.where(value > largest, jnp.uint8(cell), index)
        largest = jnp.maximum(largest, value)
    return largest, index


def _differentiate_max_pool(
    side: int, stride: int, index: UInt8[Array, "b h2 w2 c"], gradient: Float[Array, "b h2 w2 c"]
) -> tuple[Float[Array, "b h w c"]]:
    zero = jnp.zeros((), gradient.dtype)
    spread = []
    for cell in range(side * side):
        edges = [(shift, side - 1 - shift, stride - 1) for shift in divmod(cell, side)]
        chosen = jnp.where(index == cell, gradient, zero)
        spread.append(lax.pad(chosen, zero, [(0, 0, 0), *edges, (0, 0, 0)]))
    return (sum(spread[1:], spread[0]),)


_max_pool.defvjp(_max_and_index, _differentiate_max_pool)
