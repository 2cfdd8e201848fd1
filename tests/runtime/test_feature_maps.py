"""Maps of a frozen backbone: their values, and training and evaluation on them."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines import feature_maps, loader
from data_pipelines.core.errors import CheckpointError, ConfigError
from data_pipelines.example import HostBatch
from data_pipelines.feature_maps import FeatureMaps
from data_pipelines.rows import Rows
from data_pipelines.transforms import View, center_crop, feature_views
from gap_jax.config import Config
from gap_jax.evaluation.evaluate import score_split
from gap_jax.learning.setup import assemble
from gap_jax.learning.sharding import globalise
from gap_jax.runtime.extraction import store_maps
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.saved.model import open_model
from gap_jax.train import train
from tests.support.stored_maps import Made, configure, make_maps, store
from tests.support.tiny_data import quiet
from tests.support.tiny_training import prove

PLAIN = ("data.brightness=0.0", "data.preprocessing=reference")
EPSILON = {"float32": 2.0**-20, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # relative


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_maps(tmp_path_factory.mktemp("maps") / "data")


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """A copy of the data and their maps that a test may damage."""
    return shutil.copytree(made.data, tmp_path / "data")


def list_views(made: Made, cfg: Config) -> list[list[View]]:
    """Makes the views of all training images."""
    rows = Rows(cfg.data, made.setup.data, "train")
    return [feature_views(rows.read(i)[0], cfg.data, i) for i in range(len(rows))]


@pytest.mark.parametrize("kind", EPSILON)
def test_a_stored_map_is_the_backbone_of_its_view(made: Made, copied: Path, kind: str) -> None:
    maps = store(made, copied, f"data.feature_dtype={kind}").training
    rows = np.concatenate(maps.open())
    views = list_views(made, configure(copied))
    for position in (0, 4, 8):
        images = np.stack([each.image for each in views[position]])
        expected = np.asarray(made.setup.model.extract(made.variables, jax.numpy.asarray(images)))
        found = rows[position]["maps"].view(feature_maps.MAP_TYPES[kind]).astype(np.float32)
        assert np.abs(found - expected).max() <= EPSILON[kind] * np.abs(expected).max()
        assert rows[position]["label"] == position % 3


def test_views_are_the_centre_its_mirror_image_and_crops_of_the_position(made: Made) -> None:
    cfg = configure(made.data, "data.feature_views=6")
    whole = Rows(cfg.data, made.setup.data, "train").read(5)[0]
    views = feature_views(whole, cfg.data, 5)
    centre = center_crop(whole, cfg.data)
    assert np.array_equal(views[0].image, centre.image)
    assert np.array_equal(views[1].image, centre.image[:, ::-1])
    assert len({each.image.tobytes() for each in views}) == 6
    for ours, again in zip(views, feature_views(whole, cfg.data, 5), strict=True):
        assert np.array_equal(ours.image, again.image)
    others = feature_views(whole, cfg.data, 6)
    assert not any(map(np.array_equal, (v.image for v in views[2:]), (v.image for v in others[2:])))
    fewer = feature_views(whole, configure(made.data, *PLAIN, "data.feature_views=1").data, 5)
    assert len(fewer) == 1
    unmirrored = configure(made.data, *PLAIN, "data.feature_views=1", "data.flip=false")
    assert len(feature_views(whole, unmirrored.data, 5)) == 1


def picture_batch(batch: HostBatch, stored: np.ndarray, views: list[list[View]]) -> HostBatch:
    """Replaces the maps of a batch by the images of the views that they were computed of."""
    images = np.empty((len(batch.id), *views[0][0].image.shape), np.uint8)
    keypoints = np.zeros_like(batch.keypoints)
    for row, position in enumerate(batch.id):
        found = [np.array_equal(each, batch.image[row]) for each in stored[position]["maps"]]
        view = views[position][found.index(True)]
        images[row] = view.image
        keypoints[row, : len(view.keypoints)] = view.keypoints
        assert batch.disc_radius[row] == np.float32(view.disc_radius)
    assert np.array_equal(keypoints, batch.keypoints)
    return batch._replace(image=images)


def test_maps_have_the_boxes_of_their_view(made: Made) -> None:
    cfg, stored = made.setup.cfg, np.concatenate(made.maps.training.open())
    views, data = list_views(made, cfg), dataclasses.replace(cfg.data, regions=3)
    drawn = set[int]()
    with loader.training_batches(
        data, made.setup.data, seed=3, batch_size=8, maps=made.maps.training, with_people=True
    ) as batches:
        for batch in (next(batches), next(batches)):
            assert batch.people is not None
            for row, position in enumerate(batch.id):
                maps = stored[position]["maps"]
                view = [np.array_equal(each, batch.image[row]) for each in maps].index(True)
                boxes = views[position][view].boxes.astype(np.float32)
                whole = np.array([[0, 0, *[data.image_size_px] * 2]], np.float32)
                expected = boxes if boxes.any() else whole
                assert np.array_equal(batch.people.boxes[row, : len(expected)], expected)
                regions = batch.people.regions[row, : len(expected)]
                assert regions.shape[1:] == (3, 4) and regions.any((1, 2)).all()
                drawn.add(view)
    assert len(drawn) > 2
    with loader.evaluation_batches(
        data, made.setup.data, batch_size=4, maps=made.maps.evaluation, with_people=True
    ) as batches:
        people = next(batches).people
    with loader.evaluation_batches(
        dataclasses.replace(data, cache="none"), made.setup.data, batch_size=4, with_people=True
    ) as batches:
        jax.tree.map(np.testing.assert_array_equal, people, next(batches).people)


def test_twenty_steps_on_maps_equal_those_on_their_images(made: Made) -> None:
    setups = [made.setup, assemble(configure(made.data, "data.cache=none"), made.setup.data)]
    states = [each.start(jax.tree.map(jax.numpy.copy, made.variables)) for each in setups]
    cfg = made.setup.cfg
    stored, views = np.concatenate(made.maps.training.open()), list_views(made, cfg)
    drawn = set[bytes]()
    with loader.training_batches(
        cfg.data, made.setup.data, seed=3, batch_size=8, maps=made.maps.training
    ) as batches:
        for _ in range(20):
            batch = next(batches)
            drawn.update(row.tobytes() for row in batch.image)
            for index, (setup, each) in enumerate(
                zip(setups, (batch, picture_batch(batch, stored, views)), strict=True)
            ):
                states[index], metrics = setup.train_step(
                    states[index], globalise([each], setup.mesh)
                )
                del metrics
    assert len(drawn) == 9 * 4  # every view of every record
    ours, theirs = (jax.tree.leaves(each.variables.params) for each in states)
    for one, other in zip(ours, theirs, strict=True):
        scale = np.abs(np.asarray(other)).max()
        assert np.abs(np.asarray(one) - np.asarray(other)).max() <= 1e-5 * max(scale, 1e-3)


@pytest.mark.parametrize("fields", [(), ("data.eval_flip=true", "data.eval_crops=three")])
def test_scores_on_maps_equal_those_on_images(
    made: Made, copied: Path, fields: tuple[str, ...]
) -> None:
    scores = []
    maps = store(made, copied, *fields)
    for cache, given in (("features", maps.evaluation), ("none", None)):
        setup = assemble(configure(copied, *fields, f"data.cache={cache}"), made.setup.data)
        scores.append(
            score_split(
                setup.cfg, setup.data, setup.eval_step, setup.fold(made.variables), setup.mesh,
                maps=given,
            )
        )  # fmt: skip
    ours, theirs = (each.logits for each in scores if each is not None)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert np.array_equal(*(each.labels for each in scores if each is not None))


def test_values_beyond_the_stored_type_are_refused(made: Made, copied: Path) -> None:
    large = jax.tree.map(lambda leaf: leaf * 1e6, made.variables)
    setup = assemble(configure(copied, "data.feature_dtype=float16"), made.setup.data)
    with pytest.raises(ConfigError, match="bfloat16 or float32"):
        store_maps(setup, large, log=quiet)


@contextlib.contextmanager
def exchanged(maps: FeatureMaps) -> Iterator[None]:
    """Replaces maps by others of the same origin, as another device computes them."""
    whole = shutil.copytree(maps.folder, maps.folder.with_suffix(".whole"))
    (shard,) = maps.folder.glob("*-00000-of-*.npy")
    rows = np.load(shard)
    shard.unlink()
    maps.write_shard(0, [rows[::-1]])
    maps.complete([maps.describe(index) for index in range(maps.shard_count)])
    yield
    shutil.rmtree(maps.folder)
    whole.rename(maps.folder)


def test_a_run_on_maps_resumes_to_the_bit_and_is_evaluated_without_them(
    made: Made, copied: Path, tmp_path: Path
) -> None:
    often = ("eval.every_steps=4", "checkpoint.every_steps=2", "data.feature_dtype=float16")
    longer = configure(copied, "train.steps=4", *often)
    train(configure(copied, "train.steps=2", *often), tmp_path / "cut")
    refused = pytest.raises(CheckpointError, match="cut was trained on stored maps with digest")
    with exchanged(store(made, copied, *often).training), refused:
        train(longer, tmp_path / "cut")
    train(longer, tmp_path / "cut")
    last = train(longer, tmp_path / "whole")
    ends = [prove(tmp_path / each, step=4) for each in ("cut", "whole")]
    assert ends[0].leaves == ends[1].leaves
    run = RunFolder(tmp_path / "whole")
    assert not run.first_batch.exists()
    assert "4 stored views" in run.preflight.read_text("utf-8")
    with pytest.raises(ConfigError, match="stored maps show other crops"):
        train(dataclasses.replace(longer, data=configure(copied, "data.cache=none").data), run.root)

    shutil.rmtree(copied / "features")
    opened = open_model(run.root, checkpoint="latest").fold()
    images = assemble(dataclasses.replace(longer, data=configure(copied, "data.cache=none").data),
                      made.setup.data)  # fmt: skip
    scores = score_split(images.cfg, images.data, images.eval_step, opened.variables, images.mesh)
    assert scores is not None
    with np.load(run.scores("val", 4) / "scores.npz") as stored:
        bound = 2.0**-10 * np.abs(scores.logits).max()
        assert np.abs(stored["logits"] - scores.logits).max() <= bound
    assert last["examples"] == len(scores.ids)
