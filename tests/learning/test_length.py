"""The length of a run by its number of images: bounds, even evaluations, the same at each start."""

import math

import pytest

from data_pipelines.manifest import Manifest, Split
from gap_jax.config import Config, differences
from gap_jax.learning.length import resolve_length


def pictures(images: int) -> Manifest:
    split = Split(images, images, 0, (images, 0), "", ())
    return Manifest("folder", "single", ("cat", "dog"), 0, {"train": split, "val": split}, {})


def config(epochs: float = 5.0, steps: int = 20_000, eval_every: int = 4_000) -> Config:
    cfg = Config()
    cfg.train.epochs, cfg.train.min_steps, cfg.train.steps = epochs, 200, steps
    cfg.train.batch_size, cfg.train.accumulate = 32, 1
    cfg.eval.every_steps, cfg.checkpoint.every_steps = eval_every, 4_000
    return cfg.resolved()


@pytest.mark.parametrize(
    ("images", "steps", "every"),
    [
        (1, 200, 40),
        (32, 200, 40),
        (1_280, 200, 40),
        (1_281, 201, 41),
        (3_000, 469, 94),
        (100_000, 15_625, 3_125),
        (128_000, 20_000, 4_000),
        (1_000_000, 20_000, 4_000),
    ],
)
def test_steps_follow_the_images_within_bounds(images: int, steps: int, every: int) -> None:
    cfg = resolve_length(config(), pictures(images))
    assert cfg.train.steps == steps
    assert cfg.eval.every_steps == cfg.checkpoint.every_steps == every
    assert math.ceil(steps / every) == 5  # as many evaluations as epochs
    assert resolve_length(cfg, pictures(images)) == cfg  # of a resumed or an evaluated run
    assert resolve_length(cfg, pictures(images)).resolved() == cfg


def test_other_fields_stay() -> None:
    changed = differences(config(), resolve_length(config(), pictures(3_000)))
    assert changed.keys() == {"train.steps", "eval.every_steps", "checkpoint.every_steps"}


def test_closer_evaluations_fewer_steps_and_one_evaluation_are_kept() -> None:
    assert resolve_length(config(eval_every=50), pictures(3_000)).eval.every_steps == 50
    assert resolve_length(config(eval_every=0), pictures(3_000)).eval.every_steps == 0
    assert resolve_length(config(steps=7), pictures(3_000)).train.steps == 7
    half = resolve_length(config(epochs=0.4), pictures(100_000))
    assert half.train.steps == half.eval.every_steps == 1_250


def test_without_epochs_or_the_split_nothing_changes() -> None:
    plain = Config().resolved()
    assert resolve_length(plain, pictures(40)) is plain
    other = config()
    assert resolve_length(other, Manifest("folder", "single", ("a", "b"), 0, {}, {})) is other
