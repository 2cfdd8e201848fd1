"""Maps lie on the photograph where the network saw it: through EXIF, resize and crop."""

import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image, ImageOps

from data_pipelines.config import DataConfig
from data_pipelines.core.errors import ConfigError
from data_pipelines.transforms import evaluation_views, make_view
from gap_jax.config import Config
from gap_jax.learning.state import split_network
from gap_jax.models.cells import Axis, Grid
from gap_jax.models.network import Network
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import LinearSaliency, UniformSaliency
from gap_jax.prediction import overlay
from gap_jax.prediction.answer import Answer
from gap_jax.prediction.colours import to_grey
from gap_jax.prediction.overlay import spread
from gap_jax.prediction.photograph import prepare
from gap_jax.prediction.predictor import Predictor
from gap_jax.saved.model import Opened, Origin
from tests.support.bright_head import (
    CELL_PX,
    Brightness,
    bright_head,
    bright_joints,
    centre_of,
)  # fmt: skip
from tests.support.tiny_data import CLASSES

SIDE = 48
SETTINGS = (
    {},
    {"preprocessing": "modern"},
    {"limit_width_px": 70, "resize": "legacy"},
    {"eval_crops": "full", "resize": "antialias"},
    {"eval_crops": "three", "eval_flip": True},
    {"eval_crops": "five"},
)


def settings(**changed: Any) -> DataConfig:
    sizes = {"image_size_px": SIDE, "short_side_px": 56, "limit_width_px": 180}
    return DataConfig(name="mpii", **{**sizes, **changed}).resolved()


@functools.cache
def open_predictor(network: Network | None = None, **changed: Any) -> Predictor:
    """Opens a network, by default one whose bottom-up map is brightness, without a run."""
    model, variables = split_network(network) if network else bright_head()
    cfg = Config(data=settings(**changed))
    cfg.train.batch_size = cfg.eval.batch_size = 8
    cfg.train.accumulate = 1
    origin = Origin("made", 0, "raw", "0", {})
    return Predictor(
        Opened(Path("made"), cfg.resolved(), CLASSES, origin, model, variables, is_exported=True)
    )


