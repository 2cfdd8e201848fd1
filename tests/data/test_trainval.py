"""The split `trainval`: train and val of a data set that has both, without storing them again."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.config import TRAINVAL
from data_pipelines.core.errors import DataError
from data_pipelines.loader import evaluation_batches, training_batches
from tests.support.loader_data import take
from tests.support.saved_runs import tiny_config
from tests.support.tiny_data import SIZES, build, prepare_tiny_people, tiny_data

COUNT = SIZES["train"] + SIZES["val"]


def test_trainval_is_train_then_val(tmp_path: Path) -> None:
    data = prepare_tiny_people(tmp_path)
    whole = records.open_split(tmp_path, TRAINVAL, data)
    parts = [records.open_split(tmp_path, split, data) for split in ("train", "val")]
    names = [part[index]["id"] for part in parts for index in range(len(part))]
    assert [whole[index]["id"] for index in range(len(whole))] == names
    assert len(set(names)) == COUNT
    joined, train, val = (data.find_split(name) for name in (TRAINVAL, "train", "val"))
    assert (joined.examples, joined.labelled) == (COUNT, COUNT)
    assert joined.with_joints == train.with_joints + val.with_joints
    assert joined.class_counts == tuple(np.add(train.class_counts, val.class_counts))
    assert len(joined.shards) == 2 and len({each.ids_sha256 for each in (joined, train, val)}) == 3


def test_an_epoch_and_an_evaluation_hold_every_image_of_both(tmp_path: Path) -> None:
    data = prepare_tiny_people(tmp_path)
    fields = "data.train_split=trainval", "data.eval_split=trainval"
    cfg = tiny_config(tmp_path, *fields).data
    with training_batches(cfg, data, seed=0, batch_size=1) as batches:
        epoch = take(batches, COUNT)
    assert sorted(batch.id.item() for batch in epoch) == list(range(COUNT))
    labels = {batch.id.item(): batch.label.item() for batch in epoch}
    with evaluation_batches(cfg, data, batch_size=1) as batches:
        assert {batch.id.item(): batch.label.item() for batch in batches} == labels
    assert [labels[index] for index in range(COUNT)] == [
        index % 3 for size in (SIZES["train"], SIZES["val"]) for index in range(size)
    ]


def test_trainval_needs_both_parts_and_gives_way_to_a_stored_one(tmp_path: Path) -> None:
    data = build(tmp_path / "lean", tiny_data(tmp_path, sizes={"train": 3, "test": 3}))
    with pytest.raises(DataError, match="has no split 'trainval'; it has train, test"):
        records.open_split(tmp_path / "lean", TRAINVAL, data)
    sizes = {"train": 3, "val": 3, TRAINVAL: 4}
    data = build(tmp_path / "own", tiny_data(tmp_path, sizes=sizes))
    assert data.find_split(TRAINVAL) == data.splits[TRAINVAL]
    assert len(records.open_split(tmp_path / "own", TRAINVAL, data)) == 4
