"""Boxes: geometry and secondary regions against loops in float64; they stay on their pixels."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from data_pipelines.config import DataConfig
from data_pipelines.core import boxes, regions
from data_pipelines.core.errors import ConfigError
from data_pipelines.transforms import (
    View,
    augment,
    center_crop,
    evaluation_views,
    feature_views,
    make_view,
    resize,
)

NOBODY = np.zeros((1, 16, 3), np.float32)


def draw_boxes(seed: int, count: int, side: int = 64) -> Float[np.ndarray, "n 4"]:
    """Boxes within and beyond a square, a tenth of them absent and a tenth of single pixels."""
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.uniform(-0.3 * side, 1.3 * side, (count, 2, 2)), 1).reshape(count, 4)
    drawn[::10] = 0
    drawn[5::10, 2:] = drawn[5::10, :2] + 1
    return drawn


def overlap(one: Any, other: Any) -> float:
    """Computes intersection over union of two boxes, as it is defined."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = width * height if width > 0 and height > 0 else 0.0
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / union if union > 0 else 0.0


def test_overlaps_equal_a_loop() -> None:
    one, other = draw_boxes(0, 60), draw_boxes(1, 50)
    found = boxes.find_overlaps(one[:, None], other)
    expected = [[overlap(each.tolist(), twin.tolist()) for twin in other] for each in one]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found > 0).sum() > 300
    np.testing.assert_allclose(boxes.find_overlaps(one, one), (boxes.find_areas(one) > 0) * 1.0)


def test_clipping_keeps_the_pixels_of_an_image() -> None:
    given_boxes = np.floor(draw_boxes(2, 200))
    for box, clipped in zip(given_boxes, boxes.clip(given_boxes, 64, 40), strict=True):
        canvas = np.zeros((200, 200), bool)  # its corner lies 50 pixels before the image
        left, top, right, bottom = (box + 50).astype(int)
        canvas[top:bottom, left:right] = True
        rows, columns = (np.flatnonzero(canvas[50:90, 50:114].any(axis)) for axis in (1, 0))
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if rows.size else [0] * 4
        assert clipped.tolist() == expected


def test_joining_ignores_an_absent_box() -> None:
    one, other = np.array([[3.0, 4, 5, 6]]), np.array([[1.0, 5, 4, 9]])
    assert boxes.join(one, other).tolist() == [[1, 4, 5, 9]]
    for pair in ((one, 0 * one), (0 * one, one)):
        assert boxes.join(*pair).tolist() == one.tolist()
    assert not boxes.join(0 * one, 0 * one).any()


def test_a_box_around_joints_spans_their_pixels() -> None:
    people = np.zeros((3, 16, 3), np.float32)
    people[0, 4] = 10, 20, 2
    people[0, 9] = 30, 60, 1
    people[1, 0] = 7, 8, 1
    assert boxes.around_joints(people, margin=0.0).tolist() == [
        [10, 20, 31, 61], [7, 8, 8, 9], [0, 0, 0, 0],
    ]  # fmt: skip
    grown = boxes.around_joints(people)
    np.testing.assert_allclose(grown[0], [5.9, 15.9, 35.1, 65.1], rtol=1e-6)
    assert not grown[2].any()


@pytest.mark.parametrize("allowed", [(0.2, 0.75), (0.4, 0.5)])
def test_secondary_regions_overlap_as_allowed(allowed: tuple[float, float]) -> None:
    people = boxes.clip(draw_boxes(3, 40), 64, 64).astype(np.float32)
    people[1] = 0, 0, 64, 64  # the whole crop
    rng = np.random.default_rng(0)
    drawn = regions.draw_regions(people, 64, 10, allowed, rng)
    assert drawn.shape == (40, 10, 4) and drawn.dtype == np.float32
    assert drawn.min() >= 0 and drawn.max() <= 64
    shown = boxes.find_areas(people) > 0
    assert not drawn[~shown].any() and (~shown).sum() > 3
    for person, own in zip(people[shown].tolist(), drawn[shown], strict=True):
        assert (boxes.find_areas(own) > 0).sum() >= 8  # a sliver at the border has few
        for region in own[own.any(1)].tolist():
            assert allowed[0] - 1e-5 <= overlap(person, region) <= allowed[1] + 1e-5
    again = regions.draw_regions(people, 64, 10, allowed, np.random.default_rng(0))
    assert np.array_equal(drawn, again)
    other = regions.draw_regions(people, 64, 10, allowed, np.random.default_rng(1))
    assert (drawn != other).any((1, 2))[shown].all()


def test_regions_are_all_allowed_candidates_and_padding() -> None:
    person = np.array([[20, 24, 40, 44]], np.float32)
    candidates = regions.list_candidates(person.astype(float), 64)[0]
    expected = {
        tuple(each.astype(np.float32).tolist())
        for each in candidates
        if 0.2 <= overlap(person[0].tolist(), each.tolist()) <= 0.75
    }
    rng = np.random.default_rng(0)
    drawn = regions.draw_regions(person, 64, 900, (0.2, 0.75), rng)[0]
    assert drawn.shape == (900, 4) and len(candidates) < 900
    shown = boxes.find_areas(drawn) > 0
    assert {tuple(each) for each in drawn[shown].tolist()} == expected
    assert not drawn[~shown].any() and 100 < len(expected) < len(candidates)