def plant(width: int, height: int, x: int, y: int, half: int = 6) -> np.ndarray:
    """Makes a black photograph with a white square around a pixel."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[y - half : y + half + 1, x - half : x + half + 1] = 255
    return photo


def cell_of(answer: Answer, width: int, height: int) -> np.ndarray:
    """Returns the width and height of a cell in pixels of the photograph."""
    place = answer.placement
    assert (place.width, place.height) == (width, height)
    return CELL_PX / np.array([place.columns.scale, place.rows.scale])


@pytest.mark.parametrize("changed", SETTINGS, ids=str)
def test_map_of_a_square_lies_on_the_square(changed: dict[str, Any]) -> None:
    predictor = open_predictor(**changed)
    planted = [
        (width, height, width // 2 + dx, height // 2 + dy)
        for width, height in ((90, 60), (60, 90), (311, 200))
        for dx, dy in ((0, 0), (-13, 7), (11, -9))
    ]
    answers = predictor.predict([plant(*each) for each in planted])
    for (width, height, x, y), answer in zip(planted, answers, strict=True):
        found = spread(answer.maps().bottom_up, answer.grid, answer.placement)
        assert found.values.shape == found.seen.shape == (height, width)
        off = np.subtract(centre_of(found.values * found.seen), (x, y))
        assert (np.abs(off) < cell_of(answer, width, height) / 2).all(), (off, width, x)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_overlay_is_upright_for_every_orientation(tmp_path: Path, orientation: int) -> None:
    """The square is planted in the upright photograph; the file stores it turned."""
    upright = Image.fromarray(plant(120, 80, 70, 30))
    exif = Image.Exif()
    exif[0x0112] = {6: 8, 8: 6}.get(orientation, orientation)  # the inverse turn
    file = io.BytesIO()
    upright.save(file, "PNG", exif=exif)
    stored = ImageOps.exif_transpose(Image.open(file))
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    answer = open_predictor().predict(tmp_path / "turned.png")
    np.testing.assert_array_equal(answer.image, np.asarray(upright))
    found = spread(answer.maps().bottom_up, answer.grid, answer.placement)
    off = np.subtract(centre_of(found.values * found.seen), (70, 30))
    assert (np.abs(off) < cell_of(answer, 120, 80) / 2).all()
    drawn = answer.draw()
    panel = drawn[8 : 8 + 80, 8 + 240 + 8 :][:, :120].astype(int)  # bottom-up
    red = np.where(found.seen, panel[..., 0] - panel[..., 2], 0)
    assert np.abs(np.subtract(centre_of(red > red.max() / 2), (70, 30))).max() < 3


@pytest.mark.parametrize("changed", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [(90, 60), (60, 91), (40, 900)])
def test_placement_inverts_resize_and_crop(size: tuple[int, int], changed: dict[str, Any]) -> None:
    """Oracle: a joint, which moves with the pixels through the same views."""
    data, (width, height) = settings(**changed), size
    points = np.random.default_rng(0).uniform(0, 1, (1, 16, 3)) * (width, height, 0) + (0, 0, 2)
    image = np.zeros((height, width, 3), np.uint8)
    place = prepare(image, data).placement
    views = evaluation_views(make_view(image, points, data), data)
    index = {"three": 1, "five": 4}.get(data.eval_crops, 0)
    x, y, _ = views[index].keypoints[0].T
    np.testing.assert_allclose(place.columns.to_photograph(x), points[0, :, 0], atol=1e-9)
    np.testing.assert_allclose(place.rows.to_photograph(y), points[0, :, 1], atol=1e-9)
    np.testing.assert_allclose(place.columns.to_crop(points[0, :, 0]), x, atol=1e-9)
    if data.eval_crops != "full":
        crop = prepare(
            np.tile(np.arange(width, dtype=np.uint8)[None, :, None], (height, 1, 3)), data
        )
        seen = place.columns.to_photograph(np.arange(SIDE, dtype=float))
        inside = (seen > 1) & (seen < min(width, 255) - 2)
        assert np.abs(crop.crop[SIDE // 2, inside, 0] - seen[inside]).max() < 2


def test_what_the_network_does_not_see_stays_grey() -> None:
    predictor = open_predictor()
    photo = np.random.default_rng(0).integers(0, 256, (60, 200, 3), dtype=np.uint8)
    answer = predictor.predict(photo)
    grid = Grid(Axis(12, 0.0, 4.0), Axis(12, 0.0, 4.0))
    seen = spread(np.ones((12, 12)), grid, answer.placement).seen
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    np.testing.assert_array_equal(seen, np.outer(seen.any(1), seen.any(0)))
    assert not seen.all()
    left, right = columns[0], columns[-1]
    assert abs((right - left + 1) - SIDE * 60 / 56) <= 1 and abs(left + right - 199) <= 1
    assert abs((rows[-1] - rows[0] + 1) - SIDE * 60 / 56) <= 1
    panel = answer.draw()[8:68, 8 + 248 :][:, :200]
    np.testing.assert_array_equal(panel[~seen], to_grey(photo)[~seen])
    assert (panel[seen] != to_grey(photo)[seen]).any(-1).mean() > 0.9


def test_joints_are_found_on_the_photograph() -> None:
    pooling = AttentionalPooling(1, len(CLASSES), saliency=UniformSaliency(), rngs=nnx.Rngs(0))
    network = Network(Brightness(), pooling, bright_joints(), mean=(128.0, 128.0, 128.0))
    answer = open_predictor(network).predict(plant(160, 100, 95, 40, half=4))
    joints = answer.joints
    assert joints is not None and joints.shape == (16, 3) and (joints[:, 2] == 2).all()
    assert (np.abs(joints[:, :2] - (95, 40)) <= cell_of(answer, 160, 100)).all()
    nobody = open_predictor(network).predict(np.zeros((100, 160, 3), np.uint8)).joints
    assert nobody is not None and not nobody.any()
    assert open_predictor().predict(plant(160, 100, 95, 40)).joints is None


def test_maps_are_of_the_named_class_and_explain_its_logit() -> None:
    saliency = LinearSaliency(1, init=nnx.initializers.constant(-1.0), rngs=nnx.Rngs(1))
    pooling = AttentionalPooling(
        1, 3, saliency=saliency, init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(2)
    )
    predictor = open_predictor(Network(Brightness(), pooling, mean=(128.0, 128.0, 128.0)))
    answer = predictor.predict(np.random.default_rng(3).integers(0, 256, (60, 80, 3), np.uint8))
    for k, name in enumerate(CLASSES):
        bottom_up, top_down, combined = answer.maps(name)
        np.testing.assert_allclose(bottom_up * top_down, combined, rtol=1e-5)
        np.testing.assert_allclose(combined.mean(), answer.logits[k], rtol=1e-4)
        assert np.mean(bottom_up**3) > 0
    best = CLASSES[int(answer.logits.argmax())]
    np.testing.assert_array_equal(answer.maps().combined, answer.maps(best).combined)
    with pytest.raises(ConfigError, match=r"the model has no class 'jumpin'; did you mean"):
        answer.maps("jumpin")


def test_constant_map_and_missing_branch_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    write = overlay._write

    def keep(*arguments: Any) -> None:
        captions.append(arguments[3])
        write(*arguments)

    monkeypatch.setattr(overlay, "_write", keep)
    pooling = AttentionalPooling(1, 3, saliency=UniformSaliency(), rngs=nnx.Rngs(0))
    answer = open_predictor(Network(Brightness(), pooling)).predict(plant(70, 60, 30, 30))
    answer.save(tmp_path / "new" / "look.png", CLASSES[1])
    assert captions[0].startswith(f"{CLASSES[1]} ") and captions[0].endswith("%; no pose branch")
    assert captions[1] == "bottom-up: h is constant"
    assert captions[2].startswith("top-down: 1 is ") and captions[3].startswith("combined: 1 is ")
    with Image.open(tmp_path / "new" / "look.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), answer.draw(CLASSES[1]))
        assert picture.size == (2 * 248 + 8, 2 * (60 + 30) + 38)


def test_large_photograph_is_drawn_smaller_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "LARGEST_SIDE_PX", 256)
    answer = open_predictor().predict(plant(1050, 525, 625, 225, half=75))
    assert answer.draw().shape == (2 * (128 + 30) + 38, 2 * (256 + 8) + 8, 3)
    small = spread(answer.maps().bottom_up, answer.grid, answer.placement, 128, 256)
    found = np.multiply(centre_of(small.values * small.seen), 1050 / 256)
    assert (np.abs(found - (625, 225)) < cell_of(answer, 1050, 525) / 2).all()


def test_notebook_shows_picture_and_escaped_names() -> None:
    answer = open_predictor().predict(plant(60, 60, 30, 30))
    named = dataclasses.replace(
        answer,
        name='"><script>',
        classes=("<b>a</b>", "b", "c"),
        logits=np.array([2, 1, 0], np.float32),
    )
    shown = named._repr_html_()
    assert 'src="data:image/png;base64,' in shown and "<td>&lt;b&gt;a&lt;/b&gt;</td>" in shown
    assert "<script>" not in shown and "<b>" not in shown
    assert repr(named) == """Answer('"><script>': <b>a</b> 66.5 %, b 24.5 %, c 9.0 %)"""
    assert jax.tree.leaves(named.maps()), "maps are arrays"
