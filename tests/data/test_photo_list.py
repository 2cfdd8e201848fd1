"""A CSV list of photographs: header or none, several labels, splits, and hostile lists."""

from pathlib import Path

import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.datasets import photo_list
from data_pipelines.datasets.own_photos import Options
from data_pipelines.example import UNLABELLED, RawData
from tests.support.tiny_data import write_photo

NAMES = ("a.jpg", "b.jpg", "deep/c.jpg", "deep/d e.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index, name in enumerate(NAMES):
        write_photo(tmp_path / "in" / name, index)
    write_photo(tmp_path / "outside.jpg", 99)
    return tmp_path / "in"


def listed(root: Path, content: str | bytes) -> RawData:
    path = root.parent / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return photo_list.read(path, root, Options())


def labels(raw: RawData, split: str = "train") -> dict[str, object]:
    return {
        entry.id: entry.label if isinstance(entry.label, int) else tuple(entry.label)
        for entry in raw.splits[split].entries
    }


def test_single_labels_without_a_header(root: Path) -> None:
    raw = listed(root, "a.jpg,cat\nb.jpg, dog \n\ndeep/c.jpg,\n")
    assert (raw.name, raw.label_kind, raw.classes) == ("csv", "single", ("cat", "dog"))
    assert labels(raw) == {"a.jpg": 0, "b.jpg": 1, "deep/c.jpg": UNLABELLED}
    assert raw.derived_val == (0.2, 0) and raw.upright
    assert "no header, the first line is a photograph" in raw.notes[1]


@pytest.mark.parametrize("head", ["path,label", "filename,Labels", "image, class "])
def test_a_header_is_recognised_and_said(root: Path, head: str) -> None:
    raw = listed(root, f"\ufeff{head}\r\na.jpg,cat\r\nb.jpg,dog\r\n")
    assert labels(raw) == {"a.jpg": 0, "b.jpg": 1}
    assert "the first line is a header (" in raw.notes[1]


def test_a_first_line_that_is_a_file_is_no_header(root: Path) -> None:
    assert labels(listed(root, "a.jpg,label\nb.jpg,dog\n")) == {"a.jpg": 1, "b.jpg": 0}


def test_any_second_label_makes_all_multi_labels(root: Path) -> None:
    raw = listed(root, "a.jpg,cat;dog;cat\nb.jpg,ant\ndeep/c.jpg,\n")
    assert (raw.label_kind, raw.classes) == ("multi", ("ant", "cat", "dog"))
    assert labels(raw) == {"a.jpg": (0, 1, 1), "b.jpg": (1, 0, 0), "deep/c.jpg": (0, 0, 0)}


def test_splits_are_taken_from_the_third_column(root: Path) -> None:
    raw = listed(root, 'path,label,split\na.jpg,cat,train\nb.jpg,dog,Valid\n"deep/d e.jpg",,test\n')
    assert raw.derived_val is None
    assert [list(labels(raw, split)) for split in ("train", "val", "test")] == [
        ["a.jpg"], ["b.jpg"], ["deep/d e.jpg"],
    ]  # fmt: skip


def test_paths_may_have_backslashes_or_be_absolute_but_not_leave_the_root(root: Path) -> None:
    lines = ["deep\\c.jpg,cat", f"{root}/a.jpg,dog", "./b.jpg,dog", "../outside.jpg,dog",
             f"{root.parent}/outside.jpg,dog", "deep/../../outside.jpg,dog", "x\0y,dog",
             ".,dog", "absent.jpg,dog"]  # fmt: skip
    raw = listed(root, "\n".join(lines))
    assert list(labels(raw)) == ["deep/c.jpg", "a.jpg", "b.jpg"]
    assert len(raw.rejects) == 6
    assert (raw.splits["train"].listed, raw.splits["train"].on_disk) == (9, 3)
    assert {each.reason for each in raw.rejects} == {"it has no file below --root"}


def test_absolute_paths_may_begin_with_the_root_as_given_or_without_links(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    raw = listed(link, f"{root}/a.jpg,cat\n{link}/b.jpg,dog\n{root.parent}/in2/../in/a.jpg,dog\n")
    assert [entry.id for entry in raw.splits["train"].entries] == ["a.jpg", "b.jpg", "a.jpg"]
    assert all(entry.path.is_file() for entry in raw.splits["train"].entries)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lists no photograph; its lines are path,label[;label...][,split]"),
        (" \n,\n", "lists no photograph"),
        ("path,label\n", "holds no class; a classifier needs two"),
        ("a.jpg;cat\nb.jpg;dog\n", "line 1 of {list} has 1 columns separated by commas"),
        ("a.jpg,cat\nb.jpg,dog,train,x\n", "line 2 of {list} has 4 columns"),
        ("a.jpg,cat,train\nb.jpg,dog\n", "line 2 of {list} has split ''; write train, val or"),
        ("a.jpg,cat,train\nb.jpg,dog,dev\n", "line 2 of {list} has split 'dev'; write"),
        ('a.jpg,"cat\n', "is no CSV ("),
        (b"a.jpg,c\xff\n", "is not UTF-8 text; save it as CSV in UTF-8"),
        ("a.jpg," + "x" * 200_000, "is no CSV (field larger than field limit"),
        ("a.jpg,cat\nb.jpg,cat\n", "holds one class, 'cat'; a classifier needs two"),
        ("x.jpg,cat\ny.jpg,dog\n", "none of the 2 files that {list} lists is below"),
        ("a.jpg,c\x07t\nb.jpg,dog\n", r"class 'c\x07t' holds a control character"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_line(
    root: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError) as refusal:
        listed(root, content)
    assert message.format(list=root.parent / "list.csv") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_absent_and_large_lists_and_absent_roots_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none.csv \(it has no file"):
        photo_list.read(root / "none.csv", root, Options())
    with pytest.raises(DataError, match="is no folder; pass the folder where the paths begin"):
        photo_list.read(root / "a.jpg", root / "none", Options())
    monkeypatch.setattr(photo_list, "MAX_BYTES", 5)
    with pytest.raises(DataError, match=r"more than 5\); pass a CSV file"):
        listed(root, "a.jpg,cat\n")
