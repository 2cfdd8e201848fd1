"""Positions of maps in the crop, and the share of maps inside masks."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from data_pipelines import transforms
from data_pipelines.config import DataConfig
from data_pipelines.core.errors import DataError
from data_pipelines.example import Entry, RawData, RawSplit
from data_pipelines.manifest import Manifest
from data_pipelines.records import open_split
from data_pipelines.rows import Rows
from gap_jax.learning.state import split_network
from gap_jax.models.cells import Axis, Grid
from gap_jax.models.network import Network
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import LinearSaliency
from gap_jax.prediction.attention import upsample
from gap_jax.report import measure
from gap_jax.report.gallery import overlay
from gap_jax.report.maps import predict
from tests.support.bright_head import CELL_PX, Brightness, bright_head, centre_of
from tests.support.reported_runs import grid_of
from tests.support.tiny_data import CLASSES, build

SQUARE_PX = 12
SPREAD = nnx.initializers.normal(1.0)


def plant(folder: Path, centres: list[tuple[int, int]], size: tuple[int, int]) -> Manifest:
    """Prepares black photographs with a white square each, which has a head in its centre."""
    width, height = size
    entries = []
    for index, (x, y) in enumerate(centres):
        photo = np.zeros((height, width, 3), np.uint8)
        half = SQUARE_PX // 2
        photo[y - half : y + half + 1, x - half : x + half + 1] = 255
        path = folder / f"planted_{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path, quality=98)
        people = np.zeros((1, 16, 3), np.float32)
        people[0, 9] = (x, y, 2)
        entries.append(Entry(path.name, path, index % len(CLASSES), people, index + 1))
    split = RawSplit(len(entries), len(entries), len(entries), entries)
    raw = RawData("people", "single", CLASSES, {"train": split}, [], {})
    return build(folder / "data", raw)


@pytest.mark.parametrize("preprocessing", ["reference", "modern"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (200, 150)])
def test_map_of_a_square_lies_on_the_square(
    tmp_path: Path, size: tuple[int, int], preprocessing: Any
) -> None:
    width, height = size
    near = [(width // 2 + dx, height // 2 + dy) for dx, dy in ((0, 0), (-13, 7), (11, -9))]
    made = plant(tmp_path, near, size)
    data = DataConfig(
        name="people", root=str(tmp_path / "data"), image_size_px=48, short_side_px=56,
        limit_width_px=180, preprocessing=preprocessing,
    ).resolved()  # fmt: skip
    rows = Rows(data, made, "train")
    seen = predict(*bright_head(), rows, [2, 0, 1])
    assert seen.bottom_up.shape == (3, 12, 12, 1)
    scale = 56 / min(size)
    for row, index in enumerate([2, 0, 1]):
        whole = np.round(np.array(size) * scale)
        due = (np.array(near[index]) + 0.5) * whole / size - 0.5 - (whole - 48) // 2
        cells = seen.bottom_up[row, ..., 0]
        found = centre_of(upsample(cells, seen.grid, 48, 48))
        assert np.abs(found - due).max() < CELL_PX / 2, (found, due)
        painted = overlay(cells / 255, seen.grid, seen.image[row]).astype(int)
        red = painted[..., 0] - painted[..., 2]
        shown = centre_of(np.where(red > red.max() / 2, 1, 0))
        assert np.abs(shown - due).max() < CELL_PX / 2
        mask = np.zeros((height, width), bool)
        x, y = near[index]
        mask[y - 6 : y + 7, x - 6 : x + 7] = True
        cropped = measure.crop_mask(mask, data)
        assert np.abs(np.array(centre_of(cropped)) - due).max() < 0.25
        assert measure.share_inside(cells, seen.grid, cropped) > 5 * cropped.mean()


def test_map_lies_on_the_square_if_the_stride_does_not_divide_the_crop(tmp_path: Path) -> None:
    """15 cells of stride 32 cover 450 px: a cell stands at 32 i and not at 30 i."""
    made = plant(tmp_path, [(384, 64), (160, 416)], (450, 450))
    data = DataConfig(
        name="people", root=str(tmp_path / "data"), image_size_px=450, short_side_px=450
    ).resolved()
    seen = predict(*bright_head(32), Rows(data, made, "train"), [0, 1])
    assert seen.bottom_up.shape == (2, 15, 15, 1)
    for row, due in enumerate(((384, 64), (160, 416))):
        cells = seen.bottom_up[row, ..., 0]
        painted = overlay(cells / 255, seen.grid, seen.image[row]).astype(int)
        red = painted[..., 0] - painted[..., 2]
        shown = centre_of(np.where(red > red.max() / 2, 1, 0))
        assert np.abs(np.subtract(shown, due)).max() < 2
    joints = measure.training_joints(data, open_split(tmp_path / "data", "train", made))
    prior = measure.fit_prior(joints, seen.grid)
    assert prior[2, 12] == prior[13, 5] == 0.5


def test_upsampled_map_has_its_cells_at_their_points() -> None:
    points = np.arange(6) * 8 / 6 * 4.0
    across = upsample(
        np.tile(points, (3, 1)), Grid(Axis(3, 0.0, 4.0), Axis(6, 0.0, 32 / 6)), 12, 32
    )
    assert across.shape == (12, 32)
    np.testing.assert_allclose(across, np.tile(np.minimum(np.arange(32), points[-1]), (12, 1)))
    cells = np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_allclose(upsample(cells, grid_of(3, 5, 4.0), 12, 20)[::4, ::4], cells)
    np.testing.assert_allclose(upsample(cells, grid_of(3, 5, 1.0), 3, 5), cells)
    np.testing.assert_allclose(upsample(np.ones((3, 5)), grid_of(3, 5, 2.0), 7, 11), 1)


def test_share_inside_a_mask_by_hand() -> None:
    """A corner cell of 4 in a 2 x 2 map weighs 0, 1/2, 1, 1 along each side of a 4 x 4 crop."""
    mask = np.zeros((4, 4))
    mask[2:, 2:] = 1
    grid = grid_of(2, 2, 2.0)
    h = np.array([[1.0, 1.0], [1.0, 5.0]])[None, ..., None]
    cells = measure.deviation(h)
    np.testing.assert_array_equal(cells, [[[0, 0], [0, 4]]])
    assert measure.share_inside(cells[0], grid, mask) == pytest.approx(4 * 2 * 2 / (4 * 2.5 * 2.5))
    assert measure.share_inside(-cells[0] * 0, grid, mask) == 0.25
    np.testing.assert_array_equal(measure.deviation(-h), cells[..., :])
    both = np.concatenate([h, -2 * h], axis=-1)
    np.testing.assert_allclose(measure.deviation(both), 3 * cells)
    soft = measure.measure([h.repeat(3, 0)], grid, [mask, mask, mask / 2], np.ones((2, 2)))
    shares = [0.64, 0.64, 0.32]
    assert soft.images == 3 and soft.own and soft.over_uniform
    assert soft.own.estimate == pytest.approx(np.mean(shares))
    assert (
        soft.uniform.estimate == soft.prior.estimate == pytest.approx(np.mean([0.25, 0.25, 0.125]))
    )
    assert soft.over_uniform.estimate == pytest.approx(soft.own.estimate - soft.uniform.estimate)


def test_map_on_the_actor_has_a_larger_share_than_the_baselines() -> None:
    rng = np.random.default_rng(1)
    masks, maps = [], []
    for _ in range(40):
        mask, h = np.zeros((24, 24)), rng.normal(1, 0.02, (6, 6))
        i, j = rng.integers(0, 4, 2)
        mask[4 * i : 4 * i + 8, 4 * j : 4 * j + 8] = 1
        h[i : i + 2, j : j + 2] += 1
        masks.append(mask)
        maps.append(h[..., None])
    grid = grid_of(6, 6, 4.0)
    prior = measure.fit_prior(rng.normal(12, 3, (500, 2)), grid)
    found = measure.measure([np.stack(maps)], grid, masks, prior)
    assert found.own and found.over_uniform and found.over_prior
    assert found.over_uniform.low > 0.2 and found.over_prior.low > 0.05
    assert found.own.low < found.own.estimate < found.own.high
    assert found.prior.estimate > found.uniform.estimate + 0.02
    gain = found.own.estimate - found.prior.estimate
    assert found.over_prior.estimate == pytest.approx(gain)
    blind = np.stack(maps)[rng.permutation(40)]
    lost = measure.measure([blind], grid, masks, prior).over_uniform
    assert lost and lost.estimate < found.over_uniform.estimate / 2
    constant = measure.measure([np.ones((40, 6, 6, 1))], grid, masks, np.ones((6, 6)))
    assert (constant.own, constant.over_uniform, constant.over_prior) == (None, None, None)
    with pytest.raises(DataError, match="no mask reaches into its crop"):
        measure.measure([np.stack(maps)], grid, [np.zeros((24, 24))] * 40, prior)


def test_prior_is_the_distribution_of_training_joints(tmp_path: Path) -> None:
    made = plant(tmp_path, [(30, 30), (60, 30), (60, 30), (7, 30)], (90, 60))
    data = DataConfig(
        name="people", root=str(tmp_path / "data"), image_size_px=60, short_side_px=60
    ).resolved()
    joints = measure.training_joints(data, open_split(tmp_path / "data", "train", made))
    np.testing.assert_allclose(joints, [(15, 30), (45, 30), (45, 30)])
    prior = measure.fit_prior(joints, grid_of(4, 4, 15.0))
    assert prior[2].tolist() == pytest.approx([0, 1 / 3, 0, 2 / 3])
    assert prior.sum() == pytest.approx(1)
    assert measure.fit_prior(np.zeros((0, 2)), grid_of(2, 3, 4.0)).tolist() == [
        [1, 1, 1],
        [1, 1, 1],
    ]


def test_masks_of_other_records_are_refused(tmp_path: Path) -> None:
    made = plant(tmp_path, [(30, 30), (60, 30)], (90, 60))
    root = tmp_path / "data"
    data = DataConfig(name="people", root=str(root), image_size_px=56, short_side_px=60).resolved()
    source = open_split(tmp_path / "data", "train", made)
    path = measure.mask_file(root)
    path.parent.mkdir(exist_ok=True)
    inside = np.zeros((60, 90), np.uint8)
    inside[20:40, 30:50] = 2
    np.savez_compressed(path, planted_0=inside, planted_1=inside[:-1])
    (mask,) = measure.load_masks(data, source, [0])
    due = transforms.center_crop(
        transforms.make_view(np.stack([inside] * 3, -1), measure.NOBODY, data), data
    )
    np.testing.assert_array_equal(mask > 0.5, due.image[..., 0] > 0)
    for positions, reason in (([1], "a mask of another size"), ([0, 1], "another size")):
        with pytest.raises(DataError, match=reason):
            measure.load_masks(data, source, positions)
    np.savez_compressed(path, other=inside)
    with pytest.raises(DataError, match="does not hold the masks of these records"):
        measure.load_masks(data, source, [0])
    path.write_bytes(b"PK\3\4 cut")
    with pytest.raises(DataError, match="does not hold the masks of these records"):
        measure.load_masks(data, source, [0])


@pytest.mark.slow
@pytest.mark.parametrize("per_class", [False, True])
def test_maps_are_those_of_the_predicted_class(tmp_path: Path, per_class: bool) -> None:
    made = plant(tmp_path, [(30, 30)] * 18, (90, 60))
    data = DataConfig(
        name="people", root=str(tmp_path / "data"), image_size_px=48, short_side_px=50
    ).resolved()
    saliency = LinearSaliency(1, 6 if per_class else 2, init=SPREAD, rngs=nnx.Rngs(1))
    pooling = AttentionalPooling(
        1, 3, saliency=saliency, rank=2, per_class=per_class, init=SPREAD, rngs=nnx.Rngs(2)
    )
    network = Network(Brightness(), pooling, mean=(128.0, 128.0, 128.0))
    rows = Rows(data, made, "train")
    seen = predict(*split_network(network), rows, range(18))
    assert seen.pose is None and seen.image.shape == (18, 48, 48, 3)
    maps = network(jnp.asarray(seen.image), want_maps=True).maps
    assert maps
    bottom_up, top_down, combined = maps
    k = int(seen.logits[17].argmax())
    np.testing.assert_allclose(seen.top_down[17], top_down[17, ..., k, 0], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(seen.combined[17], combined[17, ..., k], rtol=1e-5, atol=1e-3)
    due = bottom_up[17, ..., k, :] if per_class else bottom_up[17]
    np.testing.assert_allclose(seen.bottom_up[17], due, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(seen.combined[17].mean(), seen.logits[17, k], rtol=1e-4, atol=1e-3)
    few = seen.take([17, 3])
    np.testing.assert_array_equal(few.logits, seen.logits[[17, 3]])
