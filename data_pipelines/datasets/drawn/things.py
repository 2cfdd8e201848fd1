"""Defines the shapes of things, in units of a person's height."""

from collections.abc import Iterable

import numpy as np

from data_pipelines.datasets.drawn.canvas import (
    Colour,
    Point,
    Shape,
    area,
    disc,
    draw_colours,
    mix_colours,
    oval,
    stroke,
)

_WHITE, _SILVER, _BLACK, _GREEN = (255, 255, 255), (160, 160, 165), (0, 0, 0), (52, 140, 60)


def measure(shapes: Iterable[Shape]) -> tuple[complex, float]:
    """Returns the centre of the bounding box of shapes, and the largest distance from it."""
    points = np.concatenate([shape.points for shape in shapes])
    x, y = np.real(points), np.imag(points)
    centre = complex(x.min() + x.max(), y.min() + y.max()) / 2
    return centre, float(np.abs(points - centre).max())


def _box(tone: str, centre: Point, width: float, height: float) -> Shape:
    half = complex(width, height) / 2
    corners = (-half, half.conjugate(), half, -half.conjugate())
    return area(tone, *(centre + corner for corner in corners))


_SPOKES = np.exp(1j * np.radians([20, 80, 140]))


def _bicycle() -> tuple[Shape, ...]:
    """Saddle at 0; bars and crank at a rider's hands and feet."""
    rear, front, crank, bars = -0.12 + 0.4j, 0.55 + 0.4j, 0.17 + 0.39j, 0.43 - 0.05j
    seat, head = 0.02 + 0.1j, 0.44 + 0.06j  # the upper corners of the frame
    wheels = [
        shape
        for hub in (rear, front)
        for shape in (
            Shape("rubber", hub + oval(0.17, 0.17), 0.022),
            *(stroke("metal", 0.006, hub - spoke, hub + spoke) for spoke in 0.155 * _SPOKES),
        )
    ]
    frame = (rear, crank, seat, rear), (seat, head, crank), (head, front)
    return (
        *wheels,
        stroke("metal", 0.018, seat, 0.035j),
        *(stroke("main", 0.024, *tubes) for tubes in frame),
        stroke("metal", 0.018, head, bars, bars + 0.035),
        stroke("rubber", 0.036, -0.05 + 0.035j, 0.05 + 0.035j),
        disc("second", crank, 0.035),
        stroke("rubber", 0.018, crank - 0.02 - 0.06j, crank + 0.02 + 0.06j),
    )


_LEAVES = (-0.13 - 0.1j, 0.12 - 0.12j, -0.02 - 0.2j, 0.15 + 0.01j)
_ACROSS, _DOWN = np.array([0, 0.15, 0.15, 0]), np.array([-0.07, -0.09, 0.09, 0.11])

# Shapes around 0, the point where a person holds the thing.
THINGS = {
    "ball": (
        disc("main", 0, 0.08),
        *(area("second", 0, *oval(0.08, 0.08, each, each + 60)) for each in (0.0, 120.0, 240.0)),
        disc("paper", 0, 0.02),
    ),
    "barbell": (
        stroke("metal", 0.022, -0.42, 0.42),
        *(_box("main", side * 0.345, 0.045, 0.27) for side in (-1, 1)),
        *(_box("rubber", side * 0.39, 0.035, 0.18) for side in (-1, 1)),
    ),
    "bicycle": _bicycle(),
    "book": tuple(  # open, with both covers visible; the middle at 0
        Shape(tone, side * _ACROSS + 1j * _DOWN, filled=True)
        for tone, width in (("main", 1.12), ("paper", 1.0))
        for side in (-width, width)
    ),
    "chair": (
        stroke("main", 0.03, -0.11 - 0.26j, -0.11 + 0.24j),
        stroke("main", 0.03, 0.13 + 0.01j, 0.13 + 0.24j),
        _box("second", 0.01 + 0.005j, 0.26, 0.05),
        _box("second", -0.11 - 0.18j, 0.04, 0.16),
    ),
    "guitar": (  # the sound hole at 0, the neck to the right
        disc("main", -0.11, 0.13),
        disc("main", 0.045, 0.095),
        Shape("main", -0.03 + oval(0.1, 0.075), filled=True),
        disc("rubber", 0.01, 0.036),
        stroke("rubber", 0.032, 0.04, 0.5),
        stroke("second", 0.05, 0.5, 0.56),
        stroke("rubber", 0.02, -0.15 - 0.04j, -0.15 + 0.04j),
    ),
    "plant": (
        *(stroke("leaf", 0.06, 0.08j, leaf) for leaf in _LEAVES),
        area("main", -0.1 + 0.06j, 0.1 + 0.06j, 0.07 + 0.22j, -0.07 + 0.22j),
    ),
    "umbrella": (  # the hand at 0, the canopy above it
        stroke("metal", 0.018, -0.57j, 0.08j, 0.03 + 0.1j, 0.05 + 0.08j),
        Shape("main", -0.36j + oval(0.29, 0.19, 180.0, 360.0), filled=True),
        Shape("second", -0.36j + oval(0.1, 0.19, 180.0, 360.0), filled=True),
    ),
}
KINDS = tuple(THINGS)


def draw_palette(rng: np.random.Generator) -> dict[str, Colour]:
    """Draws the colours of a thing; they do not depend on its kind."""
    main, second, third = draw_colours(rng, 3)
    return {
        "main": main,
        "second": second,
        "paper": mix_colours(third, _WHITE, 0.35),
        "metal": mix_colours(second, _SILVER, 0.6),
        "rubber": mix_colours(third, _BLACK, 0.3),
        "leaf": mix_colours(third, _GREEN, 0.5),
    }
