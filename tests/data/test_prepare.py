"""Preparing stores each image's own bytes, or names the image as a reject."""

import csv
import dataclasses
import io
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import check, decode, manifest, records
from data_pipelines.core import files
from data_pipelines.core.errors import DataError
from data_pipelines.example import Entry, Reject
from tests.support.tiny_data import (
    SIZES,
    build,
    names_in,
    standing_people,
    tiny_data,
    with_entries,
    with_rejects,
    write_photo,
)


def test_records_hold_the_entries_and_the_bytes_of_their_files(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path)
    made = build(tmp_path / "out", raw)
    assert made == manifest.load(tmp_path / "out")
    for split in ("train", "val"):
        source = records.open_split(tmp_path / "out", split, made)
        assert len(source) == len(raw.splits[split].entries)
        for position, entry in enumerate(raw.splits[split].entries):
            record = source[position]
            assert (record["id"], record["label"]) == (entry.id, entry.label)
            assert (record["width_px"], record["height_px"]) == (60, 44)
            assert record["image"] == entry.path.read_bytes()
            assert record["source_index"] == entry.source_index
            np.testing.assert_array_equal(record["keypoints"], entry.keypoints)
    train, val, test = (made.splits[split] for split in ("train", "val", "test"))
    assert (train.examples, train.labelled, train.with_joints) == (9, 9, 6)
    assert (val.class_counts, made.max_people) == ((2, 1, 1), 2)
    assert (test.examples, test.shards, test.class_counts) == (0, (), (0, 0, 0))
    assert made.provenance["drawn by"] == "a test"
    assert made.provenance["array-record"]


def test_a_multi_label_is_counted_in_each_class(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path, label_kind="multi")
    made = build(tmp_path / "out", raw)
    source = records.open_split(tmp_path / "out", "train", made)
    labels = [tuple(source[position]["label"].tolist()) for position in range(9)]
    assert labels == [entry.label for entry in raw.splits["train"].entries]
    assert made.splits["train"].class_counts == tuple(np.sum(labels, axis=0).tolist())
    assert made.splits["train"].labelled == 9


def test_the_same_raw_files_give_the_same_bytes_in_shards_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny_data(tmp_path)
    whole = build(tmp_path / "whole", raw)
    assert build(tmp_path / "again", raw) == whole
    monkeypatch.setattr(records, "SHARD_BYTES", 4000)
    made = build(tmp_path / "pieces", raw)
    assert sum(shard.examples for shard in made.splits["train"].shards) == 9
    assert len(made.splits["train"].shards) > 2
    assert made.fingerprint != whole.fingerprint
    one, many = (
        records.open_split(tmp_path / name, "train", each)
        for name, each in (("whole", whole), ("pieces", made))
    )
    assert [many[at]["image"] for at in range(9)] == [one[at]["image"] for at in range(9)]
    assert not list((tmp_path / "pieces").rglob("*.partial"))


def test_the_numbers_of_images_are_printed_in_columns(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path, sizes={"train": 12, "val": 4})
    raw.splits["train"].entries[0] = dataclasses.replace(raw.splits["train"].entries[0], label=-1)
    lines: list[str] = []
    made = build(tmp_path / "out", raw, log=lines.append)
    assert lines[:3] == [
        "split  listed  found  on disk  used  labelled  with joints",
        "train      12     12       12    12        11            8",
        "val         4      4        4     4         4            2",
    ]
    assert lines[3] == (
        "classes: 3, of which 3 have fewer than 5 images in train; people in an image: at most 2"
    )
    assert lines[4].endswith(f"to {tmp_path / 'out'} (fingerprint {made.fingerprint})")


def test_classes_that_mean_average_precision_skips_are_named(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path)
    val = raw.splits["val"].entries
    val[:] = [dataclasses.replace(entry, label=0) for entry in val]
    lines: list[str] = []
    build(tmp_path / "out", raw, log=lines.append)
    check.check(tmp_path / "out", html=None, log=lines.append)
    line = "mAP over 1 of 3 classes; no image of val is of 'résumé, reading', 'waiting'"
    assert [each for each in lines if "mAP" in each] == [line, f"warning: {line}"]


