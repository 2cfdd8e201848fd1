"""MPII's own files become entries: lists, classes, labels, people, counts, refusals."""

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import sha256
from data_pipelines.datasets import mpii, mpii_mat
from data_pipelines.example import HIDDEN, UNLABELLED, VISIBLE, RawData, Reject
from tests.support.mat_fixtures import EMPTY, Image, point, rect, write_mat

LISTS = {"train": ["f", "c", "a"], "val": ["e", "b"], "test": ["d"]}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses in this process, as a child takes most of a second to start."""

    def parse(module: str, path: Path) -> Any:
        assert module == mpii_mat.__name__
        return json.loads(json.dumps(mpii_mat.parse(path)))

    monkeypatch.setattr(mpii, "parse_in_child", parse)


@dataclasses.dataclass
class Source:
    """Writes and reads a raw data set in a folder."""

    folder: Path
    images: Sequence[Image]
    lists: dict[str, list[str]]

    def write(self) -> None:
        write_mat(self.folder / "some.mat", self.images)
        for folder in ("images", "lists"):
            (self.folder / folder).mkdir()
        for image in self.images:
            (self.folder / "images" / image.name).write_bytes(image.name.encode())
        for split, names in self.lists.items():
            text = "".join(f"{name}\n" for name in names)
            self.list_path(split).write_text(text, "utf-8")

    def list_path(self, split: str) -> Path:
        return self.folder / "lists" / f"images_mpii_{split}.txt"

    def read(self, *, derive: bool = False, **settings: Any) -> RawData:
        lists = None if derive else self.folder / "lists"
        return mpii.read(self.folder / "some.mat", self.folder / "images", lists, **settings)


def labelled(name: str, act_name: str, act_id: int, **fields: Any) -> Image:
    return Image(f"{name}.jpg", act_name=act_name, act_id=np.uint16(act_id), **fields)


def unlabelled(name: str, **fields: Any) -> Image:
    return Image(f"{name}.jpg", act_name=EMPTY, act_id=np.int16(-1), cat_name=EMPTY, **fields)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Six listed images and one more, out of alphabetical order in the annotation file."""
    two = [rect([point(0, 11, 21, is_visible="1")]), rect(None), rect([point(15, 1, 1)])]
    images = [
        labelled("unlisted", "skiing", 9),
        unlabelled("d", is_train=0, vididx=EMPTY),
        labelled("e", "running", 61, vididx=EMPTY),
        labelled("a", "curling, slow", 3, rects=two, vididx=np.uint16(2)),
        labelled("c", "running", 6, vididx=np.uint16(3)),
        labelled("b", "yoga", 8, vididx=np.uint16(2)),
        unlabelled("f", vididx=EMPTY),
    ]
    made = Source(tmp_path, images, {split: list(names) for split, names in LISTS.items()})
    made.write()
    return made


def labels(raw: RawData, split: str) -> dict[str, Any]:
    return {entry.id: entry.label for entry in raw.splits[split].entries}


def test_reading_through_the_child(source: Source) -> None:
    raw = source.read(name="tiny")
    assert (raw.name, raw.label_kind, raw.rejects) == ("tiny", "single", [])
    assert raw.classes == ("running", "curling, slow", "yoga")
    assert {split: [entry.id for entry in each.entries] for split, each in raw.splits.items()} == (
        LISTS
    )
    assert labels(raw, "train") == {"f": UNLABELLED, "c": 0, "a": 1}
    assert labels(raw, "val") == {"e": 0, "b": 2}
    assert labels(raw, "test") == {"d": UNLABELLED}
    first = raw.splits["train"].entries[2]
    assert (first.path, first.source_index) == (source.folder / "images" / "a.jpg", 4)
    assert first.keypoints.shape == (3, 16, 3) and first.keypoints.dtype == np.float32
    assert first.keypoints[0, 0].tolist() == [10, 20, VISIBLE]
    assert first.keypoints[2, 15].tolist() == [0, 0, HIDDEN]
    assert np.count_nonzero(first.keypoints[..., 2]) == 2
    assert raw.splits["val"].entries[0].keypoints.shape == (0, 16, 3)


