"""Joints move with their pixels in each crop, resize and flip; sizes and colours are exact."""

import dataclasses
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, UInt8

from data_pipelines.config import DataConfig
from data_pipelines.example import MIRRORED_JOINTS
from data_pipelines.transforms import View, augment, center_crop, make_view

SLOPE, HALF_PERIOD = 8, 32  # grey levels per pixel of the wave below, pixels per rise or fall
MARGIN = 6  # joints keep this far from the wave's corners, where it is not straight


def config(**fields: Any) -> DataConfig:
    return DataConfig(**{"image_size_px": 32, "short_side_px": 36, **fields}).resolved()


def wave(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Rises and falls linearly between 0 and 256, so that a level gives a position."""
    return SLOPE * (HALF_PERIOD - np.abs(x % (2 * HALF_PERIOD) - HALF_PERIOD))


def waves(width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Makes an image whose red gives x and whose green gives y."""
    image = np.zeros((height, width, 3))
    image[..., 0] = wave(np.arange(width, dtype=float))[None, :]
    image[..., 1] = wave(np.arange(height, dtype=float))[:, None]
    return np.minimum(image, 255).astype(np.uint8)


def joints_on(width: int, height: int, seed: int, people: int = 2) -> Float[np.ndarray, "p 16 3"]:
    """Joints away from the corners of the wave and from the border, each eighth not annotated."""
    rng = np.random.default_rng(seed)
    columns, rows = (
        [x for x in range(size) if MARGIN <= x % HALF_PERIOD <= HALF_PERIOD - MARGIN]
        for size in (width - 2, height - 2)
    )
    joints = np.zeros((people, 16, 3), np.float32)
    joints[..., 0] = rng.choice(columns, (people, 16))
    joints[..., 1] = rng.choice(rows, (people, 16))
    joints[..., 2] = rng.choice([1, 2], (people, 16))
    joints[:, ::8] = 0
    return joints


def at(image: UInt8[np.ndarray, "h w 3"], x: float, y: float) -> Float[np.ndarray, " 3"]:
    """Interpolates the colour between pixels."""
    left, top = math.floor(x), math.floor(y)
    a, b = x - left, y - top
    patch = image[top : top + 2, left : left + 2].astype(float)
    upper, lower = (patch[row, 0] * (1 - a) + patch[row, 1] * a for row in range(2))
    return upper * (1 - b) + lower * b


def seen_joints(view: View, whole: Float[np.ndarray, "p 16 3"]) -> int:
    """Checks each annotated joint well inside the crop; returns their number."""
    height, width = view.image.shape[:2]
    seen = 0
    for (x, y, visible), (old_x, old_y, _) in zip(
        view.keypoints.reshape(-1, 3), whole.reshape(-1, 3), strict=True
    ):
        if visible and 1 <= x < width - 2 and 1 <= y < height - 2:
            expected = wave(np.array([old_x, old_y]))
            difference = np.abs(at(view.image, x, y)[:2] - expected) / SLOPE
            assert difference.max() <= 0.5, f"joint ({old_x}, {old_y}) is {difference} px off"
            seen += 1
    return seen


configs = st.builds(
    config,
    preprocessing=st.sampled_from(["reference", "modern"]),
    image_size_px=st.integers(24, 60),
    short_side_px=st.integers(60, 90),
    limit_width_px=st.sampled_from([0, 50, 70, 100]),
    area_range=st.sampled_from([(0.1, 0.3), (0.35, 1.0), (1.0, 1.0)]),
    aspect_range=st.sampled_from([(0.75, 4 / 3), (0.4, 0.5), (1.0, 1.0), (2.0, 3.0)]),
    swap_on_flip=st.just(False),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    data=configs,
    width=st.integers(30, 130),
    height=st.integers(30, 130),
    seed=st.integers(0, 2**32),
)
def test_joints_stay_on_their_pixels(data: DataConfig, width: int, height: int, seed: int) -> None:
    people = joints_on(width, height, seed)
    whole = make_view(waves(width, height), people, data)
    for view in (augment(whole, data, np.random.default_rng(seed)), center_crop(whole, data)):
        assert view.image.shape == (data.image_size_px, data.image_size_px, 3)
        assert view.image.dtype == np.uint8
        assert np.isfinite(view.keypoints).all()
        assert math.isfinite(view.disc_radius)
        np.testing.assert_array_equal(view.keypoints[..., 2], people[..., 2])
        assert not view.keypoints[people[..., 2] == 0].any()
        seen_joints(view, people)


def test_the_check_of_joints_finds_a_moved_joint() -> None:
    data = config(swap_on_flip=False)
    people = joints_on(120, 90, 0)
    whole = make_view(waves(120, 90), people, data)
    assert seen_joints(center_crop(whole, data), people) > 5
    view = center_crop(whole, data)
    moved = view._replace(keypoints=view.keypoints + np.array([1, 0, 0]))
    with pytest.raises(AssertionError, match="px off"):
        seen_joints(moved, people)


def bilinear(image: Float[np.ndarray, "h w 3"], width: int, height: int) -> np.ndarray:
    """Computes the definition per pixel in float64: half-pixel centres, the border repeated."""
    old_height, old_width = image.shape[:2]
    result = np.zeros((height, width, 3))
    for row in range(height):
        y = min(max((row + 0.5) * old_height / height - 0.5, 0), old_height - 1)
        for column in range(width):
            x = min(max((column + 0.5) * old_width / width - 0.5, 0), old_width - 1)
            left, top = int(x), int(y)
            right, below = min(left + 1, old_width - 1), min(top + 1, old_height - 1)
            a, b = x - left, y - top
            upper = image[top, left] * (1 - a) + image[top, right] * a
            lower = image[below, left] * (1 - a) + image[below, right] * a
            result[row, column] = upper * (1 - b) + lower * b
    return result


@pytest.mark.parametrize(
    ("size", "limited", "resized"),
    [
        ((90, 61), (50, 34), (53, 36)),
        ((41, 83), (41, 83), (36, 73)),
        ((77, 77), (50, 50), (36, 36)),
    ],
)
def test_reference_geometry_equals_its_definition(
    size: tuple[int, int], limited: tuple[int, int], resized: tuple[int, int]
) -> None:
    data = config(limit_width_px=50)
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    expected = np.rint(bilinear(image.astype(float), *limited))
    expected = bilinear(expected, *resized)
    left, top = (resized[0] - 32) // 2, (resized[1] - 32) // 2
    expected = expected[top : top + 32, left : left + 32]
    view = center_crop(make_view(image, np.zeros((0, 16, 3), np.float32), data), data)
    assert np.abs(view.image - expected).max() < 2.5
    assert np.abs(view.image - expected).mean() < 0.5


def test_the_papers_sizes() -> None:
    data = DataConfig().resolved()
    whole = make_view(np.zeros((720, 1280, 3), np.uint8), np.zeros((0, 16, 3), np.float32), data)
    assert whole.image.shape == (288, 512, 3)
    view = center_crop(whole, data)
    assert view.image.shape == (450, 450, 3)
    assert view.disc_radius == pytest.approx(0.05 * 853.33, rel=1e-3)
    narrow = make_view(np.zeros((900, 400, 3), np.uint8), np.zeros((0, 16, 3), np.float32), data)
    assert narrow.image.shape == (900, 400, 3)
    assert center_crop(narrow, data).disc_radius == pytest.approx(0.05 * 480, rel=1e-3)


@pytest.mark.parametrize("preprocessing", ["reference", "modern"])
@pytest.mark.parametrize("limit", [0, 512])
@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (2, 3), (5000, 2), (2, 5000), (1, 65000), (65000, 1), (449, 451)]
)
def test_extreme_sizes_give_exact_crops(
    preprocessing: str, limit: int, width: int, height: int
) -> None:
    data = config(preprocessing=preprocessing, limit_width_px=limit)
    people = np.full((1, 16, 3), 1, np.float32)
    image = np.full((height, width, 3), 90, np.uint8)
    whole = make_view(image, people, data)
    for view in (augment(whole, data, np.random.default_rng(0)), center_crop(whole, data)):
        assert view.image.shape == (32, 32, 3)
        assert (view.image == 90).all()
        assert np.isfinite(view.keypoints).all()
        assert 0 < view.disc_radius < math.inf


