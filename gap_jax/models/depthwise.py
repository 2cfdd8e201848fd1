"""A depthwise convolution as a sum of shifted maps, 25 to 110 times faster than XLA's on CPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Edges = tuple[tuple[int, int], tuple[int, int]]  # cells before and after the rows, the columns


def sum_shifted(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c"], stride: int, edges: Edges
) -> Float[Array, "b h2 w2 c"]:
    """Sums the padded map, shifted by each cell of the window, times that cell's weights.

    `edges` are the cells to add. The gradient is written out: XLA takes three times as long to
    compile that of the sum, and a training step four times as long with it.
    """
    return _sum_shifted(x, kernel, stride, edges)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _sum_shifted(  # custom_vjp has no type of its own
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c"], stride: int, edges: Edges
) -> Float[Array, "b h2 w2 c"]:
    padded = _pad(x, edges)
    b, h, w, c = padded.shape
    rows, columns = h - kernel.shape[0] + 1, w - kernel.shape[1] + 1  # the extent of corners
    terms = [
        lax.slice(padded, (0, i, j, 0), (b, i + rows, j + columns, c), (1, stride, stride, 1))
        * kernel[i, j][None, None, None]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    return sum(terms[1:], terms[0])


def _pad(x: Float[Array, "b h w c"], edges: Edges, inside: int = 0) -> Float[Array, "b h2 w2 c"]:
    rows, columns = ((*each, inside) for each in edges)
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])


def _keep(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c"], stride: int, edges: Edges
) -> tuple[Float[Array, "b h2 w2 c"], tuple[Array, Array]]:
    return _sum_shifted(x, kernel, stride, edges), (x, kernel)


def _differentiate(
    stride: int, edges: Edges, kept: tuple[Array, Array], gradient: Float[Array, "b h2 w2 c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "k l c"]]:
    x, kernel = kept
    return (
        _differentiate_map(x, kernel, stride, edges, gradient),
        _differentiate_kernel(x, kernel, stride, edges, gradient),
    )


def _differentiate_map(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c"],
    stride: int,
    edges: Edges,
    gradient: Float[Array, "b h2 w2 c"],
) -> Float[Array, "b h w c"]:
    """The sum of the gradient, spread by the stride, with the mirrored window."""
    around = []
    for (before, _), side, size, cells in zip(
        edges, kernel.shape, x.shape[1:], gradient.shape[1:], strict=False
    ):
        first = side - 1 - before
        around.append((first, size + before - (cells - 1) * stride - 1))
    spread = _pad(gradient, ((0, 0), (0, 0)), stride - 1)
    return sum_shifted(spread, kernel[::-1, ::-1], 1, (around[0], around[1]))


def _differentiate_kernel(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c"],
    stride: int,
    edges: Edges,
    gradient: Float[Array, "b h2 w2 c"],
) -> Float[Array, "k l c"]:
    """For each cell of the window the sum of products of its shifted map with the gradient.

    Added row by row of all images: three times as fast as a reduction of each cell's product.
    """
    padded = _pad(x, edges)
    b, rows, columns, c = gradient.shape
    cells = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    extent = (columns - 1) * stride + 1

    def add_row(row: Int[Array, ""], sums: tuple[Array, ...]) -> tuple[Array, ...]:
        due = lax.dynamic_index_in_dim(gradient, row, 1, keepdims=False)
        lines = lax.dynamic_slice_in_dim(padded, row * stride, kernel.shape[0], 1)
        return tuple(
            total + lines[:, i, j : j + extent : stride] * due
            for total, (i, j) in zip(sums, cells, strict=True)
        )

    zeros = tuple(jnp.zeros((b, columns, c), jnp.float32) for _ in cells)
    sums = lax.fori_loop(0, rows, add_row, zeros)
    weights = jnp.stack([each.sum((0, 1)) for each in sums])
    return weights.reshape(kernel.shape).astype(kernel.dtype)


_sum_shifted.defvjp(_keep, _differentiate)
