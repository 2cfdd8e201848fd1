"""Computes the maps of one class for each image, and locates cells and joints in an image.

A map's cell stands at the centre of the backbone's window. Cell (i, j) of an h x w heatmap stands
at the point (i*H/h, j*W/w) of an H x W crop, as in the targets of the pose branch.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from data_pipelines.example import NOT_ANNOTATED, VISIBLE
from gap_jax.batch import People
from gap_jax.learning.state import Model, Variables
from gap_jax.models.cells import Axis, Grid

LOWEST_JOINT_PEAK = 0.25  # of a heatmap; the peak of the target is 1

Map = Float[np.ndarray, "rows columns"]
Points = Float[np.ndarray, " _"]


class ClassMaps(NamedTuple):
    """The logits of b images, and the maps of one class for each image."""

    logits: Float[Array, "b k"]
    bottom_up: Float[Array, "b h w p"]  # a map for each of the p pairs
    top_down: Float[Array, "b h w"]  # of the first pair
    combined: Float[Array, "b h w"]
    pose: Float[Array, "b h w j"] | None


def compute_maps(
    model: Model,
    variables: Variables,
    image: UInt8[Array, "b y x 3"],
    of_class: Int[Array, " b"] | None = None,
    people: People | None = None,
) -> ClassMaps:
    """Computes the maps of the given class of each image; by default of the predicted class.

    A model that reads boxes takes an image without `people` as the box of one person.
    """
    outputs, _ = model.apply(variables, image, people=people, want_maps=True)
    if outputs.maps is None:
        raise AssertionError("the network returned no maps")
    bottom_up, top_down, combined = outputs.maps
    wanted = outputs.logits.argmax(axis=1) if of_class is None else of_class
    select = jax.vmap(lambda maps, k: maps[:, :, k])
    if bottom_up.ndim == top_down.ndim:  # there is one for each class
        bottom_up = select(bottom_up, wanted)
    top_down = select(top_down, wanted)[..., 0]
    return ClassMaps(outputs.logits, bottom_up, top_down, select(combined, wanted), outputs.pose)


def upsample(
    cells: Map, grid: Grid, height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
    """Resizes a map to the crop: bilinear between the cells' centres, constant beyond them."""
    return interpolate(cells, grid, np.arange(height, dtype=float), np.arange(width, dtype=float))


def interpolate(cells: Map, grid: Grid, rows: Points, columns: Points) -> Float[np.ndarray, "_ _"]:
    """Interpolates a map at pixels of the crop: bilinear between the cells' centres."""
    down, across = _cell_weights(grid.rows, rows), _cell_weights(grid.columns, columns)
    return down @ cells.astype(np.float64) @ across.T


def _cell_weights(axis: Axis, pixels: Points) -> Float[np.ndarray, "_ {axis.cells}"]:
    """Returns the weight of each cell of an axis at each pixel."""
    places, cells = axis.place(pixels), np.arange(axis.cells)
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
