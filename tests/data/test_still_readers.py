"""Stanford40's and Pascal VOC's lists, boxes and XML, whole, odd and hostile."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import manifest, records
from data_pipelines.core.errors import DataError
from data_pipelines.datasets.still import stanford40, voc_action
from data_pipelines.datasets.still.voc_xml import MAX_BYTES, read_people
from data_pipelines.decode import decode
from data_pipelines.example import AMBIGUOUS, NEGATIVE, POSITIVE, UNKNOWN
from tests.support.still_data import ACTIONS, VOC_ACTIONS, box_xml, write_stanford40, write_voc
from tests.support.tiny_data import build

LISTED = {
    "train": [("b_001.jpg", ACTIONS[1]), ("a_001.jpg", ACTIONS[0])],
    "test": [("c_001.jpg", ACTIONS[2])],
}
PEOPLE = {
    "train": {("2010_1", 1): (1, -1, 0, -1), ("2010_1", 2): (-1, 1, 1, -1)},
    "val": {("2011_2", 2): (-1, -1, -1, 1)},
}


def test_stanford40_takes_labels_from_its_lists(tmp_path: Path) -> None:
    write_stanford40(tmp_path, LISTED)
    raw = stanford40.read(tmp_path)
    assert (raw.name, raw.label_kind, raw.classes) == ("stanford40", "single", ACTIONS)
    found = {
        split: [
            (entry.id, raw.classes[np.asarray(entry.label).item()], entry.box_px)
            for entry in each.entries
        ]
        for split, each in raw.splits.items()
    }
    assert found == {k: [(name, done, None) for name, done in v] for k, v in LISTED.items()}
    (tmp_path / "JPEGImages" / "c_001.jpg").unlink()
    assert stanford40.read(tmp_path).rejects == [("test", "c_001.jpg", "has no file in JPEGImages")]


def test_a_cropped_record_holds_the_pixels_of_the_box(tmp_path: Path) -> None:
    write_stanford40(tmp_path, LISTED)
    build(tmp_path / "out", stanford40.read(tmp_path, crop_people=True))
    assert not (tmp_path / "out" / "crops").exists()
    prepared = manifest.load(tmp_path / "out")
    record = records.open_split(tmp_path / "out", "train", prepared)[0]
    whole = decode((tmp_path / "JPEGImages" / "b_001.jpg").read_bytes())
    part = decode(record["image"])
    assert (record["width_px"], record["height_px"]) == (30, 40)
    difference = np.abs(part.astype(int) - whole[4:44, 10:40].astype(int))
    assert difference.mean() < 3 and difference.max() < 40


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (box_xml([]), "has 0 boxes of 'fixing_a_car', not one"),
        (box_xml([((1, 1, 9, 9), "<action>fixing_a_car</action>")] * 2), "has 2 boxes"),
        (box_xml([((70, 1, 90, 9), "<action>fixing_a_car</action>")]), "holds no pixel of an"),
        (None, "cannot read"),
    ],
)
def test_a_person_without_one_box_is_a_reject(xml: str | None, reason: str, tmp_path: Path) -> None:
    write_stanford40(tmp_path, LISTED)
    path = tmp_path / "XMLAnnotations" / "b_001.xml"
    path.unlink() if xml is None else path.write_text(xml)
    raw = stanford40.read(tmp_path, crop_people=True)
    build(tmp_path / "out", raw, max_rejects=1)
    assert reason in (tmp_path / "out" / "rejects.csv").read_text("utf-8")


def test_contradicting_lists_of_stanford40_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no folder ImageSplits; get Stanford40"):
        stanford40.read(tmp_path)
    write_stanford40(tmp_path, LISTED)
    lists = tmp_path / "ImageSplits"
    (lists / "train.txt").write_text("a_001.jpg\n")
    with pytest.raises(DataError, match=r"its actions differ in 1 images: 'b_001.jpg'"):
        stanford40.read(tmp_path)
    (lists / f"{ACTIONS[2]}_train.txt").write_text("a_001.jpg\n")
    with pytest.raises(DataError, match=r"'a_001.jpg', which is already in the list of 'applaud"):
        stanford40.read(tmp_path)
    (lists / f"{ACTIONS[2]}_train.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="is not UTF-8 text; get Stanford40"):
        stanford40.read(tmp_path)
    (lists / f"{ACTIONS[2]}_train.txt").unlink()
    os.mkfifo(lists / f"{ACTIONS[2]}_train.txt")
    with pytest.raises(DataError, match=r"it is not a regular file\); get Stanford40"):
        stanford40.read(tmp_path)
    (lists / f"{ACTIONS[2]}_train.txt").unlink()
    (lists / f"{ACTIONS[2]}_train.txt").write_text("a b c\n")
    with pytest.raises(DataError, match=r"line 1 of .* has 3 words, not 1; get Stanford40"):
        stanford40.read(tmp_path)


def test_voc_labels_people_by_their_number(tmp_path: Path) -> None:
    write_voc(tmp_path, PEOPLE)
    lists = tmp_path / "ImageSets" / "Action"
    (lists / "other_train.txt").write_text("2010_1 1 1\n")
    (lists / "test.txt").write_text("2011_2 1\n2011_2 3\n2012_9 1\n")
    (lists / "walking_train.txt").write_text("2010_1 1 -1\n")
    raw = voc_action.read(tmp_path)
    assert (raw.label_kind, raw.classes) == ("multi", VOC_ACTIONS)
    entries = {entry.id: entry for each in raw.splits.values() for entry in each.entries}
    assert list(entries) == ["2010_1-1", "2010_1-2", "2011_2-2", "2011_2-1"]
    first, second, _, test = entries.values()
    assert np.array_equal(first.label, [POSITIVE, NEGATIVE, AMBIGUOUS, NEGATIVE])
    assert np.array_equal(second.label, [NEGATIVE, POSITIVE, POSITIVE, UNKNOWN])
    assert np.array_equal(test.label, [UNKNOWN] * 4)
    assert (first.box_px, second.box_px) == ((0, 0, 30, 44), (30, 0, 60, 44))
    assert [tuple(each) for each in raw.rejects] == [
        ("test", "2011_2-3", "2011_2.xml has 2 objects and no person 3"),
        ("test", "2012_9-1", "has no file in JPEGImages"),
    ]
    prepared = build(tmp_path / "out", raw, max_rejects=2)
    assert prepared.splits["test"].labelled == 0 and prepared.splits["val"].labelled == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2010_1 1 2", "gives 2010_1 1 the label '2', not ±1"),
        ("2010_1 0 1", "gives 2010_1 the person '0', not 1, 2"),
        ("2010_1 -1 1", "gives 2010_1 the person '-1', not 1, 2"),
        ("../x 1 1", "lists '../x', which is no name of an image"),
        ("2010_1 1 1\n2010_1 1 1", "lists 2010_1 1 twice; keep one line"),
        ("2010_1 1", "has 2 words, not 3"),
    ],
)
def test_odd_lines_of_voc_are_refused(line: str, message: str, tmp_path: Path) -> None:
    write_voc(tmp_path, PEOPLE)
    (tmp_path / "ImageSets" / "Action" / "reading_train.txt").write_text(line)
    with pytest.raises(DataError) as refusal:
        voc_action.read(tmp_path)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_pipe_is_no_annotation(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.xml")
    with pytest.raises(DataError, match="it is not a regular file"):
        read_people(tmp_path / "a.xml")


def test_an_action_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write_stanford40(tmp_path, LISTED)
    lists = tmp_path / "ImageSplits"
    (lists / f"{ACTIONS[0]}_train.txt").rename(lists / os.fsdecode(b"\xff_train.txt"))
    with pytest.raises(DataError, match="control character"):
        stanford40.read(tmp_path)


def test_a_name_that_no_file_can_have_is_a_reject(tmp_path: Path) -> None:
    write_voc(tmp_path, PEOPLE)
    for action in VOC_ACTIONS:
        (tmp_path / "ImageSets" / "Action" / f"{action}_val.txt").write_bytes(b"a\x00b 1 1\n")
    [reject] = voc_action.read(tmp_path).rejects
    assert reject.reason == "has no file in JPEGImages"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>", "document type"),
        ("<!DOCTYPE a><annotation/>".encode("utf-16"), "document type"),
        (b"<annotation>", "no element found"),
        (b"<a>" * 17, "more than 16 deep"),
        (b"\x00\x01", "not well-formed"),
        (b"<annotation>&undefined;</annotation>", "undefined entity"),
        (box_xml([((1, 1, 1, 1), "")]).replace("<xmin>1", "<xmin>nan").encode(), "xmin of a"),
        (box_xml([((1, 1, 1, 1), "")]).replace("<ymax>1", "<ymax>1e99").encode(), "ymax of a"),
        (box_xml([((1, 1, 1, 1), "")]).replace("<ymax>1", "<ymax>one").encode(), "'one'"),
        (b"<annotation><object/></annotation>", "the xmin of a box is ''"),
        (b" " * (MAX_BYTES + 1), "has 1,048,577 bytes, more than 1,048,576"),
    ],
)
def test_hostile_annotations_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_people(path)
    assert reason in str(refusal.value) and "\n" not in str(refusal.value)
