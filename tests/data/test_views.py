"""Resizes follow their definitions, and evaluation averages over the right views."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import Float, UInt8

from data_pipelines.decode import decode
from data_pipelines.loader import evaluation_batches, training_batches
from data_pipelines.transforms import View, center_crop, evaluation_views, make_view, resize
from gap_jax.learning.sharding import globalise, make_mesh
from gap_jax.learning.state import describe_model
from gap_jax.learning.steps import jit_eval_step
from tests.support.loader_data import assert_same, config, people, photo, store, take
from tests.support.saved_runs import fill_variables, tiny_config

NOBODY = np.zeros((0, 16, 3))
VIEWS: list[tuple[str, bool, int, dict[str, Any]]] = [
    ("center", False, 1, {}),
    ("full", True, 2, {"cache": "ram"}),
    ("three", False, 3, {"preprocessing": "modern"}),
    ("five", True, 10, {"workers": 1}),
]


def tensorflow_1(
    image: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> Float[np.ndarray, "h2 w2 3"]:
    """Computes `resize_bilinear(align_corners=False)` per pixel, from the corners of pixels."""
    rows, columns = image.shape[:2]
    out = np.zeros((height, width, 3))
    for i in range(height):
        for j in range(width):
            y, x = i * rows / height, j * columns / width
            top, left = int(y), int(x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            a, b = y - top, x - left
            upper = (1 - b) * image[top, left] + b * image[top, right].astype(float)
            lower = (1 - b) * image[bottom, left] + b * image[bottom, right].astype(float)
            out[i, j] = (1 - a) * upper + a * lower
    return out


@pytest.mark.parametrize("size", [(31, 45), (17, 9), (60, 40), (40, 61), (8, 7)])
def test_the_legacy_resize_is_tensorflow_1s(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    exact = tensorflow_1(image, *size)
    rounded, cut = (
        resize(View(image, NOBODY, 1.0), *size, rule).image for rule in ("legacy", "truncated")
    )
    assert np.abs(rounded - exact).max() <= 0.51
    assert (exact - cut >= -0.01).all() and (exact - cut < 1).all()
    assert np.abs(resize(View(image, NOBODY, 1.0), *size).image - exact).max() > 5


def test_the_antialiased_resize_averages_the_covered_pixels() -> None:
    """A triangle as wide as two shrunken pixels, between half-pixel centres, cut at the border."""
    line = np.random.default_rng(1).integers(0, 256, 24)
    image = np.repeat(np.repeat(line[None, :, None], 24, 0), 3, 2).astype(np.uint8)
    weights = np.maximum(
        0, 1 - np.abs((np.arange(24) + 0.5)[None] / 3 - (np.arange(8) + 0.5)[:, None])
    )
    expected = weights @ line / weights.sum(1)
    shrunk = resize(View(image, NOBODY, 1.0), 8, 8, "antialias").image
    np.testing.assert_allclose(shrunk[4, :, 1], expected, atol=1)


def test_modern_shrinking_sees_every_pixel(tmp_path: Path) -> None:
    dots = np.zeros((256, 256, 3), np.uint8)
    dots[::8, ::8] = 255
    data = config(tmp_path, preprocessing="modern")
    whole = make_view(dots, NOBODY, data)
    assert resize(whole, 32, 32, "area").image.mean() == pytest.approx(255 / 64, abs=0.5)
    assert abs(resize(whole, 32, 32).image.mean() - 255 / 64) > 2
    assert center_crop(whole, data).image.std() < 10


@pytest.mark.parametrize("rule", ["opencv", "legacy", "antialias"])
@pytest.mark.parametrize("size", [(48, 96), (80, 40), (30, 20)])
def test_keypoints_follow_their_pixels(rule: str, size: tuple[int, int]) -> None:
    """In an image of constant slope, the colour at a joint gives its old position."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 0], image[..., 1] = 4 * np.arange(60)[None, :], 6 * np.arange(40)[:, None]
    joints = np.zeros((1, 16, 3))
    joints[0, :, 0], joints[0, :, 1] = np.linspace(5, 54, 16), np.linspace(34, 5, 16)
    joints[0, :, 2] = 2
    view = resize(View(image, joints, 3.0), *size, rule)
    for (x, y, _), (old_x, old_y, _) in zip(view.keypoints[0], joints[0], strict=True):
        left, top = int(x), int(y)
        patch = view.image[top : top + 2, left : left + 2].astype(float)
        column = patch[0, :, 0] @ [1 - (x - left), x - left]
        row = patch[:, 0, 1] @ [1 - (y - top), y - top]
        assert abs(column - 4 * old_x) <= 1.1
        assert abs(row - 6 * old_y) <= 1.1