def config(**fields: Any) -> DataConfig:
    return DataConfig(**{"image_size_px": 40, "short_side_px": 44, **fields}).resolved()


def planted(width: int, height: int, box: tuple[int, int, int, int], data: DataConfig) -> View:
    """Makes the view of a black image with a white square and its box."""
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = 255
    return make_view(image, NOBODY, data, np.array([box], np.float32), np.array([2]))


def check_square(view: View, tolerance: float = 1.0) -> bool:
    """Checks that the box is where the square is; returns whether the crop shows it."""
    bright = view.image.min(2) > 127
    (box,) = view.boxes
    assert view.person_labels.tolist() == [2]
    height, width = bright.shape
    assert 0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height
    if not bright.any():
        assert (box[2:] - box[:2]).min() <= tolerance
        return False
    rows, columns = (np.flatnonzero(bright.any(axis)) for axis in (1, 0))
    square = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(box - square).max() <= tolerance, f"{box} is not on {square}"
    return True


configs = st.builds(
    config,
    preprocessing=st.sampled_from(["reference", "modern"]),
    image_size_px=st.integers(30, 60),
    short_side_px=st.integers(60, 90),
    limit_width_px=st.sampled_from([0, 70]),
    area_range=st.sampled_from([(0.1, 0.3), (0.35, 1.0)]),
    resize=st.sampled_from(["opencv", "legacy", "antialias"]),
    eval_crops=st.sampled_from(["center", "full", "three", "five"]),
    eval_flip=st.booleans(),
    erasing=st.just(0.0),
    feature_views=st.just(4),
)


@settings(max_examples=60, deadline=None)
@given(
    data=configs,
    size=st.tuples(st.integers(50, 130), st.integers(50, 130)),
    seed=st.integers(0, 2**32),
)
def test_boxes_stay_on_a_planted_square(data: DataConfig, size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = size
    left, top = rng.integers(0, (width - 12, height - 12))
    right = left + rng.integers(12, width - left, endpoint=True)
    bottom = top + rng.integers(12, height - top, endpoint=True)
    whole = planted(width, height, (int(left), int(top), int(right), int(bottom)), data)
    views = [augment(whole, data, rng), center_crop(whole, data)]
    views += [*evaluation_views(whole, data), *feature_views(whole, data, 3)]
    for view in views:
        side = view.image.shape[0]
        check_square(view, 1.0 + side / 40)  # a pixel of the image may be several of the crop


def test_crops_and_mirror_images_are_exact() -> None:
    data = config(image_size_px=40, short_side_px=60, limit_width_px=0, eval_crops="five",
                  eval_flip=True)  # fmt: skip
    shown = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        left, top = rng.integers(0, 50, 2).tolist()
        whole = planted(80, 60, (left, top, left + 25, min(60, top + 20)), data)
        views = [augment(whole, data, rng), *evaluation_views(whole, data)]
        shown += sum(check_square(view, 0.0) for view in views)
    assert shown > 200


@pytest.mark.parametrize("rule", ["opencv", "legacy", "antialias", "area", "truncated"])
@pytest.mark.parametrize("size", [(90, 90), (30, 30), (120, 40)])
def test_a_resized_box_is_exact(rule: str, size: tuple[int, int]) -> None:
    """Its edges are where the resized square has half its brightness, to a tenth of a pixel."""
    view = planted(60, 60, (15, 20, 45, 50), config())
    resized = resize(view, *size, rule)
    (box,) = resized.boxes
    level = resized.image[..., 0].astype(float)
    across, down = level[size[1] * 35 // 60], level[:, size[0] * 30 // 60]
    # the area under a profile is the width of the square, and its centre of mass is the middle
    for profile, low, high in ((across, box[0], box[2]), (down, box[1], box[3])):
        weights = profile / profile.max()
        assert weights.sum() == pytest.approx(high - low, abs=0.3)
        middle = (weights * (np.arange(len(profile)) + 0.5)).sum() / weights.sum()
        assert middle == pytest.approx((low + high) / 2, abs=0.26)


def test_an_absent_box_stays_absent_and_erasing_leaves_boxes() -> None:
    data = config(preprocessing="modern", erasing=1.0, area_range=(0.9, 1.0))
    plain = dataclasses.replace(data, erasing=0.0)
    image = np.full((60, 60, 3), 200, np.uint8)
    both = np.array([[0, 0, 0, 0], [10, 10, 50, 50]], np.float32)
    whole = make_view(image, NOBODY.repeat(2, 0), data, both, np.array([1, 2]))
    erased, kept = (augment(whole, each, np.random.default_rng(4)) for each in (data, plain))
    assert not np.array_equal(erased.image, kept.image)
    np.testing.assert_array_equal(erased.boxes, kept.boxes)
    assert not kept.boxes[0].any() and boxes.find_areas(kept.boxes[1:]) > 0
    for view in evaluation_views(whole, config(eval_crops="five", eval_flip=True)):
        assert not view.boxes[0].any()


def test_reversed_overlaps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.region_iou=\(0.8, 0.2\) is reversed; set data"):
        config(region_iou=(0.8, 0.2))
