"""Computes a model's maps on stored images, and resizes maps to the crop.

A map's cell stands at the centre of the backbone's window. Cell (i, j) of an h x w heatmap stands
at the point (i*H/h, j*W/w) of an H x W crop, as in the targets of the pose branch.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from data_pipelines.example import NOT_ANNOTATED, PADDING_ID, VISIBLE
from data_pipelines.loader import Rows, RowSpec
from gap_jax.learning.state import Model, Variables
from gap_jax.models.cells import Axis, Grid

BATCH_IMAGES = 16
LOWEST_JOINT_PEAK = 0.25  # of a heatmap; the peak of the target is 1

Map = Float[np.ndarray, "rows columns"]


class Predictions(NamedTuple):
    """A model's logits for b crops, and its maps for the class that it predicts."""

    grid: Grid  # locates the cells of the maps in the crop
    image: UInt8[np.ndarray, "b y x 3"]
    logits: Float[np.ndarray, "b k"]
    bottom_up: Float[np.ndarray, "b h w p"]  # a map for each of the p pairs
    top_down: Float[np.ndarray, "b h w"]  # of the first pair
    combined: Float[np.ndarray, "b h w"]
    pose: Float[np.ndarray, "b h w j"] | None

    def take(self, rows: Sequence[int]) -> "Predictions":
        """Selects some of the images."""
        return jax.tree.map(lambda field: field[list(rows)], self)


def predict(
    model: Model, variables: Variables, rows: Rows, positions: Sequence[int]
) -> Predictions:
    """Applies the model to the evaluated centre crops of records."""
    compute = jax.jit(functools.partial(_compute_maps, model))
    grid = model.locate_cells(variables, *rows.image_shape(1)[1:3])
    parts: list[Predictions] = []
    for start in range(0, len(positions), BATCH_IMAGES):
        chosen = positions[start : start + BATCH_IMAGES]
        places = [RowSpec(position) for position in chosen]
        places += [RowSpec(PADDING_ID)] * (BATCH_IMAGES - len(chosen))
        batch = rows.batch(places, np.empty(rows.image_shape(BATCH_IMAGES), np.uint8))
        maps = jax.device_get(compute(variables, batch.image))
        parts.append(Predictions(grid, batch.image, *maps).take(range(len(chosen))))
    return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)


def _compute_maps(
    model: Model, variables: Variables, image: UInt8[Array, "b y x 3"]
) -> tuple[Array, Array, Array, Array, Array | None]:
    """Returns the fields of Predictions after the image."""
    outputs, _ = model.apply(variables, image, want_maps=True)
    if outputs.maps is None:
        raise AssertionError("the network returned no maps")
    bottom_up, top_down, combined = outputs.maps
    predicted = outputs.logits.argmax(axis=1)
    of_class = jax.vmap(lambda maps, k: maps[:, :, k])
    if bottom_up.ndim == top_down.ndim:  # there is one for each class
        bottom_up = of_class(bottom_up, predicted)
    top_down = of_class(top_down, predicted)[..., 0]
    return outputs.logits, bottom_up, top_down, of_class(combined, predicted), outputs.pose


def upsample(
    cells: Map, grid: Grid, height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
    """Resizes a map to the crop: bilinear between the cells' centres, constant beyond them."""
    rows, columns = _cell_weights(grid.rows, height), _cell_weights(grid.columns, width)
    return rows @ cells.astype(np.float64) @ columns.T


def _cell_weights(axis: Axis, pixels: int) -> Float[np.ndarray, "{pixels} {axis.cells}"]:
    """Returns the weight of each cell of an axis at each pixel."""
    places, cells = axis.place(np.arange(pixels, dtype=np.float64)), np.arange(axis.cells)
    return np.stack([np.interp(places, cells, one) for one in np.eye(axis.cells)], axis=1)


def find_joints(
    heatmaps: Float[np.ndarray, "h w j"], height: int, width: int
) -> Float[np.ndarray, "1 j 3"]:
    """Returns one person: each joint at the peak of its heatmap, absent if the peak is low."""
    rows, columns, joints = heatmaps.shape
    flat = heatmaps.reshape(-1, joints)
    i, j = np.unravel_index(flat.argmax(axis=0), (rows, columns))
    seen = np.where(flat.max(axis=0) >= LOWEST_JOINT_PEAK, VISIBLE, NOT_ANNOTATED)
    return np.stack([j * width / columns, i * height / rows, seen], axis=-1)[None]
