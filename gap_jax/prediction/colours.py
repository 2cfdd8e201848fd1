"""Colours of maps: from blue at -1 over white at 0 to red at 1, laid over a grey image."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.pictures.drawing import Picture

VALUES = (-1.0, 0.0, 1.0)
COLOURS = ((24, 72, 168), (245, 245, 242), (176, 24, 40))
OPACITY = 0.72  # of a map over the grey image
CLIPPED_PERCENT = 0.5  # of the values, beyond -1 or 1
GREY_LEVEL = 128
BAR_PX = (10, 240)  # height and width


def find_scale(values: Float[np.ndarray, "*cells"]) -> float:
    """Returns the absolute value that maps to 1: 99.5 % of the values stay below it."""
    return float(np.percentile(np.abs(values), 100 - CLIPPED_PERCENT)) or 1.0


def find_sign(bottom_up: Float[np.ndarray, "*cells"]) -> float:
    """Returns the sign that makes the peaks of bottom-up maps positive.

    Only the product of h and the top-down map is determined, so both change sign together.
    """
    return -1.0 if np.mean(bottom_up.astype(np.float64) ** 3) < 0 else 1.0


def paint(values: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """Converts values to colours; values beyond -1 and 1 are clipped."""
    channels = [np.interp(values, VALUES, channel) for channel in zip(*COLOURS, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def lay_over(values: Float[np.ndarray, "y x"], image: Picture) -> Picture:
    """Lays the colours of values over the image in grey."""
    return _blend(paint(values), to_grey(image))


def to_grey(image: Picture) -> Picture:
    """Converts an image to grey with three equal channels."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)


def paint_bar(height: int = BAR_PX[0], width: int = BAR_PX[1]) -> Picture:
    """Paints the colour scale from -1 to 1 over a medium grey."""
    values = np.broadcast_to(np.linspace(VALUES[0], VALUES[-1], width), (height, width))
    return _blend(paint(values), np.full((height, width, 3), GREY_LEVEL, np.uint8))


def _blend(colours: UInt8[np.ndarray, "y x 3"], grey: UInt8[np.ndarray, "y x 3"]) -> Picture:
    return cv2.addWeighted(colours, OPACITY, grey, 1 - OPACITY, 0)
