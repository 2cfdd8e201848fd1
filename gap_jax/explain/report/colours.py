"""Colours for the values of a map, one scale for all: blue at -1, white at 0, red at 1."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.pictures.drawing import Picture
from data_pipelines.pictures.page import Thumbnail, embed
from gap_jax.explain.report.looking import Map, spread
from gap_jax.models.cells import Grid

ENDS = (-1.0, 0.0, 1.0)
COLOURS = ((24, 72, 168), (245, 245, 242), (176, 24, 40))
OPACITY = 0.72  # of a map's colours over the grey crop
CLIPPED = 0.5  # percent of a method's cells that may lie beyond the ends
GREY = 128
BAR_PX = (10, 240)  # height and width


def find_reach(values: Float[np.ndarray, "b h w"]) -> float:
    """The size that nearly all of these values stay below: what 1 stands for among them."""
    return float(np.percentile(np.abs(values), 100 - CLIPPED)) or 1.0


def paint(values: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """The colours of values; those beyond the ends have the ends' colours."""
    channels = [np.interp(values, ENDS, channel) for channel in zip(*COLOURS, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def lay_over(cells: Map, grid: Grid, crop: Picture) -> Picture:
    """The crop in grey under the colours of a map."""
    height, width, _ = crop.shape
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    return _blend(paint(spread(cells, grid, height, width)), grey)


def draw_bar() -> Thumbnail:
    """The scale from end to end, over a medium grey."""
    height, width = BAR_PX
    values = np.tile(np.linspace(ENDS[0], ENDS[-1], width), (height, 1))
    bar = _blend(paint(values), np.full((height, width, 3), GREY, np.uint8))
    return embed(bar, alt="colours from -1, blue, over 0, white, to 1, red")


def _blend(colours: UInt8[np.ndarray, "y x 3"], grey: UInt8[np.ndarray, "y x 3"]) -> Picture:
    return cv2.addWeighted(colours, OPACITY, grey, 1 - OPACITY, 0)
