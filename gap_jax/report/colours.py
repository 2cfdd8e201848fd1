"""Colours the values of maps: blue at -1, white at 0, red at 1."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.pictures.drawing import Picture
from data_pipelines.pictures.page import Thumbnail, embed
from gap_jax.models.cells import Grid
from gap_jax.report.maps import Map, upsample

VALUES = (-1.0, 0.0, 1.0)
COLOURS = ((24, 72, 168), (245, 245, 242), (176, 24, 40))
OPACITY = 0.72  # of a map over the grey crop
CLIPPED_PERCENT = 0.5  # of a method's cells, beyond -1 or 1
GREY_LEVEL = 128
BAR_PX = (10, 240)  # height and width


def find_scale(values: Float[np.ndarray, "b h w"]) -> float:
    """Returns the absolute value that maps to 1: 99.5 % of the values stay below it."""
    return float(np.percentile(np.abs(values), 100 - CLIPPED_PERCENT)) or 1.0


def paint(values: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """Converts values to colours; values beyond -1 and 1 are clipped."""
    channels = [np.interp(values, VALUES, channel) for channel in zip(*COLOURS, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def overlay(cells: Map, grid: Grid, crop: Picture) -> Picture:
    """Lays the colours of a map over the crop in grey."""
    height, width, _ = crop.shape
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    return _blend(paint(upsample(cells, grid, height, width)), grey)


def draw_bar() -> Thumbnail:
    """Draws the colour scale from -1 to 1 over a medium grey."""
    values = np.broadcast_to(np.linspace(VALUES[0], VALUES[-1], BAR_PX[1]), BAR_PX)
    bar = _blend(paint(values), np.full((*BAR_PX, 3), GREY_LEVEL, np.uint8))
    return embed(bar, alt="colours from -1, blue, over 0, white, to 1, red")


def _blend(colours: UInt8[np.ndarray, "y x 3"], grey: UInt8[np.ndarray, "y x 3"]) -> Picture:
    return cv2.addWeighted(colours, OPACITY, grey, 1 - OPACITY, 0)
