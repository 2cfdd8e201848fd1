"""Maps of a frozen backbone: their values, training and evaluation on them, stops, refusals."""

import dataclasses
import errno
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from data_pipelines import feature_maps, loader
from data_pipelines.core.errors import CannotWrite, CheckpointError, ConfigError, Preempted
from data_pipelines.example import HostBatch
from data_pipelines.feature_maps import FeatureMaps
from data_pipelines.rows import Rows
from data_pipelines.transforms import View, center_crop, feature_views
from gap_jax.config import Config
from gap_jax.evaluation.evaluate import score_split
from gap_jax.flags import read_config
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.sharding import globalise
from gap_jax.runtime.extraction import StoredMaps, store_maps
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.saved.model import open_model
from gap_jax.train import train
from tests.support.tiny_data import prepare_tiny_people, quiet
from tests.support.tiny_training import FIELDS, prove

OURS = (
    "data.cache=features", "data.feature_views=4", "data.feature_dtype=float32", "model.stage=1",
    "optim.frozen=('backbone',)", "model.norm=frozen", "train.ema_decay=0",
    "optim.schedule=constant",
)  # fmt: skip
PLAIN = ("data.brightness=0.0", "data.preprocessing=reference")
EPSILON = {"float32": 2.0**-20, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # relative


def configure(data: Path, *fields: str) -> Config:
    chosen = {each.partition("=")[0]: each for each in (*FIELDS, *OURS, *fields)}
    overrides = [f"--config.{each}" for each in chosen.values()]
    return read_config("gap_pose:gap_pose,demo", [*overrides, f"--config.data.root={data}"])


class Made(NamedTuple):
    """Tiny people, their maps as float32, and what made them."""

    data: Path
    setup: Setup
    variables: Any
    maps: StoredMaps


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    data = tmp_path_factory.mktemp("maps") / "data"
    stated = prepare_tiny_people(data)
    setup = assemble(configure(data), stated)
    variables = setup.initial_variables()
    return Made(data, setup, variables, store_maps(setup, variables, log=quiet))


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """A copy of the data and their maps that a test may damage."""
    return shutil.copytree(made.data, tmp_path / "data")


def store(made: Made, data: Path, *fields: str, **options: Any) -> StoredMaps:
    """Stores the maps of another config for the same parameters."""
    setup = assemble(configure(data, *fields), made.setup.data)
    return store_maps(setup, made.variables, log=quiet, **options)


def views_of(made: Made, cfg: Config, position: int) -> list[View]:
    rows = Rows(cfg.data, made.setup.data, "train")
    return feature_views(rows.read(position)[0], cfg.data, position)


@pytest.mark.parametrize("kind", EPSILON)
def test_a_stored_map_is_the_backbone_of_its_view(made: Made, copied: Path, kind: str) -> None:
    maps = store(made, copied, f"data.feature_dtype={kind}").training
    rows = np.concatenate(maps.open())
    cfg = configure(copied)
    for position in (0, 4, 8):
        views = views_of(made, cfg, position)
        images = np.stack([each.image for each in views])
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


def picture_batch(made: Made, batch: HostBatch) -> HostBatch:
    """Replaces the maps of a batch by the images of the views that they were computed of."""
    stored = np.concatenate(made.maps.training.open())
    side = made.setup.cfg.data.image_size_px
    images = np.empty((len(batch.id), side, side, 3), np.uint8)
    keypoints = np.zeros_like(batch.keypoints)
    for row, position in enumerate(batch.id):
        found = [np.array_equal(each, batch.image[row]) for each in stored[position]["maps"]]
        view = views_of(made, made.setup.cfg, int(position))[found.index(True)]
        images[row] = view.image
        keypoints[row, : len(view.keypoints)] = view.keypoints
        assert batch.disc_radius[row] == np.float32(view.disc_radius)
    assert np.array_equal(keypoints, batch.keypoints)
    return batch._replace(image=images)


def test_twenty_steps_on_maps_equal_those_on_their_images(made: Made) -> None:
    setups = [made.setup, assemble(configure(made.data, "data.cache=none"), made.setup.data)]
    states = [each.start(jax.tree.map(jax.numpy.copy, made.variables)) for each in setups]
    cfg = made.setup.cfg
    drawn = set[bytes]()
    with loader.training_batches(
        cfg.data, made.setup.data, seed=3, batch_size=8, maps=made.maps.training
    ) as batches:
        for _ in range(20):
            batch = next(batches)
            drawn.update(row.tobytes() for row in batch.image)
            for index, (setup, each) in enumerate(
                zip(setups, (batch, picture_batch(made, batch)), strict=True)
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


def contents(maps: StoredMaps) -> dict[str, bytes]:
    return {
        f"{folder.name}/{path.name}": path.read_bytes()
        for folder in (each.folder for each in maps)
        for path in folder.iterdir()
    }


def test_a_stopped_extraction_goes_on_to_the_same_bytes(
    made: Made, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_maps, "BATCH_IMAGES", 6)
    whole = contents(store(made, copied, "data.feature_views=3"))
    assert sum("train" in name for name in whole) == 5 + 1
    for folder in (copied / "features").iterdir():
        shutil.rmtree(folder)
    for kept in (2, 3):
        asked = iter([False] * (kept - 1) + [True])
        with pytest.raises(Preempted, match=rf"stopped after {kept} of 5 files"):
            store(made, copied, "data.feature_views=3", is_stopping=asked.__next__)
    assert contents(store(made, copied, "data.feature_views=3")) == whole


def shard_of(maps: FeatureMaps, data: Path) -> Path:
    folder = data / "features" / maps.folder.name
    return next(folder.glob("*.npy"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_file_is_named_and_computed_again_only_if_asked(
    made: Made, copied: Path, damage: Any
) -> None:
    shard = shard_of(made.maps.training, copied)
    whole = shard.read_bytes()
    damage(shard)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"{shard.name} is .*features --repair"):
            store(made, copied)
    store(made, copied, repair=True)
    assert shard.read_bytes() == whole


def test_each_origin_has_a_folder_and_a_foreign_one_is_refused_by_name(
    made: Made, copied: Path
) -> None:
    setup = assemble(configure(copied), made.setup.data)
    other = setup.cfg.train.seed + 1
    others = dataclasses.replace(setup, cfg=configure(copied, f"train.seed={other}"))
    found = [
        *store(made, copied),
        *store_maps(setup, others.initial_variables(), log=quiet),
        *store(made, copied, "data.feature_views=5"),
        *store(made, copied, "data.brightness=0.3"),
        *store(made, copied, "data.resize=antialias"),
        *store(made, copied, "data.feature_dtype=float16"),
    ]
    names = {each.folder.name for each in found}
    # an evaluation view knows neither the number of training views nor their colours
    assert len(names) == 6 + 4
    own, foreign = found[0].folder, found[2].folder
    shutil.rmtree(own)
    foreign.rename(own)
    with pytest.raises(CheckpointError, match="it holds other maps: weights"):
        store(made, copied)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (("optim.frozen=()",), "optim.frozen=.*set optim.frozen=.'backbone',."),
        (("model.norm=train",), "model.norm=train"),
        (("train.mixup=0.2", "pose.weight=0.0"), "train.mixup=0.2"),
        (("data.workers=1",), "data.workers=1"),
        (("data.feature_views=2", "data.brightness=0.2"), "data.brightness=0.2.*feature_views=6"),
        (("data.feature_views=2", "data.brightness=0.0", "data.preprocessing=modern"), "modern"),
        (("data.feature_views=1", "data.flip=false", "data.erasing=0.5"), "erasing|brightness"),
    ],
)
def test_what_would_change_the_maps_is_refused(
    made: Made, fields: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        configure(made.data, *fields)


def test_maps_that_do_not_fit_are_refused_before_anything_is_written(
    made: Made, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "features")
    needed = sum(each.rows * each.row_type.itemsize for each in made.maps)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, needed - 1))
    with pytest.raises(CannotWrite, match=r"data\.cache=features needs"):
        store(made, copied)
    assert not (copied / "features").exists()


