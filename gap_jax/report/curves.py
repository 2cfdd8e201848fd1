"""Computes charts of numbers over steps: round ticks and the SVG paths of the lines."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gap_jax.report.comparison import Method
from gap_jax.report.runs import Row

FRAME = {"width": 640, "height": 300, "left": 58, "right": 616, "top": 14, "bottom": 254}
MOST_TICKS = 6
MOST_MARKED_POINTS = 40  # on a longer line marks would only thicken it

Point = tuple[float, float]


class Tick(NamedTuple):
    """A round number and its position on the axis."""

    position: float
    text: str


class Line(NamedTuple):
    """The curve of one run; `style` is the number of its method."""

    style: int
    path: str
    marks: Sequence[Point]


class Chart(NamedTuple):
    """Lines over steps; `summary` describes them for screen readers."""

    title: str
    summary: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]


def draw_chart(
    title: str, name: str, methods: Sequence[Method], *, scale: float = 1.0
) -> Chart | None:
    """Draws a number of metrics.jsonl for every run; None if no run wrote it."""
    courses = [
        (style, method.name, _read(run.rows, name, scale))
        for style, method in enumerate(methods)
        for run in method.runs
    ]
    known = np.array([point for _, _, course in courses for point in course]).reshape(-1, 2)
    known = known[~np.isnan(known[:, 1])]
    if not len(known):
        return None
    x_ticks = round_ticks(0.0, known[:, 0].max())
    y_ticks = round_ticks(known[:, 1].min(), known[:, 1].max())

    def locate(step: float, value: float) -> Point:
        x = np.interp(step, (x_ticks[0], x_ticks[-1]), (FRAME["left"], FRAME["right"]))
        y = np.interp(value, (y_ticks[0], y_ticks[-1]), (FRAME["bottom"], FRAME["top"]))
        return round(float(x), 1), round(float(y), 1)

    ends = [
        f"{method} ends at {number(course[-1][1])} after {course[-1][0]:,.0f} steps"
        for _, method, course in courses
        if course
    ]
    return Chart(
        title=title,
        summary="; ".join(ends),
        x_ticks=[Tick(locate(tick, y_ticks[0])[0], number(tick)) for tick in x_ticks],
        y_ticks=[Tick(locate(0.0, tick)[1], number(tick)) for tick in y_ticks],
        lines=[_line(style, [locate(*point) for point in course]) for style, _, course in courses],
    )


def round_ticks(low: float, high: float) -> list[float]:
    """Returns multiples of 1, 2 or 5 times a power of ten that enclose a range."""
    span = high - low or abs(high) or 1.0
    rough = span / (MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    stride = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / stride + 1e-9), math.ceil(high / stride - 1e-9)
    return [stride * index for index in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """Formats a number for an axis."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _read(rows: Sequence[Row], name: str, scale: float) -> list[Point]:
    """Returns (step, value) pairs; a value that was not finite is nan and breaks the line."""
    return [
        (float(row["step"]), math.nan if row[name] is None else scale * row[name])
        for row in rows
        if name in row
    ]


def _line(style: int, points: Sequence[Point]) -> Line:
    groups = itertools.groupby(points, key=lambda point: math.isnan(point[1]))
    pieces = [[f"{x:g} {y:g}" for x, y in piece] for is_missing, piece in groups if not is_missing]
    path = " ".join("M" + " L".join(piece) for piece in pieces)
    marks = [point for point in points if not math.isnan(point[1])]
    return Line(style, path, marks if len(marks) <= MOST_MARKED_POINTS else ())
