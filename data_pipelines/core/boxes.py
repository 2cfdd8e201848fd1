"""Computes with boxes: (left, top, right, bottom) in pixels, where pixel i spans i to i + 1.

A box without area is absent, and holds zeros.
"""

import numpy as np
from jaxtyping import Float

Boxes = Float[np.ndarray, "... 4"]
JOINTS_MARGIN = 0.1  # on each side of a person's joints, of the longer side of their extent


def find_areas(boxes: Boxes) -> Float[np.ndarray, "..."]:
    """Computes the areas of boxes; that of a reversed one is 0."""
    return np.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(-1)


def clip(boxes: Boxes, width_px: int, height_px: int) -> Boxes:
    """Clips boxes to an image; one that is cut to nothing becomes absent."""
    inside = np.clip(boxes, 0, np.array([width_px, height_px] * 2, boxes.dtype))
    return np.where(find_areas(inside)[..., None] > 0, inside, 0)


def join(one: Boxes, other: Boxes) -> Boxes:
    """Returns the smallest boxes around both; an absent box adds nothing."""
    least, most = np.minimum(one, other), np.maximum(one, other)
    both = np.concatenate([least[..., :2], most[..., 2:]], -1)
    has_one, has_other = (find_areas(each)[..., None] > 0 for each in (one, other))
    return np.where(has_one & has_other, both, np.where(has_one, one, other))


def around_joints(
    keypoints: Float[np.ndarray, "people 16 3"], margin: float = JOINTS_MARGIN
) -> Float[np.ndarray, "people 4"]:
    """Returns the extent of each person's annotated joints, grown; absent without any.

    A joint at x is the centre of a pixel that spans x to x + 1.
    """
    xy, is_annotated = keypoints[..., :2], keypoints[..., 2:] > 0
    low = np.where(is_annotated, xy, np.inf).min(1)
    high = np.where(is_annotated, xy, -np.inf).max(1) + 1
    has_joints = is_annotated.any(1)
    extent = np.where(has_joints, np.concatenate([low, high], 1), 0)
    grown = margin * (extent[:, 2:] - extent[:, :2]).max(1, keepdims=True)
    return np.where(has_joints, extent + grown * (-1, -1, 1, 1), 0).astype(np.float32)


def find_overlaps(boxes: Boxes, others: Boxes) -> Float[np.ndarray, "..."]:
    """Computes intersection over union of boxes and others, broadcast; 0 if both are absent."""
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., 2:], others[..., 2:])
    shared = find_areas(np.concatenate([low, high], -1))
    union = find_areas(boxes) + find_areas(others) - shared
    return shared / np.where(union > 0, union, 1)
