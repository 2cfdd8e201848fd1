"""The boxes and secondary regions of prediction are those of evaluation."""

import numpy as np
import pytest

from data_pipelines.config import DataConfig
from data_pipelines.core.boxes import find_areas
from data_pipelines.example import People
from data_pipelines.rows import RowSpec, fill_people
from gap_jax.prediction.people import make_people
from gap_jax.prediction.photograph import prepare

SIDE_PX = 12


def configure(**fields: object) -> DataConfig:
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