@pytest.mark.usefixtures("in_process")
def test_provenance_names_content_but_no_path(source: Source) -> None:
    provenance = source.read().provenance
    assert provenance["annotations"] == "some.mat"
    assert provenance["annotations_sha256"] == sha256(source.folder / "some.mat")
    assert provenance["split_kind"] == "own lists"
    assert provenance["act_ids"] == ["6,61", "3", "8"]
    assert provenance["videos_in_train_and_val"] == 1
    assert f"val {sha256(source.list_path('val'))}" in json.dumps(provenance["list_sha256"])
    assert str(source.folder) not in json.dumps(dict(provenance))


@pytest.mark.usefixtures("in_process")
def test_lost_images_are_counted_and_named(source: Source) -> None:
    with source.list_path("train").open("a") as file:
        file.write("nowhere\n")
    (source.folder / "images" / "c.jpg").unlink()
    raw = source.read()
    train = raw.splits["train"]
    assert (train.listed, train.annotated, train.on_disk) == (4, 3, 2)
    assert [entry.id for entry in train.entries] == ["f", "a"]
    assert raw.rejects == [
        Reject("train", "c", "has no file 'c.jpg' among the images"),
        Reject("train", "nowhere", "is not in the annotation file"),
    ]
    assert raw.classes[0] == "running"  # class ids do not depend on what is on disk


@pytest.mark.usefixtures("in_process")
def test_accepted_forms_of_a_list(source: Source) -> None:
    source.list_path("train").write_bytes(b"\xef\xbb\xbff.jpg\r\nc.JPG \r\na\r\n\r\n  \r\n")
    raw = source.read()
    assert [entry.id for entry in raw.splits["train"].entries] == LISTS["train"]
    source.list_path("test").unlink()
    assert list(source.read().splits) == ["train", "val"]


@pytest.mark.usefixtures("in_process")
def test_unicode_names(tmp_path: Path) -> None:
    names = ["имя файла", "日本", "a.b"]
    images = [labelled(name, "go", 1) for name in names]
    source = Source(tmp_path, images, {"train": names[:2], "val": names[2:]})
    source.write()
    raw = source.read()
    assert not raw.rejects
    assert [entry.path.name for entry in raw.splits["train"].entries] == [
        f"{name}.jpg" for name in names[:2]
    ]


@pytest.mark.parametrize(
    ("split", "content", "message"),
    [
        ("train", b"a\nb2\na\n", "images_mpii_train.txt lists 'a', which is already in the train"),
        ("val", b"e\na.jpg\n", "images_mpii_val.txt lists 'a', which is already in the train"),
        ("train", None, "images_mpii_train.txt cannot be read (it has no file"),
        ("val", None, "images_mpii_val.txt cannot be read (it has no file"),
        ("test", b"\n\n", "images_mpii_test.txt lists no image"),
        ("val", b"\xff\xfe\x00", "images_mpii_val.txt cannot be read (not UTF-8 text)"),
    ],
)
def test_refused_lists(source: Source, split: str, content: bytes | None, message: str) -> None:
    if content is None:
        source.list_path(split).unlink()
    else:
        source.list_path(split).write_bytes(content)
    with pytest.raises(DataError) as refusal:
        source.read()
    assert message in str(refusal.value) and "AttentionalPoolingAction" in str(refusal.value)


@pytest.mark.usefixtures("in_process")
def test_missing_files_are_refused_with_their_source(source: Source) -> None:
    images = source.folder / "images"
    shutil.move(images, source.folder / "elsewhere")
    with pytest.raises(DataError, match=r"no images at .*images; .*mpii_human_pose_v1\.tar\.gz"):
        source.read()
    images.mkdir()
    with pytest.raises(DataError, match=r"none of the 6 listed images is in .*images; download"):
        source.read()
    (source.folder / "some.mat").unlink()
    with pytest.raises(DataError, match=r"no annotation file .*some\.mat; .*u12_2\.zip"):
        source.read()


@pytest.mark.usefixtures("in_process")
def test_a_listed_image_that_is_annotated_twice_is_refused(tmp_path: Path) -> None:
    images = [labelled(name, "go", 1) for name in ("x", "a", "x", "b", "a")]
    source = Source(tmp_path, images, {"train": ["a"], "val": ["b"]})
    source.write()
    with pytest.raises(DataError, match=r"annolist\(2\) and annolist\(5\) both .*'a\.jpg'"):
        source.read()


