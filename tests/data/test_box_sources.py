"""Boxes of people come from each data set's own files, or from the joints, and are clipped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.core.boxes import JOINTS_MARGIN, around_joints, clip
from data_pipelines.core.errors import DataError
from data_pipelines.datasets import folder, joints, mpii, mpii_mat, people
from data_pipelines.datasets.own_photos import Options
from data_pipelines.datasets.still import stanford40, voc_action
from data_pipelines.datasets.still.voc_xml import MAX_OBJECTS, read_people
from data_pipelines.example import RawData
from tests.support.mat_fixtures import EMPTY, Image, point, rect, struct_array, write_mat
from tests.support.still_data import ACTIONS, box_xml, write_stanford40, write_voc
from tests.support.tiny_data import build, standing_people, tiny_data, write_photo


@pytest.fixture(autouse=True)
def parse_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses files in this process, as a child takes most of a second to start."""
    for reader, parser in ((mpii, mpii_mat), (joints, joints)):
        monkeypatch.setattr(reader, "parse_in_child", lambda _, path, use=parser: use.parse(path))


def place(x: float, y: float, scale: Any) -> dict[str, Any]:
    return {"scale": scale, "objpos": struct_array([{"x": x, "y": y}])}


def read_records(out: Path, raw: RawData, **options: Any) -> list[records.Record]:
    made = build(out, raw, **options)
    source = records.open_split(out, "train", made)
    return [source[position] for position in range(len(source))]


def test_mpii_joins_a_square_around_the_place_with_the_joints(tmp_path: Path) -> None:
    points = [point(0, 6, 21, is_visible=1), point(9, 31, 41, is_visible=1)]
    far = [point(0, 6, 39, is_visible=1)]
    rects = [
        rect(points, **place(31, 21, 0.1)),  # a square of 20 pixels around (30.5, 20.5)
        rect(None, **place(11, 12, 0.05)),  # no joints
        rect(far, scale=EMPTY, objpos=EMPTY),  # no place
        rect(None, **place(11, 12, -1.0)),  # neither
        rect(None, scale=EMPTY, objpos=EMPTY),
        rect(None, **place(500, 500, 0.05)),  # beyond the image
        rect(None, **place(2, 12, np.inf)),
    ]
    names = {"train": "000000001", "val": "000000002", "test": "000000003"}
    images = [Image(f"{name}.jpg", rects) for name in names.values()]
    write_mat(tmp_path / "a.mat", images)
    (tmp_path / "lists").mkdir()
    for index, (split, name) in enumerate(names.items()):
        write_photo(tmp_path / "images" / f"{name}.jpg", index)
        (tmp_path / "lists" / f"images_mpii_{split}.txt").write_text(f"{name}\n")
    raw = mpii.read(tmp_path / "a.mat", tmp_path / "images", tmp_path / "lists")
    (entry,) = raw.splits["train"].entries
    assert entry.boxes is not None and len(entry.keypoints) == 4
    assert entry.boxes.tolist() == [
        [5, 10.5, 40.5, 41], [5.5, 6.5, 15.5, 16.5], [5, 38, 6, 39],
        [494.5, 494.5, 504.5, 504.5],
    ]  # fmt: skip
    (record,) = read_records(tmp_path / "out", raw)
    np.testing.assert_array_equal(record["boxes"], [*entry.boxes[:3], [0] * 4])
    assert record["person_labels"].tolist() == [-1] * 4
    assert not record["keypoints"][[1, 3]].any()


@pytest.mark.parametrize("scale", [0.0, np.nan, 1e9, EMPTY])
def test_a_place_without_a_size_counts_as_none(scale: Any, tmp_path: Path) -> None:
    rects = [rect(None, **place(3, 3, scale)), rect([point(1, 2, 2)], **place(3, 3, scale))]
    write_mat(tmp_path / "a.mat", [Image(rects=rects)])
    (row,) = mpii_mat.parse(tmp_path / "a.mat")
    assert len(row.people) == 1 and row.places == [None]


def test_drawn_people_lie_in_their_boxes(tmp_path: Path) -> None:
    sizes = {"train": 6, "val": 2, "test": 2}
    people.draw(tmp_path / "raw", sizes=sizes)
    raw = mpii.read(
        tmp_path / "raw" / "annotations.mat", tmp_path / "raw" / "images",
        tmp_path / "raw" / "splits", name="people",
    )  # fmt: skip
    for split, size in sizes.items():
        assert len(raw.splits[split].entries) == size
        for number, entry in enumerate(raw.splits[split].entries):
            scene = people.draw_scene(0, split, number)
            assert entry.boxes is not None and len(entry.boxes) == len(scene.people)
            height, width = scene.owner.shape
            left, top, right, bottom = clip(entry.boxes, width, height)[0]
            rows, columns = np.nonzero(scene.owner == 1)
            inside = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
            assert inside.mean() > (0.8 if split == "test" else 0.95)  # feet without joints
            assert right - left > scene.people[0].height_px / 2


