"""Pools boxes of a map to side x side cells each: RoI max pooling, and RoIAlign.

Boxes are (left, top, right, bottom) in pixels of the image, where pixel i spans i to i + 1.

RoI max pooling has the rounding rules of Fast R-CNN's Caffe layer. Per axis the first and the last
pixel, `low` and `high - 1`, become cells by dividing by the map's stride and rounding, halves away
from 0; a box has one cell at least. Of a box of n cells from cell c on, bin p holds the cells from
c + floor(p n / side) to before c + ceil((p + 1) n / side), so bins may overlap. Cells outside the
map are left out, and an empty bin is 0. Of equal values the first in reading order gets the whole
gradient. The centres of cells do not count: in VGG16 a box lies half a cell off, as in Caffe.

RoIAlign places SAMPLES x SAMPLES samples evenly in each bin of the unrounded box, interpolates
the map bilinearly between the centres of its cells (where `Axis` puts them: the aligned variant,
shifted by half a pixel) and takes their mean. Beyond the outermost centres the outermost cells
count.

Both rules are separable, so a region needs weights of rows and of columns only, and no gradient
needs a scatter, which is slow on CPU.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt16

from gap_jax.models.cells import Axis, Grid
from gap_jax.models.saliency import EXACT

SAMPLES = 2  # along each axis of a bin
FARTHEST_PX = 2.0**20  # keeps whole numbers of any box in int32

Boxes = Float[Array, "b m 4"]
Pooled = Float[Array, "b m p q c"]  # of m regions, p rows and q columns


class Cells(NamedTuple):
    """The rows and the columns of a map in each bin of m regions, as masks or weights."""

    rows: Bool[Array, "b m p h"] | Float[Array, "b m p h"]
    columns: Bool[Array, "b m q w"] | Float[Array, "b m q w"]


def has_area(boxes: Float[Array, "*any 4"]) -> Bool[Array, "*any"]:
    """Returns whether each box has an area; absent people and regions have none."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def find_bins(boxes: Boxes, grid: Grid, side: int) -> Cells:
    """Returns the cells of each bin of RoI max pooling, as masks."""
    left, top, right, bottom = jnp.moveaxis(jnp.clip(boxes, -FARTHEST_PX, FARTHEST_PX), -1, 0)
    return Cells(_cut(top, bottom, grid.rows, side), _cut(left, right, grid.columns, side))


def find_samples(boxes: Boxes, grid: Grid, side: int) -> Cells:
    """Returns the weights of the cells in each bin of RoIAlign; those of a bin sum to 1."""
    left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
    return Cells(_weigh(top, bottom, grid.rows, side), _weigh(left, right, grid.columns, side))


def pool_mean(x: Float[Array, "b h w c"], cells: Cells) -> Pooled:
    """Sums the map over the rows and the columns of each bin by their weights."""
    rows, columns = (each.astype(x.dtype) for each in cells)
    down = jnp.einsum("bmph,bhwc->bmpwc", rows, x, precision=EXACT)
    return jnp.einsum("bmqw,bmpwc->bmpqc", columns, down, precision=EXACT)


@jax.custom_vjp
def pool_max(x: Float[Array, "b h w c"], cells: Cells) -> Pooled:
    """Takes the maximum of the cells of each bin, by masks."""
    return _find_maxima(x, cells)[0]


def cover(cells: Cells) -> tuple[Float[Array, "b m h"], Float[Array, "b m w"]]:
    """Returns the share of each row and each column in a region.

    They are equal for all cells of RoI max pooling, and follow the weights of RoIAlign. The shares
    of a region sum to 1; one without a cell of the map has equal shares everywhere.
    """
    return _share(cells.rows), _share(cells.columns)


