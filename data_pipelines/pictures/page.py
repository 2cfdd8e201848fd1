"""Renders a self-contained HTML page of tables, bars and pictures, without scripts or network."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2
from PIL import Image

from data_pipelines.pictures import drawing
from data_pipelines.transforms import View

TEMPLATE = "sheet.html"
THUMBNAIL_PX = 320
THUMBNAIL_QUALITY = 82


class Thumbnail(NamedTuple):
    """Holds a picture that is embedded in the page."""

    source: str
    width_px: int
    height_px: int
    alt: str
    caption: str = ""


class Figure(NamedTuple):
    """Groups pictures under a title and details."""

    title: str
    details: str
    thumbnails: Sequence[Thumbnail]


class Gallery(NamedTuple):
    """Groups figures under a heading; figures of a `wide` gallery hold several pictures."""

    heading: str
    note: str
    figures: Sequence[Figure]
    wide: bool = False


class Table(NamedTuple):
    """Holds rows under a heading, named by their first cells; `bars` are percentages to draw."""

    heading: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[float] = ()


class Page(NamedTuple):
    """Holds the content of a page in its order."""

    title: str
    lead: str
    galleries: Sequence[Gallery]
    facts_heading: str
    facts: Sequence[tuple[str, str]]
    tables: Sequence[Table] = ()
    warnings: Sequence[str] = ()


def fill_template(name: str = TEMPLATE, templates: Mapping[str, str] = {}, **values: Any) -> str:
    """Fills this module's page, or a template that extends it, with values, which are escaped."""
    sheet = resources.files("data_pipelines").joinpath(TEMPLATE).read_text("utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({TEMPLATE: sheet, **templates}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(name)
    colours = {"left": drawing.LEFT, "right": drawing.RIGHT, "box": drawing.BOX}
    text = template.render(**{name: f"rgb{rgb}" for name, rgb in colours.items()}, **values)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def thumbnail(view: View, *, alt: str, caption: str = "") -> Thumbnail:
    """Shrinks the view, then draws its people and, around one joint, a disc of its radius."""
    small = drawing.fit(view, THUMBNAIL_PX)
    drawn = drawing.draw_boxes(small.image, small.boxes)
    drawn = drawing.draw_skeletons(drawn, small.keypoints)
    joint = drawing.first_joint_inside(small.keypoints, drawn) if small.disc_radius else None
    if joint is not None:
        drawn = drawing.draw_disc(drawn, joint, small.disc_radius)
    return embed(drawn, alt=alt, caption=caption)


def embed(picture: drawing.Picture, *, alt: str, caption: str = "") -> Thumbnail:
    """Embeds a picture in the page at its own size."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=THUMBNAIL_QUALITY, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    height_px, width_px, _ = picture.shape
    return Thumbnail(source, width_px, height_px, alt, caption)