def test_stanford40_has_everybodys_box_and_action(tmp_path: Path) -> None:
    write_stanford40(tmp_path, {"train": [("a.jpg", ACTIONS[0]), ("b.jpg", ACTIONS[1])]})
    objects = [
        ((11, 5, 40, 44), f"<action>{ACTIONS[0]}</action>"),
        ((1, 1, 60, 44), f"<action>{ACTIONS[2]}</action>"),
        ((2, 2, 9, 9), "<action>flying</action>"),
        ((2, 2, 9, 90), ""),
    ]
    (tmp_path / "XMLAnnotations" / "a.xml").write_text(box_xml(objects))
    first, second = read_records(tmp_path / "out", stanford40.read(tmp_path))
    assert first["boxes"].tolist() == [
        [10, 4, 40, 44], [0, 0, 60, 44], [1, 1, 9, 9], [1, 1, 9, 44],
    ]  # fmt: skip
    assert first["person_labels"].tolist() == [0, -1, -1, -1]
    assert (second["boxes"].tolist(), second["person_labels"].tolist()) == ([[10, 4, 40, 44]], [1])
    assert not first["keypoints"].any() and first["keypoints"].shape == (4, 16, 3)
    (cropped, _) = read_records(tmp_path / "crops", stanford40.read(tmp_path, crop_people=True))
    assert cropped["boxes"].shape == (0, 4)


def test_odd_annotations_of_stanford40(tmp_path: Path) -> None:
    write_stanford40(tmp_path, {"train": [("a.jpg", ACTIONS[0]), ("b.jpg", ACTIONS[1])]})
    boxes = tmp_path / "XMLAnnotations"
    (boxes / "a.xml").write_text(box_xml([((40, 5, 11, 44), "")]))
    read_records(tmp_path / "out", stanford40.read(tmp_path), max_rejects=1)
    assert "a box ends before it begins" in (tmp_path / "out" / "rejects.csv").read_text()
    (boxes / "a.xml").unlink()
    assert "cannot read" in stanford40.read(tmp_path).rejects[0].reason
    (boxes / "a.xml").write_text(box_xml([((1, 1, 2, 2), "")] * (MAX_OBJECTS + 1)))
    with pytest.raises(DataError, match="it has 101 objects, more than 100"):
        read_people(boxes / "a.xml")
    for path in boxes.iterdir():
        path.unlink()
    boxes.rmdir()
    raw = stanford40.read(tmp_path)
    assert raw.notes == ["no folder XMLAnnotations: the images have no boxes of people"]
    assert [len(each["boxes"]) for each in read_records(tmp_path / "bare", raw)] == [0, 0]


def test_a_crop_of_voc_has_no_box(tmp_path: Path) -> None:
    labels = {("2010_1", 1): (1, -1, 0, -1)}
    write_voc(tmp_path, {"train": labels, "val": {("2011_2", 2): (-1, -1, -1, 1)}})
    (record,) = read_records(tmp_path / "out", voc_action.read(tmp_path))
    assert record["boxes"].shape == (0, 4) and record["person_labels"].shape == (0,)


def test_photographs_have_boxes_of_the_file_or_around_joints(tmp_path: Path) -> None:
    names = [f"{name}/{index}.jpg" for name in ("cat", "dog") for index in range(4)]
    for index, name in enumerate(names):
        write_photo(tmp_path / "photos" / "train" / name, index)
    content = {
        "images": [{"id": 0, "file_name": "cat/0.jpg"}],
        "annotations": [{"image_id": 0, "category_id": 1, "bbox": [50, -2, 20, 12]}],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "people.json").write_text(json.dumps(content))
    raw = folder.read(tmp_path / "photos", Options(tmp_path / "people.json", 0.3))
    found = {each["id"]: each["boxes"] for each in read_records(tmp_path / "out", raw)}
    given = found.pop("train/cat/0.jpg", None)
    assert given is None or given.tolist() == [[50, 0, 60, 10]]
    assert all(each.shape == (0, 4) for each in found.values())


def test_boxes_around_joints_shrink_with_the_image(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path, sizes={"train": 3, "val": 1})
    wide, narrow = (
        read_records(tmp_path / str(width), raw, max_width_px=width) for width in (0, 30)
    )
    assert [len(each["boxes"]) for each in wide] == [0, 1, 2]
    joints = standing_people(2, 60, 44)
    grown = around_joints(joints)
    np.testing.assert_allclose(wide[2]["boxes"], clip(grown, 60, 44), rtol=1e-6)
    extent = around_joints(joints, margin=0.0)
    longer = (extent[:, 2:] - extent[:, :2]).max(1)
    np.testing.assert_allclose(extent[:, 0] - grown[:, 0], JOINTS_MARGIN * longer, rtol=1e-5)
    np.testing.assert_allclose(narrow[2]["boxes"], wide[2]["boxes"] / 2, rtol=1e-6)
    assert wide[2]["person_labels"].tolist() == [-1, -1]
