"""Random erasing: its rectangle, its joints, its rate, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool

from data_pipelines.config import DataConfig
from data_pipelines.transforms import ERASED_AREA, View, augment, make_view

SIDE_PX = 48


def config(**fields: Any) -> DataConfig:
    fields = {"flip": False, "image_size_px": SIDE_PX, "short_side_px": SIDE_PX, **fields}
    return DataConfig(preprocessing="modern", **fields).resolved()


def photograph(seed: int = 0) -> View:
    """An image without noise's colours, and joints all over it."""
    rng = np.random.default_rng(seed)
    image = np.full((60, 80, 3), 128, np.uint8)
    joints = np.zeros((2, 16, 3), np.float32)
    joints[..., :2] = rng.uniform(0, (80, 60), (2, 16, 2))
    joints[..., 2] = rng.integers(0, 3, (2, 16))
    joints[joints[..., 2] == 0] = 0
    return make_view(image, joints, config())


def erased_box(image: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """The rows and columns in which some pixel is noise, as a rectangle."""
    changed = (image != 128).any(-1)
    return changed.any(1)[:, None] & changed.any(0)[None]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_rectangle_becomes_noise_and_its_joints_hidden(seed: int) -> None:
    whole = photograph(seed)
    kept = augment(whole, config(), np.random.default_rng(seed))
    erased = augment(whole, config(erasing=1.0), np.random.default_rng(seed))
    box = erased_box(erased.image)
    noise = erased.image[box]
    assert (erased.image[~box] == 128).all() and (kept.image == 128).all()
    assert (noise != 128).mean() > 0.9 and noise.std() > 30
    low, high = ERASED_AREA
    assert low - 0.02 <= box.mean() <= high + 0.02
    np.testing.assert_array_equal(erased.keypoints[..., :2], kept.keypoints[..., :2])
    x, y, before = np.moveaxis(kept.keypoints, -1, 0)
    column, row = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    inside = (column >= 0) & (column < SIDE_PX) & (row >= 0) & (row < SIDE_PX)
    inside[inside] = box[row[inside], column[inside]]
    expected = np.where(inside & (before == 2), 1, before)
    np.testing.assert_array_equal(erased.keypoints[..., 2], expected)


def test_the_share_of_erased_images_is_the_setting() -> None:
    whole, data = photograph(), config(erasing=0.25)
    erased = [
        (augment(whole, data, np.random.default_rng(seed)).image != 128).any()
        for seed in range(400)
    ]
    assert np.mean(erased) == pytest.approx(0.25, abs=0.07)


def test_erasing_changes_no_cached_image_and_is_off_by_default() -> None:
    assert config().erasing == 0
    whole = photograph()
    before, joints = whole.image.copy(), whole.keypoints.copy()
    data = config(erasing=1.0, area_range=(1.0, 1.0), aspect_range=(1.0, 1.0), short_side_px=60)
    for seed in range(5):
        augment(whole, data, np.random.default_rng(seed))
    np.testing.assert_array_equal(whole.image, before)
    np.testing.assert_array_equal(whole.keypoints, joints)