def _cut(
    low: Float[Array, "b m"], high: Float[Array, "b m"], axis: Axis, side: int
) -> Bool[Array, "b m {side} {axis.cells}"]:
    first, last = (_round(each / axis.stride)[..., None] for each in (low, high - 1))
    length, number = jnp.maximum(last - first + 1, 1), jnp.arange(side)[None, None]
    starts = first + number * length // side
    ends = first - (-(number + 1) * length // side)
    cells = jnp.arange(axis.cells)[None, None, None]
    return (starts[..., None] <= cells) & (cells < ends[..., None])


def _round(values: Float[Array, "*any"]) -> Int[Array, "*any"]:
    """Rounds halves away from 0."""
    return (jnp.sign(values) * jnp.floor(jnp.abs(values) + 0.5)).astype(jnp.int32)


def _weigh(
    low: Float[Array, "b m"], high: Float[Array, "b m"], axis: Axis, side: int
) -> Float[Array, "b m {side} {axis.cells}"]:
    start, end = (((each - 0.5 - axis.first) / axis.stride)[..., None] for each in (low, high))
    steps = jnp.asarray((np.arange(side * SAMPLES) + 0.5) / (side * SAMPLES), jnp.float32)
    at = jnp.clip(start + (end - start) * steps[None, None], 0, axis.cells - 1)
    distance = jnp.abs(at[..., None] - jnp.arange(axis.cells)[None, None, None])
    weights = jnp.maximum(1 - distance, 0)
    return weights.reshape(*low.shape, side, SAMPLES, axis.cells).mean(3)


def _share(bins: Bool[Array, "b m p n"] | Float[Array, "b m p n"]) -> Float[Array, "b m n"]:
    shares = bins.any(2).astype(jnp.float32) if bins.dtype == bool else bins.sum(2)
    total = shares.sum(-1, keepdims=True)
    return jnp.where(total > 0, shares / jnp.where(total > 0, total, 1), 1 / bins.shape[-1])


def _find_maxima(x: Float[Array, "b h w c"], cells: Cells) -> tuple[Pooled, Any]:
    """Returns the maxima and what their gradient needs: first over columns, then over rows.

    This order finds the first of equal values in reading order.
    """
    across, column = _find_largest(x[:, None, None], cells.columns)  # b m q h c
    largest, row = _find_largest(across[:, :, None], cells.rows)  # b m p q c
    return jnp.where(_find_empty(cells), 0, largest).astype(x.dtype), (row, column, cells)


def _find_largest(
    values: Float[Array, "b m2 p2 a n c"], masks: Bool[Array, "b m p n"]
) -> tuple[Float[Array, "b m p a c"], UInt16[Array, "b m p a c"]]:
    """Returns the largest of the masked values along n, and the first index that has it.

    A chain over slices, which XLA fuses; its reductions store all masked values and take ten times
    as long on CPU.
    """
    lowest = jnp.array(-jnp.inf, values.dtype)
    largest, index = lowest, jnp.uint16(0)
    for number in range(masks.shape[-1]):
        mask = masks[..., number, None, None]
        value = jnp.where(mask, values[:, :, :, :, number], lowest)
        index = jnp.where(value > largest, jnp.uint16(number), index)
        largest = jnp.maximum(value, largest)
    return largest, index


def _find_empty(cells: Cells) -> Bool[Array, "b m p q 1"]:
    rows, columns = (each.any(-1) for each in cells)
    return ~(rows[:, :, :, None] & columns[:, :, None])[..., None]


def _spread_gradient(kept: Any, gradient: Pooled) -> tuple[Float[Array, "b h w c"], None]:
    """Adds the gradient of each bin to the cell that has its maximum, one region after another.

    Without loops XLA would compute the indices again for every cell.
    """
    row, column, cells = kept
    h, w = (each.shape[-1] for each in cells)
    exact = jnp.where(_find_empty(cells), 0, gradient.astype(jnp.float32))
    exact, row, column = (jnp.moveaxis(each, 1, 0) for each in (exact, row, column))
    across = jax.lax.map(lambda each: _place(each[0], each[1], h), (exact, row))  # m b q h c

    def add(total: Array, region: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _place(region[0], region[1], w), None

    zeros = jnp.zeros((len(gradient), h, w, gradient.shape[-1]))
    return jax.lax.scan(add, zeros, (across, column))[0].astype(gradient.dtype), None


def _place(
    values: Float[Array, "b p a c"], index: UInt16[Array, "b p a c"], size: int
) -> Float[Array, "b a {size} c"]:
    """Adds each value along p at its index."""
    places = jnp.arange(size, dtype=index.dtype)[None, None, :, None]
    pairs = (
        jnp.where(index[:, p, :, None] == places, values[:, p, :, None], 0)
        for p in range(values.shape[1])
    )
    return functools.reduce(jnp.add, pairs)


pool_max.defvjp(_find_maxima, _spread_gradient)
