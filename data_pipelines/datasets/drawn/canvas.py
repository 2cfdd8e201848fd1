"""Paints smooth shapes and records the owner of every pixel.

Points are complex numbers, x to the right and y down, so `at + by * z` places a drawing.
"""

import colorsys
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Complex, UInt8

Colour = tuple[int, int, int]
Point = complex | float | int
Points = Complex[np.ndarray, " n"]

_SCALE = 2  # of the canvas, which is averaged at the end: smooth edges, exact owners
_FRACTION_BITS = 3
_OUTLINE_PX = 1.3  # in the finished picture, both sides of a stroke together
_OUTLINE_SHADE = 0.45


class Shape(NamedTuple):
    """Defines a stroke along points, or an area if `filled`; `tone` is a key of the palette."""

    tone: str
    points: Points
    width: float = 0.0
    filled: bool = False

    def placed(self, at: Point, by: Point) -> "Shape":
        """Returns the shape moved to `at`, rotated and scaled by `by`."""
        return Shape(self.tone, at + by * self.points, abs(by) * self.width, self.filled)


def stroke(tone: str, width: float, *points: Point) -> Shape:
    """Returns a line with round ends through the points."""
    return Shape(tone, np.array(points, complex), width)


def area(tone: str, *points: Point, rounding: float = 0.0) -> Shape:
    """Returns the polygon of the points, its corners rounded by `rounding`."""
    return Shape(tone, np.array(points, complex), rounding, filled=True)


def disc(tone: str, centre: Point, radius: float) -> Shape:
    """Returns a filled circle."""
    return Shape(tone, centre + oval(radius, radius), filled=True)


def oval(half_width: float, half_height: float, start: float = 0.0, end: float = 360.0) -> Points:
    """Returns points on an ellipse around 0 between two angles (degrees, clockwise from right)."""
    angles = np.radians(np.linspace(start, end, 25))
    return half_width * np.cos(angles) + 1j * half_height * np.sin(angles)


class Canvas:
    """Holds three colour planes and a fourth plane with the number of each pixel's owner."""

    def __init__(self, background: UInt8[np.ndarray, "h w 3"]) -> None:
        pixels = np.pad(background, ((0, 0), (0, 0), (0, 1)))  # the background has owner 0
        self._pixels = np.ascontiguousarray(pixels.repeat(_SCALE, 0).repeat(_SCALE, 1))

    def paint(
        self,
        shapes: Iterable[Shape],
        palette: Mapping[str, Colour],
        owner: int,
        at: Point,
        by: Point,
    ) -> None:
        """Paints shapes with outlines, moved to `at`, rotated and scaled by `by`."""
        for tone, points, width, filled in (shape.placed(at, by) for shape in shapes):
            colour = palette[tone]
            edge = mix_colours(colour, (0, 0, 0), _OUTLINE_SHADE)
            pairs = _SCALE * points.view(np.float64).reshape(-1, 1, 2) + (_SCALE - 1) / 2
            corners = np.rint(pairs * 2**_FRACTION_BITS).astype(np.int32)
            self._line(corners, filled, (*edge, owner), width + _OUTLINE_PX)
            if filled:
                cv2.fillPoly(self._pixels, [corners], (*colour, owner), shift=_FRACTION_BITS)
            if width:
                self._line(corners, filled, (*colour, owner), width)

    def _line(
        self, corners: np.ndarray, closed: bool, colour: tuple[int, ...], width: float
    ) -> None:
        thickness = max(1, round(_SCALE * width))
        cv2.polylines(self._pixels, [corners], closed, colour, thickness, shift=_FRACTION_BITS)

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture so far."""
        height, width = self.owners.shape
        small = cv2.resize(self._pixels, (width, height), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(small[..., :3])

    @property
    def owners(self) -> UInt8[np.ndarray, "h w"]:
        """The owner of each pixel of the picture so far."""
        return self._pixels[_SCALE // 2 :: _SCALE, _SCALE // 2 :: _SCALE, 3].copy()


def draw_colours(rng: np.random.Generator, count: int) -> list[Colour]:
    """Draws saturated colours of any hue."""
    draws = rng.uniform((0, 0.35, 0.45), (1, 0.85, 0.95), (count, 3)).tolist()
    rgb = (colorsys.hsv_to_rgb(*draw) for draw in draws)
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in rgb]


def mix_colours(colour: Colour, other: Colour, share: float) -> Colour:
    """Mixes a share of the other colour into the colour."""
    (r, g, b), (r2, g2, b2) = colour, other
    return round(r + share * (r2 - r)), round(g + share * (g2 - g)), round(b + share * (b2 - b))


def rotation(degrees: float) -> complex:
    """Returns the factor that rotates points clockwise on the canvas."""
    return complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def draw_background(
    rng: np.random.Generator, height_px: int, width_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a background of muted, slowly changing colour with noise."""
    light = rng.uniform(70, 160) + rng.uniform(-40, 40, (3, 3, 1))
    muted = (light + rng.uniform(-28, 28, (3, 3, 3))).astype(np.float32)
    field = cv2.resize(muted, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(-4, 5, (height_px, width_px, 1), dtype=np.int16)
    return np.clip(field + grain, 0, 255).astype(np.uint8)
