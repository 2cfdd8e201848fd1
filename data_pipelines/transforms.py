"""The geometry and colours of a training or evaluation crop; people move with their pixels.

A resize follows OpenCV: a point at x lies at (x + 0.5) * scale - 0.5 afterwards, bilinear; `modern`
averages areas where an image shrinks to half or less, as bilinear would skip pixels there.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.config import DataConfig
from data_pipelines.example import MIRRORED_JOINTS, NOT_ANNOTATED, Keypoints

DISC_SHARE = 0.05  # of the whole image's width
LONGEST_ASPECT = 16  # a longer strip would fill the memory once its short side is 480 px
_GREY = np.array([0.299, 0.587, 0.114])

cv2.setNumThreads(1)  # images are processed side by side; threads inside one only add cost


class View(NamedTuple):
    """A picture on its way to the crop; people and the disc's radius are in its own pixels."""

    image: UInt8[np.ndarray, "h w 3"]
    keypoints: Keypoints
    disc_radius: float


def begin(image: UInt8[np.ndarray, "h w 3"], keypoints: Keypoints, data: DataConfig) -> View:
    """The whole image, in `reference` no wider than its limit; what a cache may keep."""
    height, width = image.shape[:2]
    view = View(image, keypoints.astype(np.float64), DISC_SHARE * width)
    limit = data.limit_width_px
    if data.preprocessing == "modern" or not limit or width <= limit:
        return view
    return resize(view, limit, max(1, round(height * limit / width)))


def augment(view: View, data: DataConfig, rng: np.random.Generator) -> View:
    """A random training crop, perhaps mirrored, perhaps with other colours."""
    if data.preprocessing == "reference":
        view = _crop_of_short_side(view, data, rng)
    else:
        view = _cut(view, *_random_region(view, data, rng), rng)
        view = resize(view, data.image_size_px, data.image_size_px, smooth=True)
    if data.flip and rng.random() < 0.5:
        view = _mirror(view, data.swap_on_flip)
    if data.brightness or data.contrast or data.saturation:
        view = view._replace(image=_jitter(view.image, data, rng))
    return view


def center(view: View, data: DataConfig) -> View:
    """The centre crop that evaluation sees."""
    return _crop_of_short_side(view, data, None)


def _crop_of_short_side(view: View, data: DataConfig, rng: np.random.Generator | None) -> View:
    height, width = view.image.shape[:2]
    longest = LONGEST_ASPECT * min(height, width)
    if max(height, width) > longest:
        view = _cut(view, min(width, longest), min(height, longest), rng)
        height, width = view.image.shape[:2]
    scale = data.short_side_px / min(height, width)
    smooth = data.preprocessing == "modern"
    view = resize(view, round(width * scale), round(height * scale), smooth=smooth)
    return _cut(view, data.image_size_px, data.image_size_px, rng)


def _random_region(view: View, data: DataConfig, rng: np.random.Generator) -> tuple[int, int]:
    """A width and height of the drawn area and aspect, scaled down where they do not fit."""
    height, width = view.image.shape[:2]
    area = rng.uniform(*data.area_range) * width * height
    aspect = math.exp(rng.uniform(*np.log(data.aspect_range)))
    across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
    fit = min(1.0, width / across, height / down)
    return max(1, round(across * fit)), max(1, round(down * fit))


def resize(view: View, width: int, height: int, *, smooth: bool = False) -> View:
    """The view at another size; `smooth` averages areas where it shrinks to half or less."""
    old_height, old_width = view.image.shape[:2]
    scale = np.array([width / old_width, height / old_height])
    method = cv2.INTER_AREA if smooth and scale.max() <= 0.5 else cv2.INTER_LINEAR
    return View(
        cv2.resize(view.image, (width, height), interpolation=method),
        _move(view.keypoints, (view.keypoints[..., :2] + 0.5) * scale - 0.5),
        view.disc_radius * math.sqrt(scale.prod()),
    )


def _cut(view: View, width: int, height: int, rng: np.random.Generator | None) -> View:
    """A window of the given size: anywhere, or without `rng` in the centre."""
    spare = np.array([view.image.shape[1] - width, view.image.shape[0] - height])
    left, top = spare // 2 if rng is None else rng.integers(spare + 1)
    return view._replace(
        image=view.image[top : top + height, left : left + width],
        keypoints=_move(view.keypoints, view.keypoints[..., :2] - (left, top)),
    )


def _mirror(view: View, swap: bool) -> View:
    x, y = view.keypoints[..., 0], view.keypoints[..., 1]
    flipped = np.stack([view.image.shape[1] - 1 - x, y], axis=-1)
    keypoints = _move(view.keypoints, flipped)
    if swap:
        keypoints = keypoints[:, MIRRORED_JOINTS]
    return view._replace(image=cv2.flip(view.image, 1), keypoints=keypoints)


def _move(keypoints: Keypoints, xy: Float[np.ndarray, "people 16 2"]) -> Keypoints:
    """The joints at `xy`, with their visibility; one that nobody annotated stays (0, 0, 0)."""
    annotated = keypoints[..., 2:] != NOT_ANNOTATED
    return np.concatenate([np.where(annotated, xy, 0.0), keypoints[..., 2:]], axis=-1)


def _jitter(
    image: UInt8[np.ndarray, "h w 3"], data: DataConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Brightness, contrast about the mean grey and saturation, as one affine map of colours."""
    spread = np.array([data.brightness, data.contrast, data.saturation])
    brightness, contrast, saturation = rng.uniform(1 - spread, 1 + spread)
    mean = float(_GREY @ cv2.mean(image)[:3])
    mix = saturation * np.eye(3) + (1 - saturation) * _GREY
    shift = np.full((3, 1), (1 - contrast) * brightness * mean)
    colours = np.hstack([contrast * brightness * mix, shift])
    return cv2.transform(image, colours)
