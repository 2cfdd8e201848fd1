"""OpenPose's JSON files become MPII's joints as in the Attentional Pooling release."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.example import JOINTS
from data_pipelines.joints import openpose
from tests.support.tiny_data import tiny_data

# MPII's joint for each keypoint of OpenPose's COCO model, as its release lists them
RELEASE = {9: 0, 8: 1, 12: 2, 11: 3, 10: 4, 13: 5, 14: 6, 15: 7, 2: 8, 1: 9, 0: 10, 3: 11, 4: 12,
           5: 13}  # fmt: skip


def written(folder: Path, content: Any) -> Path:
    path = folder / "image_00001.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def person(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 200, (18, 3))


@pytest.mark.parametrize("form", openpose.FORMS, ids="-".join)
def test_joints_are_those_of_the_release(form: tuple[str, str], tmp_path: Path) -> None:
    outer, inner = form
    people = [person(0), person(1)]
    content = {outer: [{inner: each.ravel().tolist()} for each in people], "version": 1.0}
    found = openpose.read(written(tmp_path, content))
    assert found.shape == (2, 16, 3)
    for joints, points in zip(found, people, strict=True):
        for joint in range(16):
            if joint in (6, 7):
                assert not joints[joint].any(), JOINTS[joint]
                continue
            np.testing.assert_allclose(joints[joint, :2], points[RELEASE[joint], :2], rtol=1e-6)
            assert joints[joint, 2] == 2


@pytest.mark.parametrize("column", range(3))
def test_a_number_of_zero_or_less_is_no_joint(column: int, tmp_path: Path) -> None:
    for value in (0.0, -1.0):
        points = person()
        points[4, column] = value  # the right wrist
        found = openpose.read(written(tmp_path, {"bodies": [{"joints": points.ravel().tolist()}]}))
        assert not found[0, 10].any() and found[0, 11].all()


def test_an_image_without_people_has_none(tmp_path: Path) -> None:
    assert openpose.read(written(tmp_path, {"bodies": []})).shape == (0, 16, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("\ud800", "no JSON"),
        ([], "neither bodies"),
        ({"bodies": {}}, "neither bodies"),
        ({"bodies": [[]]}, "neither bodies"),
        ({"bodies": [{"joints": [1.0] * 53}]}, "no 18 keypoints"),
        ({"bodies": [{"joints": ["a"] * 54}]}, "no 18 keypoints"),
        ({"bodies": [{"joints": [[1.0], [2.0, 3.0]]}]}, "no 18 keypoints"),
        ({"bodies": [{"joints": None}]}, "no 18 keypoints"),
        ('{"bodies": [{"joints": [' + ",".join(["1e999"] * 54) + "]}]}", "no pixel"),
        ('{"bodies": [{"joints": [' + ",".join(["NaN"] * 54) + "]}]}", "no pixel"),
        ('{"bodies": [{"joints": [' + ",".join(["9" * 400] * 54) + "]}]}", "no 18 keypoints"),
        ({"bodies": [{"joints": [1.0] * 54}] * 101}, "more than 100 people"),
    ],
)
def test_faulty_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "image_00001.json"
    if content == "\ud800":
        path.write_bytes(b"\xff\xfe")
    else:
        written(tmp_path, content)
    with pytest.raises(DataError, match=message):
        openpose.read(path)


def test_unreadable_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        openpose.JointFiles(tmp_path / "none")
    files = openpose.JointFiles(tmp_path)
    raw = tiny_data(tmp_path / "in", sizes={"train": 3})
    assert list(files.add_notes(raw).notes) == ["joints: people in 2 of 3 images"]
    assert len(files.find("absent", 7)) == 0
    with pytest.raises(DataError, match=r"holds no file of the 1 images, such as .*image_00007"):
        files.add_notes(raw)
    for name, make in (("large", None), ("pipe", os.mkfifo)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "image_00001.json"
        if make is None:
            path.write_bytes(bytes(openpose.MAX_BYTES + 1))
        else:
            make(path)
        assert len(files.find(name)) == 0
    _, absent, unreadable = files.add_notes(raw).notes
    assert "1 images without people, as their file is absent" in absent
    assert "absent/image_00007.json" in absent
    assert "2 images without people, as their file cannot be read" in unreadable
