"""Joints in COCO's form are read, converted and matched; hostile files are refused in one line."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.datasets import joints
from data_pipelines.datasets.joints import COCO, DERIVED, Annotated, Joints
from data_pipelines.example import JOINTS

# x and y of a standing person in COCO's order: face, shoulders, elbows, wrists, hips, knees, ankles
STANDING = [
    (50, 20), (52, 18), (48, 18), (54, 19), (46, 19),
    (60, 34), (40, 34), (64, 48), (36, 48), (66, 60), (34, 60),
    (56, 62), (44, 62), (57, 80), (43, 80), (58, 98), (42, 98),
]  # fmt: skip


def flat(points: Any, visibility: int = 2) -> list[float]:
    return [number for x, y in points for number in (x, y, visibility)]


def coco(**changes: Any) -> dict[str, Any]:
    """Returns the content of a file of one image with two people."""
    names = [name.replace(" ", "_") for name in COCO]
    return {
        "info": {"any": ["thing"]},
        "images": [{"id": 7, "file_name": "cat/1.jpg", "width": 100, "height": 120}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "keypoints": flat(STANDING)},
            {"id": 2, "image_id": 7, "category_id": 1, "keypoints": flat(STANDING, 1)},
            {"id": 3, "image_id": 7, "category_id": 1, "keypoints": [0] * 51},
            {"id": 4, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": names}, {"id": 9, "name": "dog"}],
        **changes,
    }


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "joints.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def parsed(tmp_path: Path, content: Any) -> Joints:
    derived, rows = joints.parse(written(tmp_path, content))
    return Joints(
        {
            name: Annotated(
                np.reshape([person for person, _ in people], (-1, 16, 3)),
                (size[0], size[1]) if size else None,
                np.array([box or [0] * 4 for _, box in people]).reshape(-1, 4),
            )
            for name, size, people in rows
        },
        derived,
    )


def test_coco_keypoints_become_our_joints(tmp_path: Path) -> None:
    found = parsed(tmp_path, coco())
    assert found.derived == list(DERIVED) and list(found.images) == ["cat/1.jpg"]
    people, size, _ = found.images["cat/1.jpg"]
    assert size == (100, 120) and len(people) == 2  # nobody is annotated in the third
    points = dict(zip(COCO, STANDING, strict=True))
    for joint, (x, y, visibility) in zip(JOINTS, people[0], strict=True):
        if joint in points:
            assert ((x, y), visibility) == (points[joint], 2)
    derived = {name: people[0][JOINTS.index(name)].tolist() for name in DERIVED}
    assert derived["pelvis"] == [50, 62, 1] and derived["thorax"] == [50, 34, 1]
    assert derived["upper neck"] == [50, (34 + 18.8) / 2, 1]
    np.testing.assert_allclose(derived["head top"], [50, 26.4 - 2.4 * 7.6, 1])


def test_what_a_joint_is_derived_from_must_be_annotated(tmp_path: Path) -> None:
    for missing, absent in {
        "left_hip": {"pelvis", "left hip"},
        "left_shoulder": {"thorax", "upper neck", "head top", "left shoulder"},
        "nose": set(),
    }.items():
        content = coco()
        at = content["categories"][0]["keypoints"].index(missing)
        content["annotations"][0]["keypoints"][3 * at : 3 * at + 3] = [5, 5, 0]
        person = parsed(tmp_path, content).images["cat/1.jpg"].keypoints[0]
        gone = {name for name, point in zip(JOINTS, person, strict=True) if not point.any()}
        assert gone == absent


def test_our_own_joints_are_read_in_any_order(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(16)
    person = np.arange(48).reshape(16, 3) * 1.5
    person[:, 2] = np.arange(16) % 3
    names = [JOINTS[each].upper().replace(" ", "_") for each in order]
    content = coco(categories=[{"id": "p", "keypoints": names}])
    content["annotations"] = [
        {"image_id": 7, "category_id": "p", "keypoints": person[order].ravel().tolist()}
    ]
    found = parsed(tmp_path, content)
    assert not found.derived
    assert parsed(tmp_path, {**content, "derived": ["thorax"]}).derived == ["thorax"]
    expected = np.where(person[:, 2:] > 0, person, 0)
    np.testing.assert_array_equal(found.images["cat/1.jpg"].keypoints, [expected])


def test_the_file_is_read_in_a_child(tmp_path: Path) -> None:
    people, size, boxes = joints.read(written(tmp_path, coco())).images["cat/1.jpg"]
    assert people.shape == (2, 16, 3) and people.dtype == np.float32 and size == (100, 120)
    assert boxes is not None and boxes.shape == (2, 4)


def test_boxes_are_those_of_the_file_or_around_the_joints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joints, "parse_in_child", lambda _, path: joints.parse(path))
    content = coco()
    first, second, third, dog = content["annotations"]
    first["bbox"] = [10, 20.5, 30, 40]
    second["bbox"] = [10, 20, 0, 40]  # no area
    third["bbox"] = [1, 2, 3, 4]
    group = {**third, "iscrowd": 1}
    alone = {"image_id": 7, "category_id": 5, "bbox": [5, 6, 7, 8], "keypoints": "not read"}
    content["annotations"] = [first, second, third, dog, group, alone]
    content["categories"].append({"id": 5, "name": "person"})
    people, _, boxes = joints.read(written(tmp_path, content)).images["cat/1.jpg"]
    assert boxes is not None and len(people) == 4
    assert people[:2].any((1, 2)).all() and not people[2:].any()
    xy = people[1, :, :2]
    extent = np.array([*xy.min(0), *(xy.max(0) + 1)])
    margin = 0.1 * (extent[2:] - extent[:2]).max()
    expected = [[10, 20.5, 40, 60.5], extent + margin * np.array([-1, -1, 1, 1]),
                [1, 2, 4, 6], [5, 6, 12, 14]]  # fmt: skip
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)
    only = coco(categories=[{"id": 5, "name": "person"}], annotations=[alone])
    found = joints.read(written(tmp_path, only))
    assert not found.derived and found.images["cat/1.jpg"].keypoints.shape == (1, 16, 3)
    lines = joints.describe(tmp_path, found, found.images, 3)
    assert lines[0].endswith(
        "0 people in 0 of 3 photographs; 1 more people have a box without joints"
    )


def changed(value: Any, *path: str | int) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return content

    return change


HOSTILE: dict[str, tuple[Any, str]] = {
    "empty": (b"", "is no JSON"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xff", "is no JSON"),
    "deep": (b"[" * 200_000, "is no JSON"),
    "a list": ([], "the file has no categories"),
    "no images": (changed({}, "images"), "the file has images='{}' of type dict"),
    "a row of text": (changed(["x"], "images"), "images[0] has no file_name"),
    "a number as name": (changed(3, "images", 0, "file_name"), "has file_name='3' of type int"),
    "truth as id": (changed(True, "images", 0, "id"), "has id='True' of type bool"),
    "a list as id": (changed([1], "images", 0, "id"), "has id='[1]' of type list"),
    "no size": (changed(0, "images", 0, "width"), "images[0] is 0 x 120 pixels"),
    "half a size": (changed({"id": 7, "file_name": "a", "width": 3}, "images", 0), "no height"),
    "twice": (changed([{"id": 7, "file_name": "a"}] * 2, "images"), "the id or the file_name of"),
    "no such image": (changed(8, "annotations", 0, "image_id"), "has image_id=8, which is no"),
    "too few": (changed([1, 2, 3], "annotations", 0, "keypoints"), "has 3 numbers, not 51"),
    "text": (changed("x", "annotations", 0, "keypoints", 4), "holds 'x', which is no pixel"),
    "truth": (changed(True, "annotations", 0, "keypoints", 4), "holds 'True', which is no"),
    "no number": (changed(float("nan"), "annotations", 0, "keypoints", 4), "holds 'nan'"),
    "far": (changed(10**400, "annotations", 0, "keypoints", 4), "which is no pixel"),
    "visibility": (changed(3, "annotations", 0, "keypoints", 5), "not 0, 1 or 2"),
    "21 names": (changed(["x"] * 21, "categories", 0, "keypoints"), "has 21 keypoints that are"),
    "odd derived": (
        lambda content: {
            **changed(list(JOINTS), "categories", 0, "keypoints")(content),
            "derived": [["x"]],
        },
        "derived holds \"['x']\", which is no joint",
    ),
    "a short box": (changed([1, 2, 3], "annotations", 0, "bbox"), "a bbox of 3 numbers, not x"),
    "a reversed box": (changed([1, 2, -3, 4], "annotations", 0, "bbox"), "a bbox of -3 x 4 pix"),
    "an endless box": (
        changed([1, 2, float("inf"), 4], "annotations", 0, "bbox"),
        "holds 'inf', which is no pixel",
    ),
    "no names": (changed([{"id": 1}], "categories"), "names its keypoints or is called per"),
    "a crowd": (
        lambda content: changed(content["annotations"][:1] * 101, "annotations")(content),
        "'cat/1.jpg' shows more than 100 people",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    content = change(copy.deepcopy(coco())) if callable(change) else change
    path = written(tmp_path, content)
    with pytest.raises(DataError) as refusal:
        joints.parse(path)
    assert message in str(refusal.value) and str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


def test_mixed_forms_large_and_absent_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [{"id": 1, "keypoints": list(COCO)}, {"id": 2, "keypoints": list(JOINTS)}]
    with pytest.raises(DataError, match="mix COCO's keypoints and our own"):
        joints.parse(written(tmp_path, coco(categories=both)))
    absent = tmp_path / "absent.json"
    fix = "pass a JSON file of people's joints or boxes, as docs/photos.md describes"
    with pytest.raises(DataError, match=f"^there is no file {absent}; {fix}$"):
        joints.parse(absent)
    monkeypatch.setattr(joints, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=rf"more than 100\); {fix}"):
        joints.parse(tmp_path / "joints.json")


@pytest.mark.parametrize("name", ["1.jpg", "cat/1.jpg", "train/cat/1.jpg", "/x/train/cat/1.jpg"])
def test_file_names_fit_by_their_ends(name: str) -> None:
    found = Joints({name: Annotated(np.zeros((1, 16, 3), np.float32), None)})
    ids = ["train/cat/1.jpg", "train/cat/11.jpg", "train/at/2.jpg"]
    assert list(joints.match(Path("j"), found, [*ids, ids[0]])) == ids[:1]


def test_an_equal_name_fits_alone() -> None:
    found = Joints({"cat/1.jpg": Annotated(np.zeros((1, 16, 3), np.float32), None)})
    ids = ["cat/1.jpg", "train/cat/1.jpg"]
    assert list(joints.match(Path("j"), found, ids)) == ids[:1]


def test_file_names_that_fit_none_or_two_are_refused() -> None:
    one = Annotated(np.ones((1, 16, 3), np.float32), None)
    ids = ["cat/1.jpg", "dog/1.jpg"]
    with pytest.raises(DataError, match=r"'1.jpg' fits 'cat/1.jpg' and 'dog/1.jpg'; write its"):
        joints.match(Path("j"), Joints({"1.jpg": one}), ids)
    with pytest.raises(DataError, match=r"two images fit 'cat/1.jpg', one of them 'x/cat/1.jpg'"):
        joints.match(Path("j"), Joints({"cat/1.jpg": one, "x/cat/1.jpg": one}), ids)
    with pytest.raises(DataError, match=r"none of the 2 images of j is among .*'at/1.jpg', ''"):
        joints.match(Path("j"), Joints({"at/1.jpg": one, "": one}), ids)
    found = Joints({"cat/1.jpg": one, "gone.jpg": one}, ["thorax", "pelvis"])
    lines = joints.describe(Path("j"), found, joints.match(Path("j"), found, ids), 2)
    assert lines == [
        "joints: 1 people in 1 of 2 photographs; thorax, pelvis are derived from other joints",
        "1 images of j are not among the photographs",
    ]