def test_the_released_input_is_reproduced_to_a_grey_level(tmp_path: Path) -> None:
    """Resizes to width 20 in whole levels, then to short side 14, and takes the centre crop."""
    data = config(tmp_path, limit_width_px=20, resize="legacy")
    image = np.random.default_rng(2).integers(0, 256, (19, 33, 3), dtype=np.uint8)
    limited = tensorflow_1(image, 20, 11).astype(np.uint8)  # 19 * 20 / 33 = 11.5
    scaled = tensorflow_1(limited, 25, 14)  # 20 * 14 / 11 = 25.5
    view = center_crop(make_view(image, NOBODY, data), data)
    assert np.abs(view.image - scaled[1:13, 6:18]).max() <= 1.5
    assert np.abs(view.image - scaled[1:13, 6:18]).mean() <= 0.3


def test_views_are_at_their_positions(tmp_path: Path) -> None:
    """The image has 17 rows and 41 columns more than a view; a pixel's colour is its position."""
    image = np.zeros((29, 53, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(53)[None, :], np.arange(29)[:, None]

    def corners(crops: str, *, turned: bool = False) -> list[tuple[int, int]]:
        data = config(tmp_path, eval_crops=crops, short_side_px=29)
        stood = np.ascontiguousarray(image.transpose(1, 0, 2)[..., [1, 0, 2]]) if turned else image
        views = evaluation_views(make_view(stood, NOBODY, data), data)
        assert {view.image.shape for view in views} == {(12, 12, 3)}
        return [(int(view.image[0, 0, 0]), int(view.image[0, 0, 1])) for view in views]

    assert corners("center") == [(20, 8)]
    assert corners("three") == [(0, 8), (20, 8), (41, 8)]
    assert corners("three", turned=True) == [(8, 0), (8, 20), (8, 41)]
    assert corners("five") == [(0, 0), (41, 0), (0, 17), (41, 17), (20, 8)]
    data = config(tmp_path, eval_crops="full", eval_flip=True)
    whole, mirrored = evaluation_views(make_view(image, NOBODY, data), data)
    np.testing.assert_array_equal(whole.image, resize(View(image, NOBODY, 1.0), 12, 12).image)
    np.testing.assert_array_equal(mirrored.image, whole.image[:, ::-1])


@pytest.mark.slow
@pytest.mark.parametrize(("crops", "flip", "views", "fields"), VIEWS)
def test_batches_hold_every_view_of_every_record_once(
    tmp_path: Path, crops: str, flip: bool, views: int, fields: dict[str, Any]
) -> None:
    stated = store(tmp_path, 5, labels={2: -1})
    data = config(tmp_path, eval_crops=crops, eval_flip=flip, **fields)
    first, last = list(evaluation_batches(data, stated, batch_size=4))
    assert first.image.shape == (4, *([] if views == 1 else [views]), 12, 12, 3)
    assert [*first.id, *last.id] == [0, 1, 2, 3, 4, -1, -1, -1]
    assert [*first.weight, *last.weight] == [1, 1, 0, 1, 1, 0, 0, 0]
    assert not last.image[1:].any()
    for row in range(4):
        whole = make_view(decode(photo(row)), people(row % 3, row), data)
        due = evaluation_views(whole, data)
        images = first.image[row].reshape(views, 12, 12, 3)
        np.testing.assert_array_equal(images, [view.image for view in due])
        np.testing.assert_allclose(
            first.keypoints[row, : row % 3], due[0].keypoints, rtol=1e-5, atol=1e-5
        )
    plain = dataclasses.replace(data, eval_crops="center", eval_flip=False).resolved()
    with_views, without = (
        take(training_batches(each, stated, seed=0, batch_size=4), 2) for each in (data, plain)
    )
    assert_same(with_views, without)


@pytest.mark.slow
def test_the_logits_of_an_image_are_the_mean_over_its_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPU the views are unrolled, on other devices they are looped over."""
    cfg = tiny_config(tmp_path, "data.eval_crops=three")
    model, shapes = describe_model(cfg, 3)
    variables = fill_variables(shapes, 0)
    stated = store(tmp_path, 8)
    mesh = make_mesh(cfg, jax.devices()[:1])
    with evaluation_batches(
        dataclasses.replace(cfg.data, eval_split="train").resolved(), stated, batch_size=8
    ) as batches:
        batch = next(batches)
    apart = [
        jit_eval_step(model, mesh)(
            variables, globalise([batch._replace(image=batch.image[:, view])], mesh)
        )
        for view in range(3)
    ]
    assert np.ptp(np.stack(apart), axis=0).max() > 0.01
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        together = jit_eval_step(model, mesh, 3)(variables, globalise([batch], mesh))
        np.testing.assert_allclose(together, np.mean(apart, axis=0), rtol=1e-4, atol=1e-6)
