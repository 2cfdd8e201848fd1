"""Draws a sweep as SVG: means, with intervals over images and over seeds.

Rows that differ in a number are points of a line over it, others are lines of a list.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np

from data_pipelines.pictures.page import fill_template
from gap_jax.config import fields
from gap_jax.evaluation.metrics import Interval
from gap_jax.report.curves import Tick, number, round_ticks
from gap_jax.report.tables import UNKNOWN
from gap_jax.sweep.rows import Row

TEMPLATE = "figure.svg"
WIDTH, LEFT, RIGHT, TOP, ROW, BELOW = 760, 230, 740, 12, 28, 76
KEYS = (("images", 0), ("seeds", 165), ("published", 375))  # their distances from the left
AXES = {  # the field of the horizontal axis, and its title
    "fig2": ("pose.weight", "weight of the pose loss, logarithmic"),
    "fig3": ("model.T", "layers T"),
    "ranks": ("model.rank", "rank P"),
}
LINES_LEFT, LINES_TOP, LINES_BOTTOM, NAMES, BESIDE = 60, 34, 334, 24, 14

Ends = tuple[float, float] | None


class Summary(NamedTuple):
    """The scores of a row: the mean over its seeds, with an interval over images and over seeds.

    The first is for other test sets of this size and these trained models, the second for the mean
    over other seeds on these images. A row that is only quoted has neither.
    """

    row: Row
    rate: float | None = None
    over_images: Interval | None = None
    over_seeds: Interval | None = None
    by_seed: tuple[float, ...] = ()
    accuracy: Interval | None = None

    @property
    def numbers(self) -> list[float]:
        """All finite numbers of the row, in percent."""
        found = [*(self.over_images or ()), *(self.over_seeds or ()), *self.by_seed]
        published = [] if self.row.published is None else [self.row.published]
        return [100 * each for each in found if math.isfinite(each)] + published


class Mark(NamedTuple):
    """A row of the figure; numbers are positions."""

    name: str
    y: float
    mean: float | None
    images: Ends
    seeds: Ends
    by_seed: Sequence[float]
    published: float | None


class Line(NamedTuple):
    """Marks of one colour, and the line through their means."""

    name: str
    marks: Sequence[Mark]

    @property
    def path(self) -> str:
        return "M" + " L".join(f"{each.mean:g} {each.y:g}" for each in self.marks if each.mean)


class Axis(NamedTuple):
    """The horizontal axis of lines."""

    title: str
    ticks: Sequence[Tick]


def draw_figure(title: str, summaries: Sequence[Summary], kind: str = "") -> str:
    """Draws all rows that have a number; a mark of a line is that of a row, turned."""
    shown = [each for each in summaries if each.numbers]
    values = [*itertools.chain.from_iterable(each.numbers for each in shown)]
    ticks = round_ticks(min(values), max(values))
    left, top, bottom = LEFT, TOP, TOP + ROW * len(shown)
    if kind in AXES:
        left, top, bottom = LINES_LEFT, LINES_TOP, LINES_BOTTOM
    ends = (bottom, top) if kind in AXES else (left, RIGHT)

    def locate(percent: float) -> float:
        return round(float(np.interp(percent, (ticks[0], ticks[-1]), ends)), 1)

    if kind in AXES:
        axis, lines = _draw_lines(shown, *AXES[kind], locate)
    else:
        marks = [_mark(each, TOP + ROW * (i + 0.5), locate) for i, each in enumerate(shown)]
        axis, lines = None, [Line("", marks)]
    names = {"images", "seeds"} | {"published" for each in shown if each.row.published is not None}
    texts = [f"{each.row.name}: {_describe(each)}" for each in shown]
    template = resources.files("gap_jax.sweep").joinpath(TEMPLATE).read_text("utf-8")
    return fill_template(
        TEMPLATE,
        {TEMPLATE: template},
        title=title,
        summary="; ".join(texts),
        width=WIDTH,
        height=bottom + BELOW + NAMES * (len(lines) > 1),
        frame={"left": left, "right": RIGHT, "top": top, "bottom": bottom},
        ticks=[Tick(locate(tick), number(tick)) for tick in ticks],
        axis=axis,
        lines=lines,
        keys=[(name, left + x) for name, x in KEYS if name in names],
    )


def _draw_lines(
    shown: Sequence[Summary], field: str, title: str, locate: Callable[[float], float]
) -> tuple[Axis, list[Line]]:
    """Draws a line for each reduction of the pose loss; values of `field` are equally far apart.

    So powers of ten lie on a logarithmic scale, and whole numbers on a linear one.
    """
    settings = [
        {name: value for name, _, value in fields(each.row.cfg)} if each.row.cfg else {}
        for each in shown
    ]
    values = sorted({each[field] for each in settings if each})
    names = [*dict.fromkeys(each["pose.reduction"] for each in settings if each)]
    stride = (RIGHT - LINES_LEFT) / len(values)
    places = {value: LINES_LEFT + stride * (i + 0.5) for i, value in enumerate(values)}
    lines = []
    for index, name in enumerate(names):
        aside = BESIDE * (index - (len(names) - 1) / 2)
        marks = [
            _mark(each, round(places[own[field]] + aside, 1), locate)
            for each, own in zip(shown, settings, strict=True)
            if own and own["pose.reduction"] == name
        ]
        lines.append(Line(name, sorted(marks, key=lambda mark: mark.y)))
    return Axis(title, [Tick(round(x, 1), f"{value:g}") for value, x in places.items()]), lines


def _mark(summary: Summary, y: float, locate: Callable[[float], float]) -> Mark:
    images, published = summary.over_images, summary.row.published

    def ends(interval: Interval | None) -> Ends:
        if interval is None or not math.isfinite(interval.low):
            return None
        low, high = sorted((locate(100 * interval.low), locate(100 * interval.high)))
        return low, high

    return Mark(
        summary.row.name,
        y,
        None if images is None else locate(100 * images.estimate),
        ends(images),
        ends(summary.over_seeds),
        [locate(100 * each) for each in summary.by_seed],
        None if published is None else locate(published),
    )


def _describe(summary: Summary) -> str:
    own = f"{100 * summary.over_images.estimate:.1f} %" if summary.over_images else UNKNOWN
    published = summary.row.published
    return own if published is None else f"{own}, published {published} %"