def damaged_entries(folder: Path) -> Iterator[tuple[Entry, str]]:
    good = folder / "good.jpg"
    write_photo(good, 7)
    people = standing_people(1, 60, 44)
    loop = folder / "loop.jpg"
    loop.symlink_to(loop.name)
    cut, empty, text = folder / "cut.jpg", folder / "empty.jpg", folder / "=1+1.jpg"
    cut.write_bytes(good.read_bytes()[:-200])
    empty.write_bytes(b"")
    text.write_text("no picture")
    for path, reason in (
        (folder / "absent.jpg", "it has no file"),
        (folder, "it is not a regular file"),
        (cut, "it is damaged or cut off"),
        (empty, "it is empty"),
        (text, "it is no image"),
        (Path("/dev/zero"), "it is not a regular file"),
        (loop, "its file cannot be read (Too many levels of symbolic links)"),
        (folder / ("n" * 300), "its file cannot be read (File name too long)"),
    ):
        yield Entry(path.name, path, 0, people), reason
    off = people.copy()
    off[0, 3, 0] = np.nan
    yield Entry("nan", good, 0, off), "a keypoint is not finite"
    odd = people.copy()
    odd[0, 3, 2] = 3
    yield Entry("odd", good, 0, odd), "a keypoint's visibility is not 0, 1 or 2"
    flat = Entry("flat", good, 0, people)
    object.__setattr__(flat, "keypoints", people[:, :15])
    yield flat, "its keypoints have shape (1, 15, 3), not (people, 16, 3)"
    yield Entry("high", good, 3, people), "its label 3 is outside 0..2"
    yield Entry("low", good, -2, people), "its label -2 is outside 0..2"
    yield Entry("many", good, (0, 1, 0), people), "its label (0, 1, 0) is no class id"
    yield Entry("train_000.jpg", good, 0, people), "its name is already listed in split 'train'"
    yield Entry("bad\udcff", good, 0, people), "its name is empty or not valid UTF-8"


def test_every_unusable_image_is_named(tmp_path: Path) -> None:
    expected = list(damaged_entries(tmp_path))
    raw = with_entries(tiny_data(tmp_path), "val", *(entry for entry, _ in expected))
    raw = with_rejects(raw, Reject("train", "gone", "is not in the annotation file"))
    with pytest.raises(DataError) as refusal:
        build(tmp_path / "out", raw)
    message, count = str(refusal.value), len(expected) + 1
    assert message.startswith(f"{count} of {9 + 4 + len(expected)} listed images cannot be used")
    assert "train 'gone': is not in the annotation file; val 'absent.jpg': it has no" in message
    assert message.endswith(f"or pass --max-rejects {count}")
    assert "\n" not in message
    listed = tmp_path / "out.rejects.csv"
    assert str(listed) in message
    assert not (tmp_path / "out").exists()
    with listed.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [["split", "id", "reason"], ["train", "gone", raw.rejects[0].reason]]
    for (entry, reason), (split, name, written) in zip(expected, rows[2:], strict=True):
        assert split == "val"
        assert name.removeprefix("'") == entry.id.encode("utf-8", "backslashreplace").decode()
        assert written.startswith(reason)
    assert ["val", "'=1+1.jpg"] in [row[:2] for row in rows]
    lines: list[str] = []
    made = build(tmp_path / "out", raw, max_rejects=count, log=lines.append)
    assert made.splits["val"].examples == 4
    assert not listed.exists()
    assert (tmp_path / "out" / "rejects.csv").read_text().count("\n") == count + 1
    assert any(line.endswith(f"{tmp_path / 'out' / 'rejects.csv'} names them") for line in lines)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("-cat", "'-cat"),
        (" \t@sum(a)", "' \\t@sum(a)"),
        ("\uff1d1", "'\uff1d1"),  # a full-width equals sign
        ("red\x1b[31m", "red\\x1b[31m"),
        ("a\r\nb\x85c\u2028d\udcff", "a\\r\\nb\\x85c\\u2028d\\udcff"),
        ('a "b", né', 'a "b", né'),
        ("", ""),
        (-0.5, "-0.5"),
        (3, "3"),
    ],
)
def test_csv_text_is_neither_formula_nor_escape_code(cell: str | float, written: str) -> None:
    table = files.csv_table(("name", "value"), [(cell, 1)]).decode()
    assert table.count("\n") == 2
    assert list(csv.reader(io.StringIO(table))) == [["name", "value"], [written, "1"]]


def test_a_multi_label_must_have_one_number_per_class(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path, label_kind="multi")
    path = raw.splits["val"].entries[0].path
    none = standing_people(0, 60, 44)
    wrong = [
        Entry("a", path, (0, 1), none),
        Entry("b", path, (0, 1, 2), none),
        Entry("c", path, 1, none),
    ]
    with pytest.raises(DataError, match="3 of 16 listed images") as refusal:
        build(tmp_path / "out", with_entries(raw, "val", *wrong))
    assert "not one number for each of 3 classes" in str(refusal.value)
    assert "holds a value outside -3..1" in str(refusal.value)


