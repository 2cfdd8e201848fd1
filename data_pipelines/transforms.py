"""Crops, resizes, mirrors and recolours images, and moves joints and boxes with their pixels.

A resize is bilinear by one of three rules (`data.resize`). `opencv` and `antialias` move a point at
x to (x + 0.5) * scale - 0.5, the latter with a window that grows as the image shrinks (Pillow's and
torchvision's); `legacy` (TensorFlow 1's) moves it to x * scale. With `opencv`, `modern` averages
areas if an image shrinks to half or less, as bilinear would skip pixels: the rule `area`.

The edges of a box lie half a pixel beyond joints on the same pixels (core/boxes.py). Boxes are
clipped to their image.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from data_pipelines.config import DataConfig
from data_pipelines.core.boxes import clip
from data_pipelines.example import (
    HIDDEN,
    MIRRORED_JOINTS,
    NOT_ANNOTATED,
    VISIBLE,
    Boxes,
    Keypoints,
)

DISC_SHARE = 0.05  # of the whole image's width
LONGEST_ASPECT = 16  # a longer strip would need too much memory with a short side of 480 px
ERASED_AREA = (0.02, 0.33)  # share of the crop, and height / width: those of random erasing's paper
ERASED_ASPECT = (0.3, 1 / 0.3)
NO_BOXES, NO_LABELS = np.zeros((0, 4)), np.zeros(0, np.int64)
_GREY = np.array([0.299, 0.587, 0.114])

cv2.setNumThreads(1)  # images are processed in parallel; more threads in one only add cost


class View(NamedTuple):
    """Holds an image with its people; joints, radius and boxes are in pixels of the image."""

    image: UInt8[np.ndarray, "h w 3"]
    keypoints: Keypoints
    disc_radius: float
    boxes: Boxes = NO_BOXES
    person_labels: Int64[np.ndarray, " people"] = NO_LABELS


def make_view(
    image: UInt8[np.ndarray, "h w 3"],
    keypoints: Keypoints,
    data: DataConfig,
    boxes: Boxes = NO_BOXES,
    person_labels: Int64[np.ndarray, " people"] = NO_LABELS,
) -> View:
    """Makes the view of a whole image, in `reference` no wider than its limit; it may be cached."""
    height, width = image.shape[:2]
    joints, wide_boxes = keypoints.astype(np.float64), boxes.astype(np.float64)
    view = View(image, joints, DISC_SHARE * width, wide_boxes, person_labels)
    limit = data.limit_width_px
    if data.preprocessing == "modern" or not limit or width <= limit:
        return view
    lower = max(1, _round_side(height * limit / width, data))
    return resize(view, limit, lower, "truncated" if data.resize == "legacy" else data.resize)


def augment(view: View, data: DataConfig, rng: np.random.Generator) -> View:
    """Makes a random training crop; settings turn on random mirroring, colours and erasing."""
    side = data.image_size_px
    if data.preprocessing == "reference":
        view = _crop(_scale_short_side(view, data, rng), side, side, rng)
    else:
        view = _crop(view, *_draw_region(view, data, rng), rng)
        view = _resize(view, side, side, data)
    if data.flip and rng.random() < 0.5:
        view = _mirror(view, data.swap_on_flip)
    if data.brightness or data.contrast or data.saturation:
        view = view._replace(image=_jitter_colours(view.image, data, rng))
    if data.erasing and rng.random() < data.erasing:
        view = _erase(view, rng)
    return view


def center_crop(view: View, data: DataConfig) -> View:
    """Scales the short side and takes the centre crop."""
    side = data.image_size_px
    return _crop(_scale_short_side(view, data, None), side, side, None)


def evaluation_views(view: View, data: DataConfig) -> list[View]:
    """Makes the `data.eval_views` square views of evaluation; the mirrored ones come last.

    `three` lie along the longer side of the resized image, at its ends and in its centre; `five` in
    its corners and centre; `full` is the whole image, resized to a square.
    """
    side = data.image_size_px
    if data.eval_crops == "full":
        views = [_resize(view, side, side, data)]
    else:
        view = _scale_short_side(view, data, None)
        right, bottom = view.image.shape[1] - side, view.image.shape[0] - side
        middle = (right // 2, bottom // 2)
        match data.eval_crops:
            case "three" if right >= bottom:
                corners = [(0, middle[1]), middle, (right, middle[1])]
            case "three":
                corners = [(middle[0], 0), middle, (middle[0], bottom)]
            case "five":
                corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), middle]
            case _:
                corners = [middle]
        views = [_crop_at(view, left, top, side, side) for left, top in corners]
    if data.eval_flip:
        views += [_mirror(each, data.swap_on_flip) for each in views]
    return views


def feature_views(view: View, data: DataConfig, position: int) -> list[View]:
    """Makes the `data.feature_views` views of a training image whose maps are stored.

    They are the centre crop, its mirror image and random crops, which depend on `position` and
    their number alone.
    """
    centre = center_crop(view, data)
    views = [centre, _mirror(centre, data.swap_on_flip)] if data.flip else [centre]
    drawn = (np.random.default_rng([position, k]) for k in range(data.random_views))
    return [*views[: data.feature_views], *(augment(view, data, rng) for rng in drawn)]


def _scale_short_side(view: View, data: DataConfig, rng: np.random.Generator | None) -> View:
    height, width = view.image.shape[:2]
    longest = LONGEST_ASPECT * min(height, width)
    if max(height, width) > longest:
        view = _crop(view, min(width, longest), min(height, longest), rng)
        height, width = view.image.shape[:2]
    scale = data.short_side_px / min(height, width)
    across, down = (_round_side(side * scale, data) for side in (width, height))
    return _resize(view, across, down, data)


def _resize(view: View, width: int, height: int, data: DataConfig) -> View:
    averages = (data.preprocessing, data.resize) == ("modern", "opencv")
    return resize(view, width, height, "area" if averages else data.resize)


def _round_side(side: float, data: DataConfig) -> int:
    """Rounds a side to whole pixels; the released code truncates."""
    return math.floor(side + 1e-6) if data.resize == "legacy" else round(side)


def _draw_region(view: View, data: DataConfig, rng: np.random.Generator) -> tuple[int, int]:
    """Draws an area and an aspect; returns their width and height, scaled down to fit."""
    height, width = view.image.shape[:2]
    area = rng.uniform(*data.area_range) * width * height
    aspect = math.exp(rng.uniform(*np.log(data.aspect_range)))
    across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
    fit = min(1.0, width / across, height / down)
    return max(1, round(across * fit)), max(1, round(down * fit))


def resize(view: View, width: int, height: int, rule: str = "opencv") -> View:
    """Resizes a view; `legacy` rounds colours, and `truncated` is `legacy` that truncates them."""
    image, size = view.image, (width, height)
    scale = np.array([width / image.shape[1], height / image.shape[0]])
    xy = (view.keypoints[..., :2] + 0.5) * scale - 0.5
    boxes = view.boxes * np.tile(scale, 2)
    match rule:
        case "legacy" | "truncated":
            xy = view.keypoints[..., :2] * scale
            boxes = (view.boxes - 0.5) * np.tile(scale, 2) + 0.5
            image = cv2.warpAffine(
                image if rule == "legacy" else image.astype(np.float32),
                np.diag(1 / scale) @ np.eye(2, 3),
                size,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            if rule == "truncated":
                image = (image + np.float32(1e-3)).astype(np.uint8)
        case "antialias":
            image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        case "area" if scale.max() <= 0.5:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        case _:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    radius = view.disc_radius * math.sqrt(scale.prod())
    return view._replace(
        image=image,
        keypoints=_move_joints(view.keypoints, xy),
        disc_radius=radius,
        boxes=clip(boxes, width, height),
    )


def _crop(view: View, width: int, height: int, rng: np.random.Generator | None) -> View:
    """Crops to the given size at a random position, or in the centre without `rng`."""
    spare = np.array([view.image.shape[1] - width, view.image.shape[0] - height])
    left, top = spare // 2 if rng is None else rng.integers(spare + 1)
    return _crop_at(view, int(left), int(top), width, height)


def _crop_at(view: View, left: int, top: int, width: int, height: int) -> View:
    return view._replace(
        image=view.image[top : top + height, left : left + width],
        keypoints=_move_joints(view.keypoints, view.keypoints[..., :2] - (left, top)),
        boxes=clip(view.boxes - (left, top, left, top), width, height),
    )


def _mirror(view: View, swap: bool) -> View:
    height, width = view.image.shape[:2]
    flipped = view.keypoints[..., :2] * (-1, 1) + (width - 1, 0)
    boxes = view.boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
    keypoints = _move_joints(view.keypoints, flipped)
    if swap:
        keypoints = keypoints[:, MIRRORED_JOINTS]
    image = cv2.flip(view.image, 1)
    return view._replace(image=image, keypoints=keypoints, boxes=clip(boxes, width, height))


def _erase(view: View, rng: np.random.Generator) -> View:
    """Replaces a random rectangle by noise; a visible joint inside becomes hidden, where it is."""
    height, width = view.image.shape[:2]
    area = rng.uniform(*ERASED_AREA) * height * width
    aspect = math.exp(rng.uniform(*np.log(ERASED_ASPECT)))
    down = min(height, max(1, round(math.sqrt(area * aspect))))
    across = min(width, max(1, round(math.sqrt(area / aspect))))
    top, left = int(rng.integers(height - down + 1)), int(rng.integers(width - across + 1))
    image = view.image.copy()  # the crop may be a window of a cached image
    image[top : top + down, left : left + across] = rng.integers(
        256, size=(down, across, 3), dtype=np.uint8
    )
    corner, size = np.array([left, top]) - 0.5, (across, down)  # pixel i spans i - 0.5 .. i + 0.5
    offset = view.keypoints[..., :2] - corner
    inside = ((offset >= 0) & (offset < size)).all(-1) & (view.keypoints[..., 2] == VISIBLE)
    keypoints = view.keypoints.copy()
    keypoints[..., 2] = np.where(inside, HIDDEN, keypoints[..., 2])
    return view._replace(image=image, keypoints=keypoints)


def _move_joints(keypoints: Keypoints, xy: Float[np.ndarray, "people 16 2"]) -> Keypoints:
    """Moves the joints to `xy`; a joint that is not annotated stays (0, 0, 0)."""
    annotated = keypoints[..., 2:] != NOT_ANNOTATED
    return np.concatenate([np.where(annotated, xy, 0.0), keypoints[..., 2:]], axis=-1)


def _jitter_colours(
    image: UInt8[np.ndarray, "h w 3"], data: DataConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Changes brightness, contrast about the mean grey and saturation by one affine map."""
    spread = np.array([data.brightness, data.contrast, data.saturation])
    brightness, contrast, saturation = rng.uniform(1 - spread, 1 + spread)
    mean = float(_GREY @ cv2.mean(image)[:3])
    mix = saturation * np.eye(3) + (1 - saturation) * _GREY
    shift = np.full((3, 1), (1 - contrast) * brightness * mean)
    colours = np.hstack([contrast * brightness * mix, shift])
    return cv2.transform(image, colours)
