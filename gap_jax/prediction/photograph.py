"""Prepares a photograph as evaluation prepares a stored image, and relates their pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.config import DataConfig
from data_pipelines.core.boxes import find_areas
from data_pipelines.core.errors import DataError
from data_pipelines.example import JOINTS, VISIBLE
from data_pipelines.pictures.drawing import Picture
from data_pipelines.transforms import evaluation_views, make_view

CENTRE_VIEW = {"three": 1, "five": 4}  # position of the centre crop; 0 with other crops
PROBE_PX = 1000.0  # between the two points whose crop pixels give an axis its scale


class Line(NamedTuple):
    """Converts pixels of one axis: x of the photograph is scale * x + shift of the crop."""

    scale: float
    shift: float

    def to_crop(self, pixels: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Converts pixels of the photograph to pixels of the crop."""
        return self.scale * pixels + self.shift

    def to_photograph(self, pixels: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Converts pixels of the crop to pixels of the photograph."""
        return (pixels - self.shift) / self.scale


class Placement(NamedTuple):
    """Relates a photograph of `height` x `width` pixels to its square crop of `side` pixels."""

    height: int
    width: int
    side: int
    rows: Line
    columns: Line


class Prepared(NamedTuple):
    """The square views of a photograph; `crop` is the one whose attention maps are shown.

    `box` is that of the person, or the whole crop, in pixels of the crop.
    """

    views: UInt8[np.ndarray, "v y x 3"]
    crop: UInt8[np.ndarray, "y x 3"]
    placement: Placement  # of the crop
    box: Float[np.ndarray, " 4"]


def prepare(image: Picture, data: DataConfig, box: Sequence[float] | None = None) -> Prepared:
    """Prepares a photograph by the settings of a run's evaluation.

    Two points that move with the pixels, as joints do, give the lines: no resize is repeated here.
    A `box` that the crop cuts away is refused.
    """
    probes = np.zeros((1, len(JOINTS), 3))
    probes[0, 1, :2] = PROBE_PX
    probes[0, :2, 2] = VISIBLE
    height, width = image.shape[:2]
    boxes = np.array([(0, 0, 0, 0) if box is None else box], np.float32)
    views = evaluation_views(make_view(image, probes, data, boxes), data)
    shown = views[CENTRE_VIEW.get(data.eval_crops, 0)]
    start, end = shown.keypoints[0, :2, :2]
    columns, rows = (
        Line(float(b - a) / PROBE_PX, float(a)) for a, b in zip(start, end, strict=True)
    )
    found = shown.boxes[0]
    if box is None:  # the whole crop, as in evaluation; `legacy` would move the image's own box
        found = np.array([0, 0, data.image_size_px, data.image_size_px], float)
    elif not find_areas(shown.boxes)[0]:
        raise DataError("the person is outside the part of the image that the model sees")
    placement = Placement(height, width, data.image_size_px, rows, columns)
    crop = np.ascontiguousarray(shown.image)  # a copy, which keeps no larger image in memory
    return Prepared(np.stack([each.image for each in views]), crop, placement, found)
