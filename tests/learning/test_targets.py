"""Compares heatmaps with the formula in every cell and with the reference's drawing."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import Float

from gap_jax.learning.targets import PoseTargets, draw_heatmaps
from gap_jax.model_config import PoseConfig

Maps = Float[np.ndarray, "15 15 16"]
SHAPES = [((450, 450), (15, 15)), ((96, 96), (12, 12)), ((64, 96), (4, 9))]


def _draw(
    keypoints: Float[np.ndarray, "b people 16 3"],
    radius: Float[np.ndarray, " b"],
    sides: tuple[int, int],
    cells: tuple[int, int],
    cfg: PoseConfig,
) -> PoseTargets:
    return jax.jit(lambda k, r: draw_heatmaps(k, r, sides, cells, cfg))(keypoints, radius)


def _people_on_a_lattice(
    rng: np.random.Generator, b: int, people: int, sides: tuple[int, int]
) -> Float[np.ndarray, "b people 16 3"]:
    """Draws multiples of 1/8 pixel, inside and around the crop, which float32 compares exactly."""
    high = np.array([sides[1], sides[0]])
    xy = rng.integers(-40 * 8, (high + 40) * 8, (b, people, 16, 2)) / 8
    visibility = rng.integers(0, 3, (b, people, 16, 1))
    xy[(visibility == 0)[..., 0]] = np.nan  # unannotated joints must not be used
    return np.concatenate([xy, visibility], axis=-1).astype(np.float32)


def _draw_by_formula(
    keypoints: Float[np.ndarray, "b people 16 3"],
    radius: Float[np.ndarray, " b"],
    sides: tuple[int, int],
    cells: tuple[int, int],
    cfg: PoseConfig,
) -> Float[np.ndarray, "b h w 16"]:
    (H, W), (h, w) = sides, cells
    drawn = np.zeros((len(keypoints), h, w, 16))
    for b, i, j, joint in np.ndindex(drawn.shape):
        for x, y, visibility in keypoints[b, :, joint].astype(np.float64):
            if visibility == 0:
                continue
            dy, dx = i * H / h - y, j * W / w - x
            if cfg.target == "disc":
                value = float(dy**2 + dx**2 <= float(radius[b]) ** 2)
            else:
                value = np.exp(-((dy * h / H) ** 2 + (dx * w / W) ** 2) / (2 * cfg.sigma_cells**2))
            drawn[b, i, j, joint] = max(drawn[b, i, j, joint], value)
    return drawn


@pytest.mark.parametrize(("sides", "cells"), SHAPES)
def test_disc_matches_formula_in_every_cell(sides: tuple[int, int], cells: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    keypoints = _people_on_a_lattice(rng, 3, 3, sides)
    radius = (rng.integers(20, 320, 3) / 8).astype(np.float32)
    corner_x, corner_y = 3 * sides[1] / cells[1], 3 * sides[0] / cells[0]
    keypoints[0, 0, 0] = [corner_x + radius[0], corner_y, 2]  # a cell exactly on the rim is inside
    cfg = PoseConfig(target="disc")
    targets = _draw(keypoints, radius, sides, cells, cfg)
    expected = _draw_by_formula(keypoints, radius, sides, cells, cfg)
    assert expected[0, 3, 3, 0] == 1
    assert 0.02 < expected.mean() < 0.98
    np.testing.assert_array_equal(targets.heatmaps, expected)
    np.testing.assert_array_equal(targets.valid, (keypoints[..., 2] > 0).any(axis=1))


@pytest.mark.parametrize(("sides", "cells"), SHAPES)
def test_gaussian_matches_formula_in_every_cell(
    sides: tuple[int, int], cells: tuple[int, int]
) -> None:
    keypoints = _people_on_a_lattice(np.random.default_rng(1), 2, 3, sides)
    cfg = PoseConfig(target="gaussian", sigma_cells=0.7)
    radius = np.ones(2, np.float32)
    targets = _draw(keypoints, radius, sides, cells, cfg)
    expected = _draw_by_formula(keypoints, radius, sides, cells, cfg)
    np.testing.assert_allclose(targets.heatmaps, expected, atol=2e-6)
    assert targets.heatmaps.max() <= 1  # overlapping people take the maximum


@pytest.mark.parametrize("target", ["disc", "gaussian"])
def test_overlapping_people_take_maximum(target: Any) -> None:
    one = np.zeros((1, 1, 16, 3), np.float32)
    one[..., :2], one[..., 2] = 48, 1
    cfg, radius = PoseConfig(target=target), np.full(1, 9, np.float32)
    alone = np.asarray(_draw(one, radius, (96, 96), (12, 12), cfg).heatmaps)
    pair = _draw(one.repeat(2, axis=1), radius, (96, 96), (12, 12), cfg).heatmaps
    np.testing.assert_array_equal(alone, pair)
    assert alone[0, 6, 6].tolist() == [1.0] * 16


@pytest.mark.parametrize("target", ["disc", "gaussian"])
def test_joint_outside_crop_is_valid_and_missing_joint_invalid(target: Any) -> None:
    keypoints = np.full((2, 2, 16, 3), np.nan, np.float32)
    keypoints[..., 2] = 0
    keypoints[0, 1, 4] = [-1000, 50, 1]
    keypoints[0, 0, 5] = [np.inf, 50, 1]
    cfg = PoseConfig(target=target)
    targets = _draw(keypoints, np.ones(2, np.float32), (96, 96), (12, 12), cfg)
    np.testing.assert_array_equal(targets.heatmaps, 0)
    assert np.argwhere(np.asarray(targets.valid)).tolist() == [[0, 4]]


def test_no_people_means_no_valid_joint() -> None:
    nobody, radius = np.zeros((2, 0, 16, 3), np.float32), np.ones(2, np.float32)
    targets = _draw(nobody, radius, (96, 96), (12, 12), PoseConfig())
    assert not targets.valid.any()
    assert not targets.heatmaps.any()


def _draw_reference(
    people: Float[np.ndarray, "people 16 3"],
    image: tuple[int, int],
    resized: tuple[int, int],
    crop: tuple[int, int],
    flip: bool,
) -> Maps:
    """Draws like the released code: discs on a 200-wide canvas of the image, then augmentation."""
    (width, height), canvas_w = image, 200
    canvas_h = height * canvas_w // width
    canvas = np.zeros((canvas_h, canvas_w, 16), np.uint8)
    rows, columns = np.mgrid[:canvas_h, :canvas_w]
    for person in people:
        for joint, (x, y, visibility) in enumerate(person):
            if visibility > 0:
                centre_x = int(x) * canvas_w // width
                centre_y = int(y) * canvas_h // height
                inside = (columns - centre_x) ** 2 + (rows - centre_y) ** 2 <= int(200 * 0.05) ** 2
                canvas[inside, joint] = 255
    ratio_x, ratio_y = canvas_w / resized[0], canvas_h / resized[1]
    left, top = int(crop[0] * ratio_x), int(crop[1] * ratio_y)
    cut = canvas[top : top + int(450 * ratio_y), left : left + int(450 * ratio_x)]
    if flip:
        cut = cut[:, ::-1]
    grey = cut / 255.0
    grey = grey - grey.min()
    return _resize_legacy(grey / (grey.max() + 1e-14))


def _resize_legacy(maps: Float[np.ndarray, "h w 16"]) -> Maps:
    """Bilinear at i * in / out: no half-pixel centres, no aligned corners, no antialiasing."""
    for axis in (0, 1):
        side = maps.shape[axis]
        at = np.arange(15) * side / 15
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, side - 1)
        share = np.expand_dims(at - below, tuple({0, 1, 2} - {axis}))
        maps = maps.take(below, axis) * (1 - share) + maps.take(above, axis) * share
    return maps


def _resize_like_the_reference(image: tuple[int, int]) -> tuple[int, int]:
    width, height = image
    if width > 512:
        width, height = 512, int(height * 512 / width)
    scale = 480 / min(width, height)
    return int(width * scale), int(height * scale)


def _centroids(maps: Maps) -> Float[np.ndarray, "16 2"]:
    """NaN if a map is empty."""
    weight = maps.sum(axis=(0, 1))
    cells = np.mgrid[:15, :15].reshape(2, 225)
    with np.errstate(invalid="ignore"):
        return (cells @ maps.reshape(225, 16) / weight).T


@pytest.fixture(scope="module")
def draw_discs() -> Callable[[Float[np.ndarray, "people 16 3"], float], Maps]:
    """Draws up to three people in a crop of 450 px, on 15 x 15 cells."""
    compiled = jax.jit(lambda k, r: draw_heatmaps(k, r, (450, 450), (15, 15), PoseConfig()))

    def draw(people: Float[np.ndarray, "people 16 3"], radius: float) -> Maps:
        padded = np.zeros((1, 3, 16, 3), np.float32)
        padded[0, : len(people)] = people
        heatmaps = compiled(padded, np.full(1, radius, np.float32)).heatmaps
        return np.asarray(heatmaps, np.float64)[0]

    return draw


@pytest.mark.parametrize(
    ("image", "people"),
    [((1280, 720), 1), ((1280, 720), 3), ((640, 480), 2), ((480, 640), 1), ((480, 640), 2)],
)
@pytest.mark.parametrize("flip", [False, True])
def test_disc_position_matches_reference(
    image: tuple[int, int],
    people: int,
    flip: bool,
    draw_discs: Callable[[Float[np.ndarray, "people 16 3"], float], Maps],
) -> None:
    rng = np.random.default_rng(people)
    resized = _resize_like_the_reference(image)
    radius, apart, shown, shown_by_one = 0.05 * resized[0], [], 0, 0
    for _ in range(24 // people):
        raw = np.zeros((people, 16, 3))  # 1-based pixels of the image, as the .mat has them
        raw[..., :2] = rng.uniform(1, image, (people, 16, 2))
        raw[..., 2] = rng.random((people, 16)) < 0.8
        crop = (int(rng.integers(resized[0] - 449)), int(rng.integers(resized[1] - 449)))
        moved = raw.copy()
        moved[..., :2] = (raw[..., :2] - 1) * np.divide(resized, image) - crop
        if flip:
            moved[..., 0] = 449 - moved[..., 0]
        together = draw_discs(moved, radius)
        everybody = _draw_reference(raw, image, resized, crop, flip) > 0.5
        assert (together != everybody).sum() <= 0.5 * everybody.sum()
        alone = [draw_discs(person[None], radius) for person in moved]
        np.testing.assert_array_equal(together, np.max(alone, axis=0))
        for person, ours in zip(raw, alone, strict=True):
            reference = _draw_reference(person[None], image, resized, crop, flip)
            apart.append(_centroids(ours) - _centroids(reference))
            shown += reference.any((0, 1)).sum()
            shown_by_one += (ours.any((0, 1)) != reference.any((0, 1))).sum()
    in_both = np.concatenate(apart)
    in_both = in_both[np.isfinite(in_both).all(axis=1)]
    assert len(in_both) > 100
    assert np.linalg.norm(in_both, axis=1).mean() <= 0.3
    assert np.abs(in_both.mean(axis=0)).max() <= 0.2  # its truncations add up where it flips
    assert shown_by_one <= 0.05 * shown
