"""The geometry and colours of a training or evaluation crop; people move with their pixels.

A resize is bilinear by one of three rules (`data.resize`). `opencv` and `antialias` move a point at
x to (x + 0.5) * scale - 0.5, the latter with a window that grows as the image shrinks (Pillow's and
torchvision's); `legacy` (TensorFlow 1's) moves it to x * scale. With `opencv`, `modern` averages
areas where an image shrinks to half or less, as bilinear would skip pixels there.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

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
    lower = max(1, _whole(height * limit / width, data))
    return resize(view, limit, lower, rule=data.resize, cut_off=data.resize == "legacy")


def augment(view: View, data: DataConfig, rng: np.random.Generator) -> View:
    """A random training crop, perhaps mirrored, perhaps with other colours."""
    if data.preprocessing == "reference":
        view = _crop_of_short_side(view, data, rng)
    else:
        view = _cut(view, *_random_region(view, data, rng), rng)
        view = _squeeze(view, data)
    if data.flip and rng.random() < 0.5:
        view = _mirror(view, data.swap_on_flip)
    if data.brightness or data.contrast or data.saturation:
        view = view._replace(image=_jitter(view.image, data, rng))
    return view


def center(view: View, data: DataConfig) -> View:
    """The centre crop."""
    return _crop_of_short_side(view, data, None)


def evaluation_views(view: View, data: DataConfig) -> list[View]:
    """The `data.eval_views` squares that evaluation sees; a mirrored one follows all that are not.

    `three` lie along the longer side of the resized image, at its ends and in its centre; `five` in
    its corners and centre; `full` is the whole image, whose aspect is lost.
    """
    if data.eval_crops == "full":
        views = [_squeeze(view, data)]
    else:
        view = _scale_short_side(view, data, None)
        side = data.image_size_px
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
        views = [_window(view, left, top, side, side) for left, top in corners]
    if data.eval_flip:
        views += [_mirror(each, data.swap_on_flip) for each in views]
    return views


def _squeeze(view: View, data: DataConfig) -> View:
    side = data.image_size_px
    return resize(view, side, side, smooth=_is_smooth(data), rule=data.resize)


def _crop_of_short_side(view: View, data: DataConfig, rng: np.random.Generator | None) -> View:
    view = _scale_short_side(view, data, rng)
    return _cut(view, data.image_size_px, data.image_size_px, rng)


def _scale_short_side(view: View, data: DataConfig, rng: np.random.Generator | None) -> View:
    height, width = view.image.shape[:2]
    longest = LONGEST_ASPECT * min(height, width)
    if max(height, width) > longest:
        view = _cut(view, min(width, longest), min(height, longest), rng)
        height, width = view.image.shape[:2]
    scale = data.short_side_px / min(height, width)
    across, down = (_whole(side * scale, data) for side in (width, height))
    return resize(view, across, down, smooth=_is_smooth(data), rule=data.resize)


def _is_smooth(data: DataConfig) -> bool:
    return data.preprocessing == "modern"


def _whole(side: float, data: DataConfig) -> int:
    """A side in whole pixels; the released code cuts fractions off."""
    return math.floor(side + 1e-6) if data.resize == "legacy" else round(side)


def _random_region(view: View, data: DataConfig, rng: np.random.Generator) -> tuple[int, int]:
    """A width and height of the drawn area and aspect, scaled down where they do not fit."""
    height, width = view.image.shape[:2]
    area = rng.uniform(*data.area_range) * width * height
    aspect = math.exp(rng.uniform(*np.log(data.aspect_range)))
    across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
    fit = min(1.0, width / across, height / down)
    return max(1, round(across * fit)), max(1, round(down * fit))


def resize(
    view: View,
    width: int,
    height: int,
    *,
    smooth: bool = False,
    rule: str = "opencv",
    cut_off: bool = False,
) -> View:
    """The view at another size; `smooth` averages areas where `opencv` shrinks to half or less.

    `legacy` rounds colours, or cuts their fractions off.
    """
    old_height, old_width = view.image.shape[:2]
    scale = np.array([width / old_width, height / old_height])
    xy = view.keypoints[..., :2]
    moved = xy * scale if rule == "legacy" else (xy + 0.5) * scale - 0.5
    return View(
        _resample(view.image, width, height, scale, smooth, rule, cut_off),
        _move(view.keypoints, moved),
        view.disc_radius * math.sqrt(scale.prod()),
    )


def _resample(
    image: UInt8[np.ndarray, "h w 3"],
    width: int,
    height: int,
    scale: Float[np.ndarray, " 2"],
    smooth: bool,
    rule: str,
    cut_off: bool,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    match rule:
        case "legacy":
            moved = cv2.warpAffine(
                image.astype(np.float32) if cut_off else image,
                np.diag(1 / scale) @ np.eye(2, 3),
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            return (moved + np.float32(1e-3)).astype(np.uint8) if cut_off else moved
        case "antialias":
            whole = Image.fromarray(image)
            return np.array(whole.resize((width, height), Image.Resampling.BILINEAR))
    method = cv2.INTER_AREA if smooth and scale.max() <= 0.5 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def _cut(view: View, width: int, height: int, rng: np.random.Generator | None) -> View:
    """A window of the given size: anywhere, or without `rng` in the centre."""
    spare = np.array([view.image.shape[1] - width, view.image.shape[0] - height])
    left, top = spare // 2 if rng is None else rng.integers(spare + 1)
    return _window(view, int(left), int(top), width, height)


def _window(view: View, left: int, top: int, width: int, height: int) -> View:
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