@pytest.mark.usefixtures("in_process")
def test_data_without_any_action_is_refused(tmp_path: Path) -> None:
    images = [unlabelled("a"), unlabelled("b")]
    source = Source(tmp_path, images, {"train": ["a"], "val": ["b"]})
    source.write()
    with pytest.raises(DataError, match="none of the 2 listed images has an action"):
        source.read()


@pytest.mark.usefixtures("in_process")
def test_png_images_are_found(tmp_path: Path) -> None:
    images = [dataclasses.replace(labelled("a", "go", 1), name="a.png"), labelled("b", "go", 1)]
    source = Source(tmp_path, images, {"train": ["a.png"], "val": ["b"]})
    source.write()
    raw = source.read()
    assert [(each.id, each.path.name) for each in raw.splits["train"].entries] == [("a", "a.png")]
    assert not raw.rejects


@pytest.mark.usefixtures("in_process")
def test_an_archive_equals_its_folder(source: Source) -> None:
    archive = source.folder / "images.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source.folder / "images", "images")
    folder = source.read()
    packed = mpii.read(
        source.folder / "some.mat",
        archive,
        source.folder / "lists",
        spool=source.folder / "spool",
    )
    for split, each in packed.splits.items():
        twins = zip(each.entries, folder.splits[split].entries, strict=True)
        for entry, twin in twins:
            assert entry.path.parent == source.folder / "spool"
            assert entry.path.read_bytes() == twin.path.read_bytes()
            assert (entry.id, entry.label) == (twin.id, twin.label)
    assert len(list((source.folder / "spool").iterdir())) == 6


@pytest.fixture
def derivable(tmp_path: Path) -> Source:
    """300 labelled training images of 60 videos, 10 of no video, and images that are left out."""
    images = [
        labelled(
            f"{index:03}", f"action {index % 7}", index % 7 + 1, vididx=np.uint16(index // 5 + 1)
        )
        for index in range(300)
    ]
    images += [
        labelled("crowded", "action 1", 2, single=EMPTY),
        unlabelled("nameless"),
        unlabelled("test crowded", is_train=0, vididx=EMPTY, single=EMPTY),
        unlabelled("test", is_train=0, vididx=EMPTY),
    ]
    images += [labelled(f"no video {index}", "action 1", 2, vididx=EMPTY) for index in range(10)]
    source = Source(tmp_path, images, {})
    source.write()
    return source


def ids(raw: RawData, split: str) -> list[str]:
    return [entry.id for entry in raw.splits[split].entries]


@pytest.mark.usefixtures("in_process")
def test_derived_splits_follow_the_rule_and_keep_videos_together(derivable: Source) -> None:
    raw = derivable.read(derive=True)
    train, val = ids(raw, "train"), ids(raw, "val")
    numbered, alone = [f"{index:03}" for index in range(300)], [f"no video {i}" for i in range(10)]
    assert sorted(train + val) == [*numbered, *alone]
    assert all(set(alone) & set(names) for names in (train, val))  # each is a video of its own
    assert ids(raw, "test") == ["test"]
    assert train == sorted(train) and val == sorted(val)
    videos = [{int(name) // 5 for name in names if name.isdigit()} for names in (train, val)]
    assert not videos[0] & videos[1]
    assert raw.provenance["videos_in_train_and_val"] == 0
    assert abs(len(train) / 310 - 8219 / 15207) < 5 / 310
    assert raw.provenance["split_kind"] == "derived, not comparable with published numbers"
    assert raw.provenance["split_seed"] == 0


@pytest.mark.usefixtures("in_process")
def test_derived_splits_depend_on_the_seed_alone(derivable: Source) -> None:
    cuts = [ids(derivable.read(derive=True, split_seed=seed), "val") for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]
    assert [int(name) // 5 for name in cuts[0][:25:5]] == [2, 4, 5, 8, 9]  # the same on any machine


@pytest.mark.usefixtures("in_process")
def test_one_video_cannot_be_split(tmp_path: Path) -> None:
    source = Source(tmp_path, [labelled("a", "go", 1), labelled("b", "go", 1)], {})
    source.write()
    with pytest.raises(DataError, match="from 2 labelled images of 1 videos; pass the lists"):
        source.read(derive=True)