@pytest.mark.parametrize("sizes", [{"train": 0, "val": 2}, {"val": 0}])
def test_data_without_usable_images_are_refused(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(DataError, match=f"split '{next(iter(sizes))}'.* has no usable image"):
        build(tmp_path / "out", tiny_data(tmp_path / "in", sizes=sizes))
    assert names_in(tmp_path) == (["in"] if sizes["val"] else [])


def test_wide_images_shrink_and_joints_stay_on_their_pixels(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path, sizes={"train": 3}, width_px=120, height_px=66)
    narrow = tmp_path / "narrow.jpg"
    write_photo(narrow, 5, 50, 40)
    raw = with_entries(raw, "train", Entry("narrow", narrow, 0, standing_people(1, 50, 40)))
    made = build(tmp_path / "out", raw, max_width_px=50)
    source = records.open_split(tmp_path / "out", "train", made)
    assert source[3]["image"] == narrow.read_bytes()
    record, entry = source[1], raw.splits["train"].entries[1]
    assert (record["width_px"], record["height_px"]) == (50, 28)
    assert decode.decode(record["image"]).shape == (28, 50, 3)
    assert made.provenance["max_width_px"] == 50
    annotated = entry.keypoints[..., 2] > 0
    expected = (entry.keypoints[..., :2] + 0.5) * (50 / 120, 28 / 66) - 0.5
    np.testing.assert_allclose(
        record["keypoints"][annotated][:, :2], expected[annotated], atol=1e-4
    )
    np.testing.assert_array_equal(record["keypoints"][~annotated], 0)
    np.testing.assert_array_equal(record["keypoints"][..., 2], entry.keypoints[..., 2])


ODD = ["a b", "#?%20&", 'it\'s "quoted"', "{braces}$HOME`x`", "ÄÖ 写真 📷", "-rf", "n" * 236]


def test_odd_names_of_folders_files_and_classes(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in", sizes={"train": len(ODD)})
    entries = []
    for entry, name in zip(raw.splits["train"].entries, ODD, strict=True):
        path = entry.path.with_name(f"{name}.jpg")
        entry.path.replace(path)
        entries.append(dataclasses.replace(entry, id=path.name, path=path))
    raw = dataclasses.replace(
        raw,
        classes=("<b>", "=cmd()", "写真 \u202e"),
        splits={"train": dataclasses.replace(raw.splits["train"], entries=entries)},
    )
    digests = set()
    for name in ODD:
        made = build(tmp_path / name, raw)
        source = records.open_split(tmp_path / name, "train", made)
        assert [source[at]["id"] for at in range(len(ODD))] == [entry.id for entry in entries]
        digests.add(made.fingerprint)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a\nb", r"class 'a\nb' holds a control character; rename it"),
        ("a\tb", r"class 'a\tb' holds a control character; rename it"),
        ("\x1b[31mred", r"class '\x1b[31mred' holds a control character; rename it"),
        ("a\u2028b", r"class 'a\u2028b' holds a control character; rename it"),
        ("a\udcff", r"class 'a\udcff' holds a control character; rename it"),
        ("", "class '' is empty or begins or ends with a blank; rename it"),
        (" a", "class ' a' is empty or begins or ends with a blank; rename it"),
        ("a\n", r"class 'a\n' is empty or begins or ends with a blank; rename it"),
        ("jumping", "class 'jumping' is listed 2 times; give each its own name"),
        ("n" * 99_999 + "\t", f"class '{'n' * 80}\u2026' is empty or begins or ends with a blank"),
    ],
)
def test_class_names_that_are_no_single_line_of_text_are_refused(
    tmp_path: Path, name: str, fault: str
) -> None:
    raw = tiny_data(tmp_path)
    with pytest.raises(DataError) as refusal:
        build(tmp_path / "out", dataclasses.replace(raw, classes=("jumping", name, "waiting")))
    assert str(refusal.value).startswith(f"data set people: {fault}")
    assert not (tmp_path / "out").exists()


def test_progress_is_logged_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tiny_data(tmp_path)
    clock = itertools.count(step=10.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    for read in (
        lambda log: build(tmp_path / "out", raw, log=log),
        lambda log: check.check(tmp_path / "out", html=None, log=log),
    ):
        lines: list[str] = []
        read(lines.append)
        progress = [line for line in lines if " images read" in line]
        assert progress[0] == "train: 1 of 9 images read, about 0:02:40 left"  # 8 x 20 s
        assert 1 < len(progress) < sum(SIZES.values())
