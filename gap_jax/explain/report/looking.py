"""Where a model looks: its maps on stored images, and each map laid over the crop it was made of.

A map's cells lie where the backbone's windows are centred. The cells of a heatmap are what the pose
branch learns them to be: cell (i, j) of an h x w one is the point (i*H/h, j*W/w) of an H x W crop.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from data_pipelines.example import NOT_ANNOTATED, PADDING_ID, VISIBLE
from data_pipelines.loader import Rows, RowSpec
from gap_jax.learning.state import Model, Variables
from gap_jax.models.cells import Axis, Grid

BATCH = 16  # images that pass through a network at once
JOINT_SHOWN = 0.25  # a lower peak of a heatmap is no joint: the target's is 1

Map = Float[np.ndarray, "rows columns"]


class Look(NamedTuple):
    """A model's answer to crops, and its maps for the class that it predicts.

    `bottom_up` has a map for each of the p pairs, `top_down` is of the first of them; `grid` is
    where their cells stand in the crop.
    """

    grid: Grid
    image: UInt8[np.ndarray, "b y x 3"]
    logits: Float[np.ndarray, "b k"]
    bottom_up: Float[np.ndarray, "b h w p"]
    top_down: Float[np.ndarray, "b h w"]
    combined: Float[np.ndarray, "b h w"]
    pose: Float[np.ndarray, "b h w j"] | None

    @property
    def predicted(self) -> Int[np.ndarray, " b"]:
        """The class of the highest score."""
        return self.logits.argmax(axis=1)

    def take(self, rows: Sequence[int]) -> "Look":
        """The look at some of the images."""
        return jax.tree.map(lambda field: field[list(rows)], self)


def look(model: Model, variables: Variables, rows: Rows, positions: Sequence[int]) -> Look:
    """What the model makes of the centre crops of records, the very ones that are evaluated."""
    answer = jax.jit(lambda variables, image: _answer(model, variables, image))
    grid = model.locate_cells(variables, *rows.image_shape(1)[1:3])
    parts: list[Look] = []
    for start in range(0, len(positions), BATCH):
        chosen = positions[start : start + BATCH]
        places = [RowSpec(position) for position in chosen]
        places += [RowSpec(PADDING_ID)] * (BATCH - len(chosen))
        batch = rows.batch(places, np.empty(rows.image_shape(BATCH), np.uint8))
        maps = jax.device_get(answer(variables, batch.image))
        parts.append(Look(grid, batch.image, *maps).take(range(len(chosen))))
    return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)


def _answer(
    model: Model, variables: Variables, image: UInt8[Array, "b y x 3"]
) -> tuple[Array, Array, Array, Array, Array | None]:
    """The fields of a Look after the image."""
    outputs, _ = model.apply(variables, image, want_maps=True)
    if outputs.maps is None:
        raise AssertionError("maps were asked for")
    bottom_up, top_down, combined = outputs.maps
    predicted = outputs.logits.argmax(axis=1)

    def of_predicted(maps: Array) -> Array:
        """The class axis stands fourth."""
        index = predicted.reshape(-1, *[1] * (maps.ndim - 1))
        return jnp.take_along_axis(maps, index, axis=3).squeeze(3)

    if bottom_up.ndim == top_down.ndim:
        bottom_up = of_predicted(bottom_up)
    return (
        outputs.logits,
        bottom_up,
        of_predicted(top_down)[..., 0],
        of_predicted(combined),
        outputs.pose,
    )


def spread(
    cells: Map, grid: Grid, height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
    """A map at every pixel of the crop: bilinear between its cells' centres, constant beyond."""
    rows, columns = _between(grid.rows, height), _between(grid.columns, width)
    return rows @ cells.astype(np.float64) @ columns.T


def _between(axis: Axis, pixels: int) -> Float[np.ndarray, "{pixels} {axis.cells}"]:
    """How much each cell of an axis counts at each pixel."""
    places = axis.place(np.arange(pixels, dtype=np.float64))
    first = np.floor(places).astype(int)
    share = places - first
    weights = np.zeros((pixels, axis.cells))
    weights[np.arange(pixels), first] = 1 - share
    weights[np.arange(pixels), np.minimum(first + 1, axis.cells - 1)] += share
    return weights


def find_joints(
    heatmaps: Float[np.ndarray, "h w j"], height: int, width: int
) -> Float[np.ndarray, "1 j 3"]:
    """One person: each joint where its heatmap peaks, absent where the peak is low."""
    rows, columns, joints = heatmaps.shape
    flat = heatmaps.reshape(-1, joints)
    i, j = np.unravel_index(flat.argmax(axis=0), (rows, columns))
    seen = np.where(flat.max(axis=0) >= JOINT_SHOWN, VISIBLE, NOT_ANNOTATED)
    return np.stack([j * width / columns, i * height / rows, seen], axis=-1)[None]
