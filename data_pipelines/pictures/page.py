"""Renders a self-contained HTML page of tables, bars and pictures, without scripts or network."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from PIL import Image

from data_pipelines.pictures.drawing import (
    LEFT,
    RIGHT,
    Picture,
    draw_disc,
    draw_skeletons,
    first_joint_inside,
    fit,
)
from data_pipelines.transforms import View

TEMPLATE = "sheet.html"
THUMBNAIL_PX = 320
THUMBNAIL_QUALITY = 82


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """Holds a picture that is embedded in the page."""

    source: str
    width_px: int
    height_px: int
    alt: str
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Groups pictures under a title and details."""

    title: str
    details: str
    thumbnails: Sequence[Thumbnail]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Groups figures under a heading; figures of a `wide` gallery hold several pictures."""

    heading: str
    note: str
    figures: Sequence[Figure]
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds rows under a heading, named by their first cells; `bars` are percentages to draw."""

    heading: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """Holds the content of a page in its order."""

    title: str
    lead: str
    warnings: Sequence[str]
    tables: Sequence[Table]
    galleries: Sequence[Gallery]
    facts_heading: str
    facts: Sequence[tuple[str, str]]


def render(page: Page) -> str:
    """Renders the page as HTML; names of classes and files are escaped."""
    return fill_template(TEMPLATE, page=page)


def fill_template(name: str, templates: Mapping[str, str] = {}, **values: Any) -> str:
    """Fills a template, which may extend this module's page, with values, which are escaped."""
    sheet = resources.files("data_pipelines").joinpath(TEMPLATE).read_text("utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({TEMPLATE: sheet, **templates}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colours = {"left": f"rgb{LEFT}", "right": f"rgb{RIGHT}"}
    text = environment.get_template(name).render(**values, **colours)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def thumbnail(view: View, *, alt: str, caption: str = "") -> Thumbnail:
    """Shrinks the view to thumbnail size, then draws its skeletons with thin lines.

    A disc radius above 0 is drawn as a circle around one joint.
    """
    small = fit(view, THUMBNAIL_PX)
    drawn = draw_skeletons(small.image, small.keypoints)
    joint = first_joint_inside(small.keypoints, drawn) if small.disc_radius else None
    if joint is not None:
        drawn = draw_disc(drawn, joint, small.disc_radius)
    return embed(drawn, alt=alt, caption=caption)


def embed(picture: Picture, *, alt: str, caption: str = "") -> Thumbnail:
    """Embeds a picture in the page at its own size."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=THUMBNAIL_QUALITY, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    height_px, width_px, _ = picture.shape
    return Thumbnail(source, width_px, height_px, alt, caption)