def test_crops_of_a_long_strip_cover_it() -> None:
    data = config(limit_width_px=0, flip=False)
    strip = np.repeat(np.arange(250, dtype=np.uint8), 4)[None, :, None].repeat(3, axis=2)
    whole = make_view(strip.repeat(10, axis=0), np.zeros((0, 16, 3), np.float32), data)
    starts = [
        int(augment(whole, data, np.random.default_rng(seed)).image[0, 0, 0]) for seed in range(200)
    ]
    assert min(starts) < 30
    assert max(starts) > 200


def test_a_long_strip_needs_little_memory() -> None:
    data = DataConfig(limit_width_px=0).resolved()
    whole = make_view(np.zeros((65000, 1, 3), np.uint8), np.zeros((0, 16, 3), np.float32), data)
    tracemalloc.start()
    augment(whole, data, np.random.default_rng(0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25


def flip_of(
    data: DataConfig, people: Float[np.ndarray, "p 16 3"], seed: int
) -> tuple[View, View, bool]:
    """Returns the view with and without flips allowed, and whether it was flipped."""
    whole = make_view(waves(80, 60), people, data)
    plain = dataclasses.replace(data, flip=False)
    still = augment(whole, plain, np.random.default_rng(seed))
    view = augment(whole, data, np.random.default_rng(seed))
    return view, still, not np.array_equal(view.image, still.image)


@pytest.mark.parametrize("preprocessing", ["reference", "modern"])
@pytest.mark.parametrize("swap", [True, False])
def test_a_flip_mirrors_pixels_and_joints_and_swaps_left_with_right(
    preprocessing: str, swap: bool
) -> None:
    people = joints_on(80, 60, 1)
    people[1] = 0  # a person without annotated joints
    data = config(preprocessing=preprocessing, swap_on_flip=swap)
    flips = 0
    for seed in range(40):
        view, still, flipped = flip_of(data, people, seed)
        flips += flipped
        if not flipped:
            np.testing.assert_array_equal(view.keypoints, still.keypoints)
            continue
        np.testing.assert_array_equal(view.image, still.image[:, ::-1])
        expected = still.keypoints.copy()
        expected[..., 0] = np.where(expected[..., 2] > 0, 31 - expected[..., 0], 0)
        if swap:
            expected = expected[:, list(MIRRORED_JOINTS)]
        np.testing.assert_allclose(view.keypoints, expected, atol=1e-9)
        assert not view.keypoints[1].any()
    assert 10 <= flips <= 30


@pytest.mark.slow
def test_half_of_the_crops_are_mirrored() -> None:
    image = np.zeros((36, 36, 3), np.uint8)
    image += np.arange(36, dtype=np.uint8)[None, :, None]
    whole = make_view(image, np.zeros((0, 16, 3), np.float32), config())
    crops = (augment(whole, config(), np.random.default_rng(seed)).image for seed in range(1000))
    assert 450 <= sum(bool(crop[0, 0, 0] > crop[0, 1, 0]) for crop in crops) <= 550


def test_random_crops_reach_every_corner() -> None:
    data = config(limit_width_px=0, flip=False, short_side_px=37)
    image = np.zeros((37, 41, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(41)[None, :], np.arange(37)[:, None]
    whole = make_view(image, np.zeros((0, 16, 3), np.float32), data)
    corners = {
        tuple(augment(whole, data, np.random.default_rng(seed)).image[0, 0, :2].tolist())
        for seed in range(600)
    }
    assert corners == {(x, y) for x in range(10) for y in range(6)}
    assert center_crop(whole, data).image[0, 0, :2].tolist() == [4, 2]


def test_modern_crops_keep_to_their_area_and_aspect() -> None:
    data = config(
        preprocessing="modern", area_range=(0.2, 0.5), aspect_range=(1.2, 2.4), flip=False
    )
    people = np.zeros((1, 16, 3), np.float32)
    people[0, 0], people[0, 1] = (0, 0, 2), (100, 100, 2)
    whole = make_view(np.zeros((300, 400, 3), np.uint8), people, data)
    shares, aspects = [], []
    for seed in range(300):
        view = augment(whole, data, np.random.default_rng(seed))
        across, down = 32 / ((view.keypoints[0, 1] - view.keypoints[0, 0])[:2] / 100)
        shares.append(across * down / (300 * 400))
        aspects.append(across / down)
        scale = math.sqrt(32 / across * 32 / down)
        assert view.disc_radius == pytest.approx(0.05 * 400 * scale, rel=1e-6)
    assert 0.19 < min(shares) < 0.22
    assert 0.46 < max(shares) < 0.51
    assert 1.17 < min(aspects) < 1.3
    assert 2.2 < max(aspects) < 2.45


def test_make_view_does_not_change_its_input() -> None:
    data = config(limit_width_px=50)
    image, people = waves(100, 60), joints_on(100, 60, 0)
    kept_image, kept_people = image.copy(), people.copy()
    for seed in range(4):
        augment(make_view(image, people, data), data, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, kept_image)
    np.testing.assert_array_equal(people, kept_people)