def test_a_full_disk_keeps_the_finished_files(
    made: Made, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_maps, "BATCH_IMAGES", 16)
    shutil.rmtree(copied / "features")
    synced = os.fsync

    def fill_disk(handle: int) -> None:
        if len(list((copied / "features").rglob("*.npy"))) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(handle)

    monkeypatch.setattr(os, "fsync", fill_disk)
    with pytest.raises(CannotWrite, match="no room"):
        store(made, copied)
    kept = {path.name: path.stat().st_mtime_ns for path in (copied / "features").rglob("*.npy")}
    assert len(kept) == 2
    monkeypatch.undo()
    monkeypatch.setattr(feature_maps, "BATCH_IMAGES", 16)
    store(made, copied)
    times = {path.name: path.stat().st_mtime_ns for path in (copied / "features").rglob("*.npy")}
    assert kept.items() <= times.items()


def test_values_beyond_the_stored_type_are_refused(made: Made, copied: Path) -> None:
    large = jax.tree.map(lambda leaf: leaf * 1e6, made.variables)
    setup = assemble(configure(copied, "data.feature_dtype=float16"), made.setup.data)
    with pytest.raises(ConfigError, match="bfloat16 or float32"):
        store_maps(setup, large, log=quiet)


def test_a_run_on_maps_resumes_to_the_bit_and_is_evaluated_without_them(
    made: Made, copied: Path, tmp_path: Path
) -> None:
    cfg = configure(copied, "train.steps=6", "train.batch_size=8", "data.feature_dtype=float16")
    longer = configure(copied, "train.steps=12", "data.feature_dtype=float16")
    short = dataclasses.replace(longer, train=dataclasses.replace(longer.train, steps=6))
    assert cfg.data == short.data
    train(short.resolved(), tmp_path / "cut")
    train(longer, tmp_path / "cut")
    last = train(longer, tmp_path / "whole")
    ends = [prove(tmp_path / each, step=12) for each in ("cut", "whole")]
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
    with np.load(run.scores("val", 12) / "scores.npz") as stored:
        bound = 2.0**-10 * np.abs(scores.logits).max()
        assert np.abs(stored["logits"] - scores.logits).max() <= bound
    assert last["examples"] == len(scores.ids)
