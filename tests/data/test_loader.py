"""Batches depend on seed and step alone, evaluation counts exactly, bad records are named."""

import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags

from data_pipelines import loader, manifest, records
from data_pipelines import rows as rows_module
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.decode import decode
from data_pipelines.example import HostBatch
from data_pipelines.loader import evaluation_batches, training_batches
from data_pipelines.manifest import Manifest
from data_pipelines.transforms import center_crop, make_view
from tests.support.loader_data import MOST_PEOPLE, assert_same, config, people, photo, store, take

STORED = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of 40 records; record 7 has no label."""
    path = tmp_path_factory.mktemp("stored")
    store(path, STORED, labels={7: -1})
    return path


@pytest.fixture(scope="module")
def stated(folder: Path) -> Manifest:
    return manifest.load(folder)


def train(folder: Path, stated: Manifest, steps: int, **options: Any) -> list[HostBatch]:
    arguments = {"seed": 0, "batch_size": 4, **options}
    return take(training_batches(config(folder), stated, **arguments), steps)


def ids(batches: list[HostBatch]) -> list[int]:
    return np.concatenate([batch.id for batch in batches]).tolist()


def test_a_batch_has_its_documented_types_and_shapes(folder: Path, stated: Manifest) -> None:
    for batch in (
        *train(folder, stated, 1),
        *take(evaluation_batches(config(folder), stated, batch_size=4), 1),
    ):
        assert [(array.dtype.name, array.shape) for array in jax.tree.leaves(batch)] == [
            ("uint8", (4, 12, 12, 3)),
            ("float32", (4, MOST_PEOPLE, 16, 3)),
            ("float32", (4,)),
            ("int32", (4,)),
            ("float32", (4,)),
            ("int64", (4,)),
        ]
        arrays = jax.tree.leaves(batch)
        assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays)


def test_evaluation_rows_are_centre_crops_of_their_records(folder: Path, stated: Manifest) -> None:
    batches = list(evaluation_batches(config(folder), stated, batch_size=8))
    assert ids(batches) == list(range(STORED))
    for batch in batches:
        for row, position in enumerate(batch.id):
            index = int(position)
            known = people(index % 3, index)
            view = center_crop(
                make_view(decode(photo(index)), known, config(folder)), config(folder)
            )
            np.testing.assert_array_equal(batch.image[row], view.image)
            np.testing.assert_allclose(batch.keypoints[row, : index % 3], view.keypoints, rtol=1e-5)
            assert not batch.keypoints[row, index % 3 :].any()
            assert batch.disc_radius[row] == pytest.approx(view.disc_radius)
            assert batch.label[row] == (0 if index == 7 else index % 3)
            assert batch.weight[row] == (index != 7)


def test_multi_labels_are_zeros_and_ones(tmp_path: Path) -> None:
    labels = {index: np.array([index & 1, index >> 1 & 1, 0], np.int8) for index in range(4)}
    stated = store(tmp_path, 4, kind="multi", labels=labels)
    for batch in evaluation_batches(config(tmp_path), stated, batch_size=3):
        assert batch.label.dtype == np.int8
        for row, position in enumerate(batch.id):
            expected = labels[int(position)] if position >= 0 else 0
            np.testing.assert_array_equal(batch.label[row], expected)
            assert batch.weight[row] == (position >= 0)


def test_batches_depend_on_the_seed_alone(folder: Path, stated: Manifest) -> None:
    first = train(folder, stated, 3)
    assert_same(first, train(folder, stated, 3))
    assert ids(train(folder, stated, 3, seed=1)) != ids(first)


def test_each_epoch_has_each_record_once_in_a_new_order(folder: Path, stated: Manifest) -> None:
    seen = train(folder, stated, 15, batch_size=8)
    epochs = np.array(ids(seen)).reshape(3, STORED)
    for epoch in epochs:
        assert sorted(epoch) == list(range(STORED))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    images = np.concatenate([batch.image for batch in seen])
    shown = [images[np.flatnonzero(epochs.ravel() == position)] for position in range(STORED)]
    again = sum(np.array_equal(views[0], views[1]) for views in shown)
    assert again < STORED / 4, "the crops of the first epoch came back in the second"


def test_batches_span_epochs(folder: Path, stated: Manifest) -> None:
    seen = ids(train(folder, stated, 5, batch_size=16))
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(STORED))


@pytest.mark.parametrize("start", [1, 30])
def test_starting_at_a_step_equals_skipping_to_it(
    folder: Path, stated: Manifest, start: int
) -> None:
    for process in ((0, 1), (1, 2)):
        options = {"batch_size": 2, "process": process}
        all_of_them = train(folder, stated, start + 2, **options)
        assert_same(train(folder, stated, 2, start_step=start, **options), all_of_them[start:])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_split_the_same_global_batches(
    folder: Path, stated: Manifest, count: int
) -> None:
    whole = train(folder, stated, 12, batch_size=8)
    parts = [train(folder, stated, 12, batch_size=8, process=(i, count)) for i in range(count)]
    joined = [
        jax.tree.map(lambda *arrays: np.concatenate(arrays), *step)
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "count"), [(7, 1), (3, 3), (8, 4), (64, 2)])
def test_evaluation_counts_each_record_once(
    folder: Path, stated: Manifest, batch_size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = records.open_split(folder, "train", stated)
    stored = [opened.source[position] for position in range(STORED)]
    for length in range(1, STORED + 1):
        shortened = records.RecordSource(stored[:length], opened.name)
        monkeypatch.setattr(records, "open_split", lambda *_, short=shortened: short)
        parts = [
            list(
                evaluation_batches(
                    config(folder), stated, batch_size=batch_size, process=(index, count)
                )
            )
            for index in range(count)
        ]
        assert [len(part) for part in parts] == [-(-length // batch_size)] * count
        rows = [batch for part in parts for batch in part]
        assert all(len(array) == batch_size // count for array in jax.tree.leaves(rows))
        positions = np.concatenate([batch.id for batch in rows])
        assert sorted(positions[positions >= 0]) == list(range(length))
        assert (positions[positions < 0] == -1).all()
        weights = np.concatenate([batch.weight for batch in rows])
        assert weights.sum() == length - (length > 7)
        padding = [batch.image[batch.id < 0] for batch in rows]
        assert not any(images.any() for images in padding)


def test_fewer_examples_are_spread_over_the_split(folder: Path, stated: Manifest) -> None:
    def positions(most: int) -> list[int]:
        return ids(
            list(evaluation_batches(config(folder), stated, batch_size=5, max_examples=most))
        )

    assert positions(10) == list(range(0, STORED, 4))
    assert positions(3) == [0, 13, 26, -1, -1]
    assert positions(STORED + 9) == positions(0) == list(range(STORED))


@pytest.mark.parametrize(
    ("batch_size", "count", "better"), [(30, 4, "28 or 32"), (3, 4, "4"), (9, 2, "8 or 10")]
)
def test_a_batch_that_does_not_divide_is_refused(
    folder: Path, stated: Manifest, batch_size: int, count: int, better: str
) -> None:
    arguments = {"batch_size": batch_size, "process": (0, count)}
    message = rf"batch_size={batch_size} is not divisible by {count} processes; use {better}$"
    with pytest.raises(ConfigError, match="^train." + message):
        training_batches(config(folder), stated, seed=0, **arguments)
    with pytest.raises(ConfigError, match="^eval." + message):
        evaluation_batches(config(folder), stated, **arguments)


BAD = {
    "a label out of range": ({"labels": {5: 3}}, "its label 3 is outside 0..2"),
    "a label below -1": ({"labels": {5: -2}}, "its label -2 is outside 0..2"),
    "an image cut off": ({"images": {5: photo(5)[:-40]}}, "it is damaged or cut off"),
    "no image": ({"images": {5: b"nothing"}}, "it is no image"),
    "more people than stated": ({"shown": {5: 4}}, "it shows 4 people and the manifest says at"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_ends_the_batches_and_is_named(tmp_path: Path, case: str) -> None:
    options, reason = BAD[case]
    stated = store(tmp_path, 9, **options)
    message = rf"^record 5 \('é 5.jpg'\) of split 'train' in {tmp_path}: {reason}"
    for batches in (
        evaluation_batches(config(tmp_path), stated, batch_size=2),
        training_batches(config(tmp_path), stated, seed=0, batch_size=2),
    ):
        seen = []
        with pytest.raises(DataError, match=message) as refusal:
            seen.extend(batches)
        assert len(str(refusal.value).splitlines()) == 1
        assert 5 not in ids(seen or [])
        assert list(batches) == []


@pytest.mark.parametrize("fields", [{}, {"limit_width_px": 16}, {"preprocessing": "modern"}])
def test_caching_decoded_images_changes_nothing(
    folder: Path, stated: Manifest, fields: dict[str, Any]
) -> None:
    plain, kept = (
        take(
            training_batches(config(folder, cache=cache, **fields), stated, seed=0, batch_size=8), 8
        )
        for cache in ("none", "ram")
    )
    assert_same(kept, plain)


@pytest.mark.parametrize("keeps", [True, False])
def test_cached_images_are_decoded_once(
    folder: Path, stated: Manifest, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_module.Rows(config(folder), stated, "train")
    decoded = []
    monkeypatch.setattr(
        rows_module, "decode", lambda data, **how: decoded.append(data) or decode(data, **how)
    )
    if keeps:
        rows.cache_decoded()
    for seed in range(3):
        specs = [rows_module.RowSpec(position, seed) for position in range(STORED)]
        rows.batch(specs, np.empty(rows.image_shape(STORED), np.uint8))
    assert len(decoded) == STORED * (1 if keeps else 3)


def test_a_cache_that_does_not_fit_in_memory_is_refused(
    folder: Path, stated: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = STORED * 24 * 18 * 3
    monkeypatch.setattr(rows_module, "available_memory", lambda: size - 1)
    message = (
        r"data.cache=ram needs about 0.0 GiB for split 'train' in .* and 0.0 GiB are free; use"
    )
    with pytest.raises(ConfigError, match=message):
        training_batches(config(folder, cache="ram"), stated, seed=0, batch_size=4)
    monkeypatch.setattr(rows_module, "available_memory", lambda: size)
    training_batches(config(folder, cache="ram"), stated, seed=0, batch_size=4).close()


def test_the_free_memory_of_this_machine_is_known() -> None:
    assert 2**26 < rows_module.available_memory() < 2**50


@pytest.mark.parametrize("cores", [1, 2])
def test_closing_ends_the_threads(
    folder: Path, stated: Manifest, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "available_cores", lambda: 1)
    whole = train(folder, stated, 1)
    before = threading.active_count()
    monkeypatch.setattr(loader, "available_cores", lambda: cores)
    batches = training_batches(config(folder), stated, seed=0, batch_size=4)
    assert_same([next(batches)], whole)
    assert (threading.active_count() > before) == (cores > 1)
    batches.close()
    batches.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert list(batches) == []


def test_a_caller_need_not_parse_flags(folder: Path, stated: Manifest) -> None:
    flags.FLAGS.unparse_flags()
    try:
        assert len(train(folder, stated, 1)) == 1
        assert flags.FLAGS.is_parsed(), "a worker would refuse to start"
    finally:
        flags.FLAGS.mark_as_parsed()
