"""Draws the maps of a class over the photograph, on one colour scale.

Each pixel of the photograph takes the value of its point in the evaluated crop; pixels outside the
crop, which the network did not see, stay grey.
"""

import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.pictures.drawing import INK, PAPER, Picture, draw_skeletons, fit, shorten
from data_pipelines.transforms import View
from gap_jax.models.cells import Grid
from gap_jax.prediction.attention import Map, interpolate
from gap_jax.prediction.colours import find_scale, lay_over, paint_bar, to_grey
from gap_jax.prediction.photograph import Line, Placement

LARGEST_SIDE_PX = 2048  # a larger photograph shrinks, or one picture would need 100 MB
SMALLEST_PANEL_PX = 240  # room for a caption
GAP_PX = 8
TEXT_PX = 14
TITLES = {"bottom_up": "bottom-up", "top_down": "top-down", "combined": "combined"}
NOBODY = np.zeros((0, 16, 3))

Sheet = UInt8[np.ndarray, "_ _ 3"]


class Spread(NamedTuple):
    """The values of a map at pixels of the photograph, and which pixels the network saw."""

    values: Float[np.ndarray, "y x"]
    seen: Bool[np.ndarray, "y x"]


def spread(
    cells: Map,
    grid: Grid,
    placement: Placement,
    height: int | None = None,
    width: int | None = None,
) -> Spread:
    """Interpolates a map at every pixel of the photograph, or of its copy of another size."""
    rows, down = _locate(placement.rows, placement.height, height, placement.side)
    columns, across = _locate(placement.columns, placement.width, width, placement.side)
    return Spread(interpolate(cells, grid, rows, columns), down[:, None] & across)


def _locate(
    line: Line, stored: int, drawn: int | None, side: int
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Returns the crop's pixel of each drawn pixel, and whether it lies inside the crop."""
    drawn = drawn or stored
    pixels = (np.arange(drawn) + 0.5) * (stored / drawn) - 0.5
    places = line.to_crop(pixels)
    return places, (places >= -0.5) & (places <= side - 0.5)


def draw(
    image: Picture,
    placement: Placement,
    grid: Grid,
    maps: Mapping[str, Map],
    joints: Float[np.ndarray, "16 3"] | None,
    label: str,
) -> Sheet:
    """Draws four panels: the photograph with its joints, and the three maps of the labelled class.

    Each map is divided by its own scale, which its caption gives. A constant map is not drawn.
    """
    people = NOBODY if joints is None else joints[None]
    view = View(image, people, 0.0)
    if max(image.shape[:2]) > LARGEST_SIDE_PX:
        view = fit(view, LARGEST_SIDE_PX)
    found = "no pose branch" if joints is None else f"{int((joints[:, 2] > 0).sum())} joints"
    panels = [(draw_skeletons(view.image, view.keypoints), f"{label}; {found}")]
    for kind, cells in maps.items():
        if kind == "bottom_up" and np.ptp(cells) == 0:
            panels.append((to_grey(view.image), f"{TITLES[kind]}: h is constant"))
            continue
        scale = find_scale(cells)
        values, seen = spread(cells / scale, grid, placement, *view.image.shape[:2])
        coloured = np.where(seen[..., None], lay_over(values, view.image), to_grey(view.image))
        panels.append((coloured, f"{TITLES[kind]}: 1 is {scale:.3g}"))
    return _arrange(panels)


def encode(picture: Sheet) -> bytes:
    """Encodes a picture as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=3)
    return file.getvalue()


def _arrange(panels: list[tuple[Picture, str]]) -> Sheet:
    """Arranges captioned panels in two columns above the colour bar."""
    height, width = panels[0][0].shape[:2]
    text_px = max(TEXT_PX, max(height, width) // 50)
    wide, high = max(width, SMALLEST_PANEL_PX) + GAP_PX, height + 2 * GAP_PX + text_px
    rows = len(panels) // 2
    sheet = Image.new("RGB", (2 * wide + GAP_PX, (rows * high) + 3 * GAP_PX + text_px), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(text_px)
    for index, (picture, caption) in enumerate(panels):
        left, top = GAP_PX + index % 2 * wide, GAP_PX + index // 2 * high
        sheet.paste(Image.fromarray(picture), (left, top))
        _write(pen, font, (left, top + height + GAP_PX // 2), caption, wide - GAP_PX)
    top = GAP_PX + rows * high
    bar = Image.fromarray(paint_bar(text_px, wide))
    sheet.paste(bar, (wide // 2, top))
    for text, x, anchor in (
        ("-1", wide // 2 - GAP_PX // 2, "ra"),
        ("1", 3 * wide // 2 + GAP_PX, "la"),
    ):
        pen.text((x, top), text, INK, font, anchor=anchor)
    return np.array(sheet)


def _write(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    place: tuple[int, int],
    text: str,
    width: int,
) -> None:
    """Writes a line, cut to the width."""
    text = shorten(text)
    while text and pen.textlength(text, font) > width:
        text = text[:-2] + "\u2026" if len(text) > 1 else ""
    pen.text(place, text, INK, font)
