"""Draws the secondary regions of people: boxes that overlap a person's box, as in R*CNN.

The candidates are a grid around the person's box: its sides times `SCALES` and, at equal area,
`ASPECTS`, its centre moved by `SHIFTS` of its sides, clipped to the crop. So a small person has as
many as a large one, and a candidate beyond the grid would overlap too little.
"""

import itertools

import numpy as np
from jaxtyping import Float

from data_pipelines.core.boxes import clip, find_areas, find_overlaps

SCALES = tuple(2.0**power for power in (-1, -0.5, 0, 0.5, 1))
ASPECTS = (0.5, 1.0, 2.0)  # width / height, relative to the person's box
SHIFTS = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)

_GRID = np.array([
    (x, y, scale * aspect**0.5, scale * aspect**-0.5)
    for scale, aspect, x, y in itertools.product(SCALES, ASPECTS, SHIFTS, SHIFTS)
])  # fmt: skip


def list_candidates(
    boxes: Float[np.ndarray, "people 4"], side_px: int
) -> Float[np.ndarray, "people n 4"]:
    """Lists the candidates of each person in a square crop."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    centre = corner + size * (0.5 + _GRID[:, :2])
    half = size * _GRID[:, 2:] / 2
    return clip(np.concatenate([centre - half, centre + half], -1), side_px, side_px)


def draw_regions(
    boxes: Float[np.ndarray, "people 4"],
    side_px: int,
    count: int,
    allowed: tuple[float, float],
    rng: np.random.Generator,
) -> Float[np.ndarray, "people regions 4"]:
    """Draws `count` candidates of each person whose intersection over union is `allowed`.

    None is drawn twice, but two may be equal once clipped to the crop. Where fewer are allowed, and
    for an absent person, the rest have no area.
    """
    is_shown = find_areas(boxes) > 0
    wide = boxes[is_shown].astype(np.float64)
    candidates = list_candidates(wide, side_px)
    overlaps = find_overlaps(wide[:, None], candidates)
    fits = (overlaps >= allowed[0]) & (overlaps <= allowed[1]) & (find_areas(candidates) > 0)
    order = np.where(fits, rng.random(fits.shape), 2.0).argsort(-1)[:, :count]
    drawn = np.take_along_axis(candidates, order[..., None], 1)
    regions = np.zeros((len(boxes), count, 4), np.float32)
    allowed_ones = np.take_along_axis(fits, order, 1)[..., None]
    regions[is_shown, : order.shape[1]] = np.where(allowed_ones, drawn, 0)
    return regions


def fix_regions(
    boxes: Float[np.ndarray, "people 4"],
    side_px: int,
    count: int,
    allowed: tuple[float, float],
) -> Float[np.ndarray, "people regions 4"]:
    """Draws the regions of evaluation and prediction, which depend on a person's box alone."""
    regions = np.zeros((len(boxes), count, 4), np.float32)
    for index, box in enumerate(boxes):
        rng = np.random.default_rng(0)
        regions[index] = draw_regions(box[None], side_px, count, allowed, rng)[0]
    return regions
