"""Each person of a drawn crowd has its own action and box, and the files say the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import manifest, records
from data_pipelines.core.boxes import around_joints, find_overlaps
from data_pipelines.datasets import crowd, joints
from data_pipelines.datasets.drawn.actions import ACTIONS
from data_pipelines.datasets.drawn.compositor import CROWD
from data_pipelines.example import RawData
from tests.support.tiny_data import build

SIZES = {"train": 24, "val": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RawData:
    return crowd.draw(tmp_path_factory.mktemp("drawn") / "crowd", sizes=SIZES)


def test_people_have_different_actions_and_all_occur(data: RawData) -> None:
    assert (data.label_kind, data.classes) == ("multi", tuple(ACTIONS))
    entries = data.splits["train"].entries
    counts = {len(entry.person_labels or ()) for entry in entries}
    assert counts == {2, 3, 4}
    for entry in entries:
        assert entry.person_labels is not None and entry.boxes is not None
        assert len(set(entry.person_labels)) == len(entry.boxes) == len(entry.keypoints)
        assert np.flatnonzero(entry.label).tolist() == sorted(entry.person_labels)
    assert np.stack([entry.label for entry in entries]).any(0).all()


def test_boxes_are_the_extent_of_each_persons_pixels(data: RawData) -> None:
    for number, entry in enumerate(data.splits["train"].entries[:8]):
        scene = crowd.draw_scene(0, "train", number)
        assert entry.boxes is not None
        for index, (left, top, right, bottom) in enumerate(entry.boxes.astype(int)):
            own = scene.owner == CROWD + 2 * index
            inside = own[top:bottom, left:right]
            assert inside.sum() == own.sum() > 300
            assert (
                inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            )
        near = find_overlaps(entry.boxes, around_joints(entry.keypoints))
        assert near.min() > 0.4, "the joints are another person's"


def test_the_files_hold_masks_boxes_and_actions(
    data: RawData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joints, "parse_in_child", lambda _, path: joints.parse(path))
    folder = data.splits["train"].entries[0].path.parents[1]
    content = json.loads((folder / crowd.PEOPLE).read_text())
    found = joints.read(folder / crowd.PEOPLE)
    with np.load(folder / crowd.MASKS, allow_pickle=False) as masks:
        for entry in data.splits["val"].entries:
            boxes = found.images[entry.path.name].boxes
            assert boxes is not None and entry.boxes is not None
            assert np.array_equal(boxes, entry.boxes)
            for index, (left, top, right, bottom) in enumerate(boxes.astype(int)):
                mask, label = masks[entry.id], (entry.person_labels or ())[index]
                assert (mask[top:bottom, left:right] == 1 + 2 * index).any()
                holds = ACTIONS[crowd.CLASSES[label]].grip is not None
                assert (mask == 2 + 2 * index).any() == holds
            assert masks[entry.id].max() <= 2 * len(boxes)
    actions = [each["action"] for each in content["annotations"]]
    listed = [each for split in SIZES for each in data.splits[split].entries]
    labels = [label for entry in listed for label in entry.person_labels or ()]
    assert actions == [crowd.CLASSES[each] for each in labels]


def test_prepared_records_hold_them(data: RawData, tmp_path: Path) -> None:
    lines: list[str] = []
    made = build(tmp_path / "out", data, log=lines.append)
    assert "crowd/people.json has the box and the action of each person" in lines
    assert made.has_boxes and made.max_people == 4
    source = records.open_split(tmp_path / "out", "train", manifest.load(tmp_path / "out"))
    for position, entry in enumerate(data.splits["train"].entries):
        record = source[position]
        np.testing.assert_array_equal(record["boxes"], entry.boxes)
        assert tuple(record["person_labels"]) == entry.person_labels
