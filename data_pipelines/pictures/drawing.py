"""Draws skeletons and boxes on images, and batches as grids.

Blue is a person's left, orange the right; boxes are yellow.
"""

import io
import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.core.boxes import find_areas
from data_pipelines.example import (
    AMBIGUOUS,
    BONES,
    HIDDEN,
    JOINTS,
    NOT_ANNOTATED,
    PADDING_ID,
    Boxes,
    HostBatch,
    Keypoints,
)
from data_pipelines.manifest import is_labelled, list_classes
from data_pipelines.transforms import NO_BOXES, View, resize

RGB = tuple[int, int, int]
Picture = UInt8[np.ndarray, "h w 3"]

LEFT, RIGHT, CENTRE = (0, 142, 255), (255, 140, 0), (240, 240, 240)
CASING = (24, 24, 24)  # a dark edge, so that lines are visible on any background
DISC = (255, 255, 255)
BOX = (250, 220, 40)
PAPER, INK = (255, 255, 255), (30, 30, 30)
SUBPIXEL_BITS = 4
GAP_PX, CAPTION_PX, TEXT_PX = 8, 22, 14
MAX_TEXT_CHARS = 200  # of a name or a list of names


def side_colour(*joints: int) -> RGB:
    """Returns the colour of a joint or bone; a bone with one end on a side has that side's."""
    names = " ".join(JOINTS[joint] for joint in joints)
    return LEFT if "left" in names else RIGHT if "right" in names else CENTRE


def draw_skeletons(image: Picture, keypoints: Keypoints) -> Picture:
    """Draws everybody's annotated joints: filled if visible, hollow if hidden."""
    canvas = np.ascontiguousarray(image).copy()
    thickness = max(1, round(max(image.shape[:2]) / 160))
    radius = (1.6 * thickness + 1) * 2**SUBPIXEL_BITS
    for person in keypoints:
        seen = person[:, 2] != NOT_ANNOTATED
        bones = [bone for bone in BONES if seen[list(bone)].all()]
        for colour, extra in ((CASING, 2), (None, 0)):
            for bone in bones:
                start, end = (_fixed(person[joint]) for joint in bone)
                paint = colour or side_colour(*bone)
                cv2.line(canvas, start, end, paint, thickness + extra, cv2.LINE_AA, SUBPIXEL_BITS)
        for joint in np.flatnonzero(seen):
            colour = side_colour(int(joint))
            inner = CASING if person[joint, 2] == HIDDEN else colour
            layers = (1, CASING, cv2.FILLED), (0, inner, cv2.FILLED), (0, colour, thickness)
            for grown, paint, line in layers:
                size, centre = round(radius + grown * 2**SUBPIXEL_BITS), _fixed(person[joint])
                cv2.circle(canvas, centre, size, paint, line, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def draw_boxes(image: Picture, boxes: Boxes) -> Picture:
    """Draws the outlines of people's boxes, within the image; an absent one is not drawn."""
    canvas = np.ascontiguousarray(image).copy()
    thickness = max(1, round(max(image.shape[:2]) / 200))
    for box in boxes[find_areas(boxes) > 0]:
        start, end = (_fixed(corner) for corner in (box[:2] - 0.5, box[2:] - 0.5))
        for paint, extra in ((CASING, 2), (BOX, 0)):
            cv2.rectangle(canvas, start, end, paint, thickness + extra, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def draw_disc(image: Picture, centre: Float[np.ndarray, " 3"], radius: float) -> Picture:
    """Draws the circle that a pose target fills around a joint."""
    canvas = np.ascontiguousarray(image).copy()
    scaled = round(radius * 2**SUBPIXEL_BITS)
    for colour, thickness in ((CASING, 3), (DISC, 1)):
        cv2.circle(canvas, _fixed(centre), scaled, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def _fixed(point: Float[np.ndarray, " n"]) -> tuple[int, int]:
    """Converts a point to OpenCV's fixed-point pixels, clipped so that they cannot overflow."""
    x, y = np.clip(point[:2], -1e5, 1e5) * 2**SUBPIXEL_BITS
    return round(float(x)), round(float(y))


def fit(view: View, side_px: int) -> View:
    """Resizes a view so that its longer side is `side_px`."""
    height, width = view.image.shape[:2]
    scale = side_px / max(height, width)
    return resize(view, max(1, round(width * scale)), max(1, round(height * scale)), "area")


def shorten(text: str) -> str:
    """Cuts a text that is too long for a page or caption."""
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}\u2026"


def label_text(label: object, classes: Sequence[str]) -> str:
    """Joins the names of a label's classes, shortened; "no class" if it is known to have none."""
    names = shorten(", ".join(classes[each] for each in list_classes(label)))
    return names or ("no class" if is_labelled(label) else "no label")


def count_not_known(label: object) -> list[str]:
    """Counts the ambiguous and the unknown classes of a label; empty if it has none."""
    values = np.asarray(label)
    if not values.ndim:
        return []
    counts = {
        "ambiguous": int((values == AMBIGUOUS).sum()),
        "unknown": int((values < AMBIGUOUS).sum()),
    }
    return [f"{count:,} {name}" for name, count in counts.items() if count]


def first_joint_inside(keypoints: Keypoints, image: Picture) -> Float[np.ndarray, " 3"] | None:
    """Finds the first annotated joint inside the image, or None."""
    height, width, _ = image.shape
    x, y, visibility = np.moveaxis(keypoints, -1, 0)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (visibility != NOT_ANNOTATED)
    return keypoints[inside][0] if inside.any() else None


def draw_batch(batch: HostBatch, classes: Sequence[str], *, side_px: int = 240) -> bytes:
    """Draws a PNG of the batch's images in reading order, with their skeletons and labels."""
    count = len(batch.image)
    columns = math.ceil(math.sqrt(count))
    wide, high = side_px + GAP_PX, side_px + GAP_PX + CAPTION_PX
    size = columns * wide + GAP_PX, math.ceil(count / columns) * high + GAP_PX
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    for index in range(count):
        left, top = GAP_PX + index % columns * wide, GAP_PX + index // columns * high
        clip = batch.image[index].reshape(-1, *batch.image.shape[-3:])  # of a picture one frame
        boxes = batch.people.boxes[index] if batch.people else NO_BOXES
        view = fit(View(clip[len(clip) // 2], batch.keypoints[index], 0.0, boxes), side_px)
        drawn = draw_skeletons(draw_boxes(view.image, view.boxes), view.keypoints)
        sheet.paste(Image.fromarray(drawn), (left, top))
        text = label_text(batch.label[index], classes) if batch.weight[index] else "no label"
        if batch.id[index] == PADDING_ID:
            text = "(padding)"
        while text and pen.textlength(text, font) > side_px:
            text = text[:-2] + "\u2026" if len(text) > 1 else ""
        pen.text((left, top + side_px + 4), text, INK, font)
    png = io.BytesIO()
    sheet.save(png, "PNG")
    return png.getvalue()
