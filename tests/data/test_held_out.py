"""The held-out part of the training split: what is trained on, and what is evaluated."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.core.errors import ConfigError
from data_pipelines.loader import evaluation_batches, split_held_out, training_batches
from data_pipelines.manifest import Manifest
from tests.support.loader_data import config, store, take

STORED, HELD = 23, 5  # 0.2 * 23 = 4.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("held_out")


@pytest.fixture(scope="module")
def stated(folder: Path) -> Manifest:
    return store(folder, STORED)


def split(folder: Path, stored: int, share: float) -> tuple[list[int], list[int]]:
    kept, held = split_held_out(config(folder, held_out=share), stored)
    return [*kept], [*held]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.35, 0.5])
def test_kept_and_held_positions_are_the_split(folder: Path, share: float) -> None:
    kept, held = split(folder, 400, share)
    assert sorted([*kept, *held]) == list(range(400))
    assert len(held) == round(400 * share)
    assert kept == sorted(kept) and held == sorted(held)


def test_held_positions_are_spread_over_the_split(folder: Path) -> None:
    _, held = split(folder, 4000, 0.2)
    counts = np.histogram(held, bins=8, range=(0, 4000))[0]
    assert counts.min() > 60 and counts.max() < 140  # expected 100, deviation 9


def test_a_larger_share_holds_the_same_images_and_more(folder: Path) -> None:
    assert set(split(folder, 400, 0.1)[1]) < set(split(folder, 400, 0.3)[1])


@pytest.mark.parametrize("count", [1, 2])
def test_training_never_shows_a_held_image(folder: Path, stated: Manifest, count: int) -> None:
    data = config(folder, held_out=0.2)
    kept, _ = split(folder, STORED, 0.2)
    for seed in (0, 1):
        shown = [
            batch.id
            for index in range(count)
            for batch in take(
                training_batches(data, stated, seed=seed, batch_size=6, process=(index, count)), 15
            )
        ]
        found = np.concatenate(shown)
        assert len(found) == 90  # five epochs of 18
        assert np.bincount(found)[kept].tolist() == [5] * 18
        assert set(found) == set(kept)


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_shows_each_held_image_once(folder: Path, stated: Manifest, count: int) -> None:
    data = config(folder, held_out=0.2, eval_split="absent")
    rows = [
        batch
        for index in range(count)
        for batch in evaluation_batches(data, stated, batch_size=4, process=(index, count))
    ]
    found = np.concatenate([batch.id for batch in rows])
    assert sorted(found[found >= 0]) == split(folder, STORED, 0.2)[1]
    whole = next(evaluation_batches(config(folder), stated, batch_size=STORED))
    for batch in rows:
        for row, position in enumerate(batch.id):
            if position >= 0:
                assert np.array_equal(batch.image[row], whole.image[position])
                assert batch.label[row] == whole.label[position]


def test_fewer_examples_are_spread_over_the_held_images(folder: Path, stated: Manifest) -> None:
    data = config(folder, held_out=0.2)
    batches = evaluation_batches(data, stated, batch_size=3, max_examples=3)
    held = split(folder, STORED, 0.2)[1]
    assert [batch.id.tolist() for batch in batches] == [[held[0], held[1], held[3]]]


def test_a_share_of_no_image_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data.held_out=0.01 of the 23 images of train is 0; "):
        split(folder, STORED, 0.01)
    with pytest.raises(ConfigError, match=r"data.held_out=0.6 is out of range; it takes .* 0.5"):
        config(folder, held_out=0.6)


def test_the_name_of_the_evaluated_images_is_no_split(folder: Path) -> None:
    assert config(folder).scored_split == "train"
    assert config(folder, held_out=0.2, eval_split="val").scored_split == "train-held_out"
