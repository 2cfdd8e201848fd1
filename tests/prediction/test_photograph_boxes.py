"""The boxes and secondary regions of prediction are those of evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.config import DataConfig
from data_pipelines.core.boxes import find_areas
from data_pipelines.core.errors import DataError
from data_pipelines.example import People
from data_pipelines.rows import RowSpec, fill_people
from gap_jax.prediction.people import find_people, make_people
from gap_jax.prediction.photograph import prepare
from gap_jax.prediction.sources import Source

SIDE_PX = 12


def configure(**fields: Any) -> DataConfig:
    return DataConfig(image_size_px=SIDE_PX, short_side_px=SIDE_PX, **fields).resolved()


@pytest.mark.parametrize("resize", ["opencv", "antialias", "legacy"])
def test_image_without_box_is_the_whole_crop(resize: str) -> None:
    photo = np.zeros((30, 40, 3), np.uint8)
    prepared = prepare(photo, configure(resize=resize, preprocessing="reference"))
    assert prepared.box.tolist() == [0, 0, SIDE_PX, SIDE_PX]


def test_regions_of_a_person_are_those_of_evaluation() -> None:
    """Whichever record, and whoever else is in the image."""
    data = configure(regions=5)
    boxes = np.array([[1, 2, 7, 9], [4, 4, 11, 12]], np.float32)
    most = np.zeros((2, 3, 4), np.float32)
    people = People(most, np.zeros((2, 3, 5, 4), np.float32), np.full((2, 3), -1, np.int32))
    labels = np.full(2, -1)
    fill_people(people, 0, boxes, labels, RowSpec(7), data)
    fill_people(people, 1, boxes[::-1], labels, RowSpec(8), data)
    predicted = make_people(boxes, data)
    assert find_areas(predicted.regions).all()
    np.testing.assert_array_equal(people.regions[0, :2], predicted.regions[:, 0])
    np.testing.assert_array_equal(people.regions[1, 1::-1], predicted.regions[:, 0])
    fill_people(people, 1, boxes, labels, RowSpec(7, seed=3), data)
    assert (people.regions[1, :2] != predicted.regions[:, 0]).any((1, 2)).all()


def test_image_of_another_size_than_its_boxes_is_refused(tmp_path: Path) -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    listed = [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
              {"id": 2, "file_name": "b.jpg", "width": 30, "height": 40}]  # fmt: skip
    people = [{"image_id": n, "category_id": 1, "bbox": [1, 2, 5, 6]} for n in (1, 2)]
    categories = [{"id": 1, "name": "person"}]
    path = tmp_path / "people.json"
    path.write_text(json.dumps({"images": listed, "annotations": people, "categories": categories}))
    fitting, other = find_people([Source(name, lambda: image) for name in ("a.jpg", "b.jpg")], path)
    assert isinstance(fitting, Source) and isinstance(other, Source)
    assert fitting.load() is image and fitting.box == (1, 2, 6, 8)
    with pytest.raises(DataError, match="for 30 x 40 pixels and it has 40 x 30"):
        other.load()
