"""Batches hold the boxes, regions and classes of people; records of version 1 hold none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines import manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.core.boxes import find_areas, find_overlaps
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.decode import decode
from data_pipelines.example import PADDING_ID, HostBatch, People
from data_pipelines.loader import evaluation_batches, training_batches
from data_pipelines.manifest import Manifest
from data_pipelines.rows import Rows, RowSpec
from data_pipelines.transforms import center_crop, make_view
from tests.support.loader_data import (
    ARGUMENTS,
    MOST_PEOPLE,
    assert_same,
    config,
    photo,
    store,
    take,
)

STORED = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of 12 records; the i-th shows i % 3 people."""
    path = tmp_path_factory.mktemp("stored")
    store(path, STORED)
    return path


@pytest.fixture(scope="module")
def stated(folder: Path) -> Manifest:
    return manifest.load(folder)


def train(data: DataConfig, stated: Manifest, steps: int, **options: Any) -> list[HostBatch]:
    arguments = {**ARGUMENTS, "with_people": True, **options}
    return take(training_batches(data, stated, **arguments), steps)


def evaluate(data: DataConfig, stated: Manifest, size: int = 5) -> list[HostBatch]:
    return list(evaluation_batches(data, stated, batch_size=size, with_people=True))


def people_of(batch: HostBatch) -> People:
    assert batch.people is not None
    return batch.people


def test_evaluation_has_the_boxes_of_its_crop(folder: Path, stated: Manifest) -> None:
    data = config(folder, regions=6)
    source = records.open_split(folder, "train", stated)
    batches = evaluate(data, stated)
    assert [len(batch.id) for batch in batches] == [5, 5, 5]
    rows = 0
    for batch in batches:
        found = people_of(batch)
        assert found.boxes.shape == (5, MOST_PEOPLE, 4) and found.boxes.dtype == np.float32
        assert found.regions.shape == (5, MOST_PEOPLE, 6, 4) and found.label.dtype == np.int32
        for row, position in enumerate(batch.id):
            expected = np.zeros((MOST_PEOPLE, 4), np.float32)
            label = [-1] * MOST_PEOPLE
            count = 0
            if position != PADDING_ID:
                record = source[int(position)]
                image, count = decode(record["image"]), len(record["keypoints"])
                view = make_view(image, record["keypoints"], data, record["boxes"])
                expected[:count] = center_crop(view, data).boxes
                label[:count] = range(count)
            if not expected.any():  # a padding row, or nobody is shown
                expected[0] = 0, 0, 12, 12
                label[0] = -1
            rows += count > 0
            np.testing.assert_array_equal(found.boxes[row], expected)
            shown = find_areas(expected) > 0
            assert found.label[row].tolist() == np.where(shown, label, -1).tolist()
            of_padding = position == PADDING_ID
            assert find_areas(found.regions[row, shown]).any(1).all() != of_padding
            assert not found.regions[row, ~shown].any()
    assert rows == STORED * 2 // 3


def test_regions_depend_on_seed_step_and_row_alone(folder: Path, stated: Manifest) -> None:
    data = config(folder, regions=4, region_iou=(0.3, 0.6))
    batches = train(data, stated, 6)
    assert_same(train(data, stated, 2, start_step=4), batches[4:])
    whole = train(data, stated, 2, batch_size=8)
    for step in range(2):
        for name in ("boxes", "regions", "label"):
            parts = [getattr(people_of(batches[2 * step + half]), name) for half in range(2)]
            np.testing.assert_array_equal(
                np.concatenate(parts), getattr(people_of(whole[step]), name)
            )
    other = train(data, stated, 1, seed=6)[0]
    assert not np.array_equal(people_of(other).regions, people_of(batches[0]).regions)
    for found in map(people_of, batches):
        shown = find_areas(found.regions) > 0
        overlaps = find_overlaps(found.boxes[:, :, None].astype(float), found.regions)[shown]
        assert overlaps.min() >= 0.3 - 1e-5 and overlaps.max() <= 0.6 + 1e-5
    one, two = (evaluate(data, stated, size) for size in (3, 6))
    joined = np.concatenate([people_of(each).regions for each in one])
    np.testing.assert_array_equal(joined, np.concatenate([people_of(each).regions for each in two]))


def test_each_row_of_training_has_regions_of_its_own(tmp_path: Path) -> None:
    stated = store(tmp_path, 1, images={0: photo(0, 18, 18)}, shown={0: 1})
    data = config(tmp_path, regions=5, short_side_px=12, flip=False)  # every crop is the image
    rows = Rows(data, stated, "train", with_people=True)
    specs = [RowSpec(0, 7), RowSpec(0, 8), RowSpec(0, 7), RowSpec(0)]
    found = people_of(rows.batch(specs, np.zeros((4, 12, 12, 3), np.uint8)))
    assert found.boxes[:, 0].any(1).all() and (found.boxes == found.boxes[0]).all()
    assert len({each.tobytes() for each in found.regions}) == 3
    np.testing.assert_array_equal(found.regions[0], found.regions[2])


