"""Computes a model's maps on stored images."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.example import PADDING_ID
from data_pipelines.rows import Rows, RowSpec
from gap_jax.batch import People
from gap_jax.learning.state import Model, Variables
from gap_jax.models.cells import Grid
from gap_jax.prediction.attention import compute_maps

BATCH_IMAGES = 16


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
    compute = jax.jit(functools.partial(compute_maps, model))
    grid = model.locate_cells(variables, *rows.image_shape(1)[1:3])
    parts: list[Predictions] = []
    for start in range(0, len(positions), BATCH_IMAGES):
        chosen = positions[start : start + BATCH_IMAGES]
        places = [RowSpec(position) for position in chosen]
        places += [RowSpec(PADDING_ID)] * (BATCH_IMAGES - len(chosen))
        batch = rows.batch(places, np.empty(rows.image_shape(BATCH_IMAGES), np.uint8))
        maps = jax.device_get(compute(variables, batch.image, people=People.of(batch.people)))
        parts.append(Predictions(grid, batch.image, *maps).take(range(len(chosen))))
    return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)
