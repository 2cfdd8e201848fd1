"""Runs of --config=photos on tiny photographs with a small backbone: length, resume, refusals."""

import dataclasses
import json
from pathlib import Path

import pytest

from data_pipelines.core.errors import CheckpointError, ConfigError, DataError
from data_pipelines.manifest import Manifest
from gap_jax.commands.train import check_data
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning.length import resolve_length
from gap_jax.learning.setup import assemble
from gap_jax.runtime.run_folder import RunFolder, enter, examine, load_config
from gap_jax.train import train
from tests.support.tiny_data import build, tiny_data
from tests.support.tiny_training import prove

SMALL = (
    "data.image_size_px=32", "data.short_side_px=36", "model.backbone=small", "model.stage=1",
    "model.input=reference", "init.weights=", "init.allow_random=True", "train.batch_size=8",
    "train.epochs=3", "train.min_steps=5", "train.early_stop_evals=0", "eval.batch_size=8",
    "data.erasing=0.5", "train.mixup=0.2",
)  # fmt: skip


def configure(data: Path, *fields: str, parts: str = "attention") -> Config:
    chosen = {each.partition("=")[0]: each for each in (*SMALL, f"data.root={data}", *fields)}
    return read_config(f"photos:{parts}", [f"--config.{each}" for each in chosen.values()])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Nine training and four evaluation images of three classes, prepared from a list."""
    folder = tmp_path_factory.mktemp("photographs")
    return folder / "data", build(folder / "data", tiny_data(folder, name="csv"))


@pytest.mark.slow
def test_length_follows_the_images_and_a_resumed_run_is_equal(
    photographs: tuple[Path, Manifest], tmp_path: Path
) -> None:
    root, manifest = photographs
    cfg = configure(root, "optim.schedule=constant")  # with the cosine train.steps may not grow
    check_data(cfg.data, "photos")  # a list for data.name=folder
    whole = train(cfg, tmp_path / "whole")
    run = RunFolder(tmp_path / "whole")
    stored = load_config(run)
    assert (stored.train.steps, stored.eval.every_steps) == (5, 2)  # 3 x 9 / 8 are 4 steps
    assert stored == resolve_length(cfg, manifest)
    assert sorted(path.name for path in (run.evaluation / "val").iterdir()) == [
        f"step_{step:08}" for step in (2, 4, 5)
    ]
    told = run.preflight.read_text("utf-8")
    assert "5 steps of 8 images (train.min_steps, as train.epochs=3 would make 4)" in told
    assert "loaded, frozen" not in told and "random, frozen" in told
    assert train(cfg, run.root) == whole  # complete

    short = configure(root, "train.steps=3", "optim.schedule=constant")
    train(short, tmp_path / "cut")
    train(cfg, tmp_path / "cut")
    ends = [prove(tmp_path / each, step=5) for each in ("cut", "whole")]
    assert ends[0].leaves == ends[1].leaves
    record = json.loads(RunFolder(tmp_path / "cut").record.read_text("utf-8"))
    assert "train.steps: 3 -> 5" in record["attempts"][1]["config_changes"]


def test_other_data_are_refused_before_the_steps_that_follow_from_them(
    photographs: tuple[Path, Manifest], tmp_path: Path
) -> None:
    root, manifest = photographs
    cfg = configure(root, "train.epochs=100")
    train_split = dataclasses.replace(manifest.splits["train"], examples=18)
    grown = dataclasses.replace(manifest, splits={**manifest.splits, "train": train_split})
    own, other = resolve_length(cfg, manifest), resolve_length(cfg, grown)
    assert (own.train.steps, other.train.steps) == (113, 225)
    enter(tmp_path / "run", own, manifest, {})
    RunFolder(tmp_path / "run").step_log.write_text('{"step": 1}\n', "utf-8")
    assert not examine(tmp_path / "run", own, manifest).changes
    with pytest.raises(CheckpointError, match="the same classes, other images, labels or order"):
        examine(tmp_path / "run", other, grown)


def test_one_class_and_several_labels_are_refused(photographs: tuple[Path, Manifest]) -> None:
    root, manifest = photographs
    splits = {
        name: dataclasses.replace(split, class_counts=(split.examples,))
        for name, split in manifest.splits.items()
    }
    one = dataclasses.replace(manifest, classes=("cat",), splits=splits)
    with pytest.raises(DataError, match="csv has one class, 'cat', so there is nothing to tell"):
        assemble(configure(root), one)
    several = dataclasses.replace(manifest, label_kind="multi")
    with pytest.raises(ConfigError, match=r"set train\.label_smoothing=0 and train\.class_weights"):
        assemble(configure(root, "train.mixup=0"), several)
    with pytest.raises(ConfigError, match=r"set train\.mixup=0$"):
        assemble(configure(root), several)


@pytest.mark.parametrize("name", ["people", "mpii"])
def test_other_data_sets_are_no_photographs_of_ones_own(
    name: str, photographs: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, manifest = photographs
    other = dataclasses.replace(manifest, name=name)
    monkeypatch.setattr("data_pipelines.manifest.load", lambda _: other)
    with pytest.raises(ConfigError, match=f"holds {name}; use --config=gap_pose:{name}, set"):
        check_data(configure(root).data, "photos:mean")
