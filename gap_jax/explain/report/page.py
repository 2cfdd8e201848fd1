"""Renders the report as one HTML file without scripts or external resources."""

import dataclasses
from collections.abc import Sequence
from importlib import resources

from data_pipelines.pictures.page import Thumbnail, fill_template
from gap_jax.explain.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart
from gap_jax.explain.report.gallery import Gallery
from gap_jax.explain.report.tables import Table

TEMPLATE = "report.html"
FRAME = {
    "width": WIDTH, "height": HEIGHT,
    "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A class predicted for another, with example images."""

    title: str
    counts: str
    pictures: Sequence[Thumbnail]


@dataclasses.dataclass(frozen=True)
class Page:
    """The sections of a report in their order; a note stands below the heading of its section."""

    title: str
    lead: str
    warnings: Sequence[str]
    methods: Sequence[str]
    results: Table
    results_note: str
    differences: Table | None
    differences_note: str
    charts: Sequence[Chart]
    classes: Table
    mistakes: Sequence[Mistake]
    mistakes_note: str
    attention: Table | None
    attention_note: str
    gallery: Gallery
    gallery_note: str
    settings: Sequence[Table]
    environments: Sequence[Table]


def render(page: Page) -> str:
    """Renders the page as HTML; names of classes, runs and images are escaped."""
    template = resources.files("gap_jax.explain.report").joinpath(TEMPLATE).read_text("utf-8")
    return fill_template(TEMPLATE, {TEMPLATE: template}, page=page, frame=FRAME)
