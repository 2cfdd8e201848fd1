"""The canvas: smooth shapes whose every pixel knows whose it is.

Points are complex numbers, x to the right and y down, so that placing a drawing is `at + by * z`.
"""

import colorsys
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Complex, UInt8

Colour = tuple[int, int, int]
Point = complex | float | int
Points = Complex[np.ndarray, " n"]

_SCALE = 2  # the canvas is drawn this much larger and then averaged: smooth edges, exact owners
_FRACTION_BITS = 3
_OUTLINE = 1.3  # pixels of the finished picture, both sides of a stroke together
_OUTLINE_SHADE = 0.45


class Shape(NamedTuple):
    """A stroke along points, or an area when `filled`; `tone` names a colour of the palette."""

    tone: str
    points: Points
    width: float = 0.0
    filled: bool = False

    def placed(self, at: Point, by: Point) -> "Shape":
        """The shape moved to `at`, turned and scaled by `by`."""
        return Shape(self.tone, at + by * self.points, abs(by) * self.width, self.filled)


def stroke(tone: str, width: float, *points: Point) -> Shape:
    """A line with round ends through the points."""
    return Shape(tone, np.array(points, complex), width)


def area(tone: str, *points: Point, rounding: float = 0.0) -> Shape:
    """The polygon of the points, its corners rounded by `rounding`."""
    return Shape(tone, np.array(points, complex), rounding, filled=True)


def disc(tone: str, centre: Point, radius: float) -> Shape:
    """A filled circle."""
    return Shape(tone, centre + oval(radius, radius), filled=True)


def oval(half_width: float, half_height: float, start: float = 0.0, end: float = 360.0) -> Points:
    """Points on an ellipse around 0 between two angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 25))
    return half_width * np.cos(angles) + 1j * half_height * np.sin(angles)


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Three colours and, in the fourth plane, the number of the figure each pixel belongs to."""

    pixels: UInt8[np.ndarray, "h w 4"]

    @classmethod
    def on(cls, background: UInt8[np.ndarray, "h w 3"]) -> "Canvas":
        """A canvas that shows the background, which is nobody's."""
        height_px, width_px, _ = background.shape
        size = (_SCALE * width_px, _SCALE * height_px)
        pixels = cv2.merge([*cv2.split(background), np.zeros((height_px, width_px), np.uint8)])
        return cls(cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST))

    def paint(
        self,
        shapes: Iterable[Shape],
        palette: Mapping[str, Colour],
        owner: int,
        at: Point,
        by: Point = 1,
    ) -> None:
        """Paints the shapes, moved to `at` and turned and scaled by `by`, each with its outline."""
        for tone, points, width, filled in (shape.placed(at, by) for shape in shapes):
            colour = palette[tone]
            edge = mix(colour, (0, 0, 0), _OUTLINE_SHADE)
            corners = _fixed_point(points)
            self._line(corners, filled, (*edge, owner), width + _OUTLINE)
            if filled:
                cv2.fillPoly(self.pixels, [corners], (*colour, owner), shift=_FRACTION_BITS)
            if width:
                self._line(corners, filled, (*colour, owner), width)

    def _line(
        self, corners: np.ndarray, closed: bool, colour: tuple[int, ...], width: float
    ) -> None:
        thickness = max(1, round(_SCALE * width))
        cv2.polylines(self.pixels, [corners], closed, colour, thickness, shift=_FRACTION_BITS)

    def count(self, owner: int) -> int:
        """How many pixels of the finished picture the figure has by now."""
        return int(np.count_nonzero(self._owners == owner))

    def finish(self) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """The picture, and the owner of each of its pixels."""
        height, width, _ = self.pixels.shape
        size = (width // _SCALE, height // _SCALE)
        image = cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA)[..., :3]
        return np.ascontiguousarray(image), np.ascontiguousarray(self._owners)

    @property
    def _owners(self) -> UInt8[np.ndarray, "h w"]:
        return self.pixels[_SCALE // 2 :: _SCALE, _SCALE // 2 :: _SCALE, 3]


def _fixed_point(points: Points) -> np.ndarray:
    pairs = points.view(np.float64).reshape(-1, 1, 2)
    on_canvas = _SCALE * pairs + (_SCALE - 1) / 2
    return np.rint(on_canvas * 2**_FRACTION_BITS).astype(np.int32)


def colours(rng: np.random.Generator, count: int) -> list[Colour]:
    """Lively colours of any hue."""
    draws = rng.uniform((0, 0.35, 0.45), (1, 0.85, 0.95), (count, 3)).tolist()
    rgb = (colorsys.hsv_to_rgb(*draw) for draw in draws)
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in rgb]


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """The colour with a share of the other in it."""
    (r, g, b), (r2, g2, b2) = colour, other
    return round(r + share * (r2 - r)), round(g + share * (g2 - g)), round(b + share * (b2 - b))


def turn(degrees: float) -> complex:
    """The number that turns points clockwise on the canvas."""
    return complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def smooth_background(
    rng: np.random.Generator, height_px: int, width_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A muted field of slowly changing colour with grain."""
    light = rng.uniform(70, 160) + rng.uniform(-40, 40, (3, 3, 1))
    muted = (light + rng.uniform(-28, 28, (3, 3, 3))).astype(np.float32)
    field = cv2.resize(muted, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(-4, 5, (height_px, width_px, 1), dtype=np.int16)
    return np.clip(field + grain, 0, 255).astype(np.uint8)
