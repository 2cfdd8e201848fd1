"""One self-contained HTML page of tables, bars and pictures; no script and no network."""

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
    """A picture that the page carries in itself."""

    source: str
    width_px: int
    height_px: int
    alt: str
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """Pictures that belong together, with a title and small print."""

    title: str
    details: str
    thumbnails: Sequence[Thumbnail]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Figures under one heading; `wide` ones hold more than one picture."""

    heading: str
    note: str
    figures: Sequence[Figure]
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a heading, each named by its first cell; `bars` are percents drawn behind."""

    heading: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """Everything a page shows, in its order."""

    title: str
    lead: str
    warnings: Sequence[str]
    tables: Sequence[Table]
    galleries: Sequence[Gallery]
    facts_heading: str
    facts: Sequence[tuple[str, str]]


def render(page: Page) -> str:
    """The page as HTML; whatever a class or file is called shows as text."""
    return fill_template(TEMPLATE, page=page)


def fill_template(name: str, templates: Mapping[str, str] = {}, **values: Any) -> str:
    """A template filled with values, which show as text; it may extend the page of this module."""
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
    """The view at thumbnail size, its skeletons drawn after shrinking so that they stay thin.

    A disc radius above 0 is shown as a circle around one joint.
    """
    small = fit(view, THUMBNAIL_PX)
    drawn = draw_skeletons(small.image, small.keypoints)
    joint = first_joint_inside(small.keypoints, drawn) if small.disc_radius else None
    if joint is not None:
        drawn = draw_disc(drawn, joint, small.disc_radius)
    return embed(drawn, alt=alt, caption=caption)


def embed(picture: Picture, *, alt: str, caption: str = "") -> Thumbnail:
    """The picture as it is, inside the page."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=THUMBNAIL_QUALITY, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    height_px, width_px, _ = picture.shape
    return Thumbnail(source, width_px, height_px, alt, caption)
