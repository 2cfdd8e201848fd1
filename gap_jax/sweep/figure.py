"""Draws the rows of a sweep as SVG: means, with intervals over images and over seeds."""

import itertools
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np

from data_pipelines.pictures.page import fill_template
from gap_jax.evaluation.metrics import Interval
from gap_jax.report.curves import Tick, number, round_ticks
from gap_jax.report.tables import UNKNOWN
from gap_jax.sweep.rows import Row

TEMPLATE = "figure.svg"
WIDTH, LEFT, RIGHT, TOP, ROW, BELOW = 760, 230, 740, 12, 28, 76
KEYS = (("images", LEFT), ("seeds", LEFT + 165), ("published", LEFT + 375))

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
    y: int
    mean: float | None
    images: Ends
    seeds: Ends
    by_seed: Sequence[float]
    published: float | None


def draw_figure(title: str, summaries: Sequence[Summary]) -> str:
    """Draws a line for each row that has a number."""
    shown = [each for each in summaries if each.numbers]
    values = [*itertools.chain.from_iterable(each.numbers for each in shown)]
    ticks = round_ticks(min(values), max(values))

    def locate(percent: float) -> float:
        return round(float(np.interp(percent, (ticks[0], ticks[-1]), (LEFT, RIGHT))), 1)

    bottom = TOP + ROW * len(shown)
    names = {"images", "seeds"} | {"published" for each in shown if each.row.published is not None}
    texts = [f"{each.row.name}: {_describe(each)}" for each in shown]
    template = resources.files("gap_jax.sweep").joinpath(TEMPLATE).read_text("utf-8")
    return fill_template(
        TEMPLATE,
        {TEMPLATE: template},
        title=title,
        summary="; ".join(texts),
        width=WIDTH,
        height=bottom + BELOW,
        frame={"left": LEFT, "right": RIGHT, "top": TOP, "bottom": bottom},
        ticks=[Tick(locate(tick), number(tick)) for tick in ticks],
        marks=[
            _mark(each, TOP + ROW * index + ROW // 2, locate) for index, each in enumerate(shown)
        ],
        keys=[key for key in KEYS if key[0] in names],
    )


def _mark(summary: Summary, y: int, locate: Callable[[float], float]) -> Mark:
    images, published = summary.over_images, summary.row.published

    def ends(interval: Interval | None) -> Ends:
        if interval is None or not math.isfinite(interval.low):
            return None
        return locate(100 * interval.low), locate(100 * interval.high)

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
