"""The page: what its sections hold, and how they become one HTML file without script or network."""

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
    """A class taken for another, with some of the images."""

    title: str
    counts: str
    pictures: Sequence[Thumbnail]


@dataclasses.dataclass(frozen=True)
class Page:
    """A report's sections in their order; notes are the small print below their headings."""

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
    """The page as HTML; whatever a class, a run or an image is called shows as text."""
    template = resources.files("gap_jax.explain.report").joinpath(TEMPLATE).read_text("utf-8")
    return fill_template(TEMPLATE, {TEMPLATE: template}, page=page, frame=FRAME)