def test_a_crop_without_people_is_its_own_person(tmp_path: Path) -> None:
    stated = store(tmp_path, 1, shown={0: 2})
    rows = Rows(config(tmp_path), stated, "train", with_people=True)
    view, label = rows.read(0)
    beside = np.array([[20, 1, 24, 9], [0, 0, 0, 0]], float)  # right of the crop of 18 x 18
    rows._cache = {(0, 0): (view._replace(boxes=beside), label)}
    batch = rows.batch([RowSpec(0)], np.zeros((1, 12, 12, 3), np.uint8))
    found = people_of(batch)
    assert found.boxes[0].tolist() == [[0, 0, 12, 12], [0] * 4, [0] * 4]
    assert found.label[0].tolist() == [-1, -1, -1]
    beside[1] = 3, 0, 12, 9
    found = people_of(rows.batch([RowSpec(0)], np.zeros((1, 12, 12, 3), np.uint8)))
    assert not found.boxes[0, 0].any() and found.boxes[0, 1].any()
    assert found.label[0].tolist() == [-1, 1, -1]  # only the second is in the crop


@pytest.mark.slow
def test_a_worker_changes_no_byte(folder: Path, stated: Manifest) -> None:
    expected = train(config(folder, regions=3), stated, 4)
    assert_same(train(config(folder, regions=3, workers=1), stated, 4), expected)


def test_a_cache_changes_no_byte(folder: Path, stated: Manifest) -> None:
    expected = train(config(folder, regions=3), stated, 4)
    assert_same(train(config(folder, regions=3, cache="ram"), stated, 4), expected)
    plain = train(config(folder), stated, 4, with_people=False)
    assert all(batch.people is None for batch in plain)
    assert_same([batch._replace(people=None) for batch in expected], plain)


def test_records_without_boxes_are_read_and_refused_by_name(tmp_path: Path) -> None:
    now, before = tmp_path / "now", tmp_path / "before"
    stated, old = store(now, STORED), store(before, STORED, has_boxes=False)
    assert (stated.format_version, old.format_version) == (2, 1)
    assert manifest.load(before) == old and not old.has_boxes
    assert_same(
        train(config(before), old, 4, with_people=False),
        train(config(now), stated, 4, with_people=False),
    )
    record = records.open_split(before, "train", old)[2]
    assert (
        record["boxes"].tolist() == [[0] * 4] * 2 and record["person_labels"].tolist() == [-1] * 2
    )
    for refuse in (lambda: train(config(before), old, 1), lambda: evaluate(config(before), old)):
        with pytest.raises(DataError) as refusal:
            refuse()
        assert str(refusal.value) == (
            f"the records of {before} hold no boxes of people (format version 1); prepare them "
            f"again with `gap_jax data prepare people --out {before} --overwrite` and the options "
            "of the first time"
        )


def test_a_version_that_differs_from_the_records_is_refused(tmp_path: Path) -> None:
    for has_boxes in (False, True):
        folder = tmp_path / str(has_boxes)
        stated = store(folder, 2, has_boxes=has_boxes)
        claimed = Manifest(**{**vars(stated), "format_version": 2 - has_boxes})
        with pytest.raises(DataError, match=r"the metadata in .* and the manifest of .* differ"):
            records.open_split(folder, "train", claimed)


def test_version_1_is_written_as_before(tmp_path: Path) -> None:
    """The digest is that of the last code without boxes."""
    joints = np.arange(96, dtype=np.float32).reshape(2, 16, 3)
    record = {"id": "é.jpg", "image": b"bytes of a file", "width_px": 24, "height_px": 18,
              "label": 1, "keypoints": joints, "source_index": 7}  # fmt: skip
    [shard] = records.write(tmp_path, "single", 3, {"train": [record]}, has_boxes=False)["train"]
    assert shard.sha256 == "c64b1727b2325e31b44f5612d2c453fb5de3d46fb4d027246a0a5d61e12dc59e"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"boxes": np.full((2, 4), np.nan)}, "a box is not finite or reaches beyond"),
        ({"boxes": np.zeros((1, 4))}, r"its boxes have shape \(1, 4\), not \(2, 4\)"),
        ({"person_labels": np.array([0, 3])}, "a person's label is outside -1..2"),
    ],
)
def test_a_hostile_box_is_named(
    changes: dict[str, Any], fault: str, folder: Path, stated: Manifest
) -> None:
    rows = Rows(config(folder), stated, "train", with_people=True)
    record = {**rows._records[2], **changes}
    with pytest.raises(DataError, match=fault):
        rows._decode(record, 0)


@pytest.mark.parametrize("fields", [{"eval_crops": "five"}, {"eval_flip": True}])
def test_several_views_are_refused(fields: Any, folder: Path, stated: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"sees one view of an image, and data.eval_crops=.* set"):
        evaluate(config(folder, **fields), stated)
    assert evaluate(config(folder, eval_crops="full"), stated)


def test_videos_are_refused(folder: Path, stated: Manifest) -> None:
    video = Manifest(**{**vars(stated), "name": "hmdb51", "frames": 25})
    with pytest.raises(DataError, match="holds videos of data set hmdb51, whose records have no"):
        train(config(folder), video, 1)
