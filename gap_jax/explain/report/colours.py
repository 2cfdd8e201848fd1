"""Colours for the values of a map: one scale for all maps of a kind, its bar and its numbers."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.pictures.drawing import Picture
from data_pipelines.pictures.page import Thumbnail, embed
from gap_jax.explain.report.looking import Map, spread

OPACITY = 0.72  # of a map's colours over the grey crop
CLIPPED = 0.5  # percent of the cells that may lie beyond the ends of their scale
GREY = 128
BAR_PX = (10, 240)  # height and width

Anchors = Sequence[tuple[float, tuple[int, int, int]]]
SEQUENTIAL: Anchors = (
    (0.0, (20, 24, 60)), (0.35, (36, 104, 142)), (0.7, (92, 190, 120)), (1.0, (250, 232, 80)),
)  # fmt: skip
DIVERGING: Anchors = ((0.0, (24, 72, 168)), (0.5, (245, 245, 242)), (1.0, (176, 24, 40)))


@dataclasses.dataclass(frozen=True)
class Scale:
    """From `low` to `high`; where values have both signs, from -high over white at 0 to high."""

    low: float
    high: float

    @property
    def anchors(self) -> Anchors:
        """The colours between which those of the scale lie."""
        return DIVERGING if self.low < 0 else SEQUENTIAL

    def paint(self, values: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
        """The colours of values; those beyond the ends have the ends' colours."""
        places, colours = zip(*self.anchors, strict=True)
        share = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        channels = [np.interp(share, places, channel) for channel in zip(*colours, strict=True)]
        return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)

    def lay_over(self, cells: Map, crop: Picture) -> Picture:
        """The crop in grey under the colours of a map, each where its cells' points are."""
        height, width, _ = crop.shape
        grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
        return _blend(self.paint(spread(cells, height, width)), grey)

    def bar(self, name: str) -> Thumbnail:
        """The scale from end to end, over a medium grey."""
        height, width = BAR_PX
        values = np.tile(np.linspace(self.low, self.high, width), (height, 1))
        bar = _blend(self.paint(values), np.full((height, width, 3), GREY, np.uint8))
        return embed(bar, alt=f"colours of {name} from {self.low:.3g} to {self.high:.3g}")


def fit_scale(maps: Sequence[Float[np.ndarray, "n h w"]]) -> Scale:
    """The scale on which nearly all cells of these maps lie; 0 is always on it."""
    values = np.concatenate([each.ravel() for each in maps]).astype(np.float64)
    if values.min() < 0:
        reach = float(np.percentile(np.abs(values), 100 - CLIPPED)) or 1.0
        return Scale(-reach, reach)
    return Scale(0.0, float(np.percentile(values, 100 - CLIPPED)) or 1.0)


def _blend(colours: UInt8[np.ndarray, "y x 3"], grey: UInt8[np.ndarray, "y x 3"]) -> Picture:
    return cv2.addWeighted(colours, OPACITY, grey, 1 - OPACITY, 0)
