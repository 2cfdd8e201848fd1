"""A folder of photographs becomes records: layouts, splits by class, and all that is left out."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines import check, manifest, prepare, records
from data_pipelines.core.errors import DataError
from data_pipelines.datasets import folder
from data_pipelines.datasets.own_photos import Options
from data_pipelines.example import JOINTS
from data_pipelines.manifest import Manifest
from tests.support.tiny_data import names_in, quiet, standing_people, write_photo

NO_ROOT = "is no folder; pass the folder of ROOT/CLASS"


def photographs(root: Path, *names: str) -> Path:
    """Writes a photograph of its own for each name."""
    for index, name in enumerate(names):
        write_photo(root / name, sum(map(ord, name)) * 1000 + index)
    return root


def prepared(root: Path, lines: list[str] | None = None, **options: Any) -> Manifest:
    """Prepares the folder beside it as `out`."""
    chosen = Options(**{name: options.pop(name) for name in Options._fields if name in options})
    log = quiet if lines is None else lines.append
    return prepare.build(
        root.parent / "out",
        lambda _: folder.read(root, chosen),
        **{"max_rejects": None, "log": log, **options},
    )


def labels_of(out: Path) -> dict[str, dict[str, str]]:
    """Returns for each split the class name of each record by its id."""
    stated = manifest.load(out)
    found: dict[str, dict[str, str]] = {}
    for split, each in stated.splits.items():
        rows = records.open_split(out, split, stated) if each.examples else []
        found[split] = {
            rows[at]["id"]: stated.classes[rows[at]["label"]] if rows[at]["label"] >= 0 else "-"
            for at in range(len(rows))
        }
    return found


CLASSES = ("ant", "bee", "cat")
TWELVE = [f"{name}/{index}.jpg" for name in CLASSES for index in range(4)]


def test_classes_are_folders_and_val_is_drawn(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    lines: list[str] = []
    made = prepared(root, lines)
    assert (made.name, made.classes, made.label_kind) == ("folder", CLASSES, "single")
    assert made.exif_applied
    found = labels_of(tmp_path / "out")
    assert {**found["train"], **found["val"]} == {name: name.split("/")[0] for name in TWELVE}
    assert made.splits["val"].class_counts == (1, 1, 1)
    assert made.splits["train"].class_counts == (3, 3, 3)
    for line in (
        "split  listed  found  on disk  used  labelled  with joints",
        "train       9      9        9     9         9            0",
        "val         3      3        3     3         3            0",
    ):
        assert line in lines
    assert "classes by name: 'ant', 'bee', 'cat'" in lines
    assert ("val: 20% of each class, drawn from seed 0; near-duplicates stay together") in lines
    assert made.provenance["split_kind"] == "val derived from train"
    again = prepared(root, overwrite=True)
    assert again.fingerprint == made.fingerprint
    others = {prepared(root, seed=seed, overwrite=True).fingerprint for seed in range(1, 4)}
    assert len(others | {made.fingerprint}) > 1
    half = prepared(root, val_fraction=0.5, overwrite=True)
    assert half.splits["val"].class_counts == (2, 2, 2)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_given_splits_join_their_classes_by_name(tmp_path: Path, val: str) -> None:
    root = photographs(
        tmp_path / "in", "train/ant/1.jpg", "train/cat/1.jpg", "train/cat/deep/er/2.jpg",
        f"{val}/bee/1.jpg", f"{val}/cat/1.jpg", "test/a.jpg", "test/b.jpg",
    )  # fmt: skip
    lines: list[str] = []
    made = prepared(root, lines)
    assert made.classes == CLASSES
    assert labels_of(tmp_path / "out") == {
        "train": {"train/ant/1.jpg": "ant", "train/cat/1.jpg": "cat",
                  "train/cat/deep/er/2.jpg": "cat"},
        "val": {f"{val}/bee/1.jpg": "bee", f"{val}/cat/1.jpg": "cat"},
        "test": {"test/a.jpg": "-", "test/b.jpg": "-"},
    }  # fmt: skip
    assert made.provenance["split_kind"] == "given"
    assert "mAP over 2 of 3 classes; no image of val is of 'ant'" in lines


def test_a_split_without_val_draws_it_from_train_only(tmp_path: Path) -> None:
    names = [f"train/{name}" for name in TWELVE] + ["test/ant/9.jpg", "test/bee/9.jpg"]
    made = prepared(photographs(tmp_path / "in", *names))
    sizes = {name: split.examples for name, split in made.splits.items()}
    assert sizes == {"train": 9, "val": 3, "test": 2}


def test_a_test_split_alone_is_prepared_for_scoring(tmp_path: Path) -> None:
    made = prepared(photographs(tmp_path / "in", *(f"test/{x}" for x in TWELVE)), lines := [])
    assert made.splits["test"].class_counts == (4, 4, 4) and list(made.splits) == ["test"]
    assert "classes: 3, of which 3 have fewer than 5 images in test" in "\n".join(lines)
    check.check(tmp_path / "out", html=None, log=lines.append)
    assert "without a training image" not in "\n".join(lines)


def test_trains_are_a_class_beside_others(tmp_path: Path) -> None:
    made = prepared(photographs(tmp_path / "in", *(f"{c}/{i}.jpg" for c in ("bus", "train")
                                                   for i in "12")))  # fmt: skip
    assert made.classes == ("bus", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], NO_ROOT),
        ([".hidden.jpg"], "holds no folder of a class, only 0 files; put photographs into"),
        (["ant/.hidden.jpg", "bee/.hidden.jpg"], "holds no class; a classifier needs two"),
        (["a.jpg"], "holds no folder of a class, only 1 files; put photographs into"),
        (["cat/1.jpg"], "holds one class, 'cat'; a classifier needs two: pass the folder of"),
        (["cat/1.jpg", "dog/1.jpg"], "no image of data set folder is left for split 'val'"),
        (["train/cat/1.jpg"], "holds one class, 'cat'"),
        (["train/1.jpg", "train/2.jpg"], "train holds no folder of a class, only 2 files"),
        (["train/a/1.jpg", "val/b/1.jpg", "x/c/1.jpg"], "holds 'x' beside the folders of splits"),
        (["train/a/1.jpg", "val/b/1.jpg", "valid/b/1.jpg"], "are both split 'val'; keep one"),
        (["cat /1.jpg", "dog/1.jpg"], "class 'cat ' is empty or begins or ends with a blank"),
        (["c\nat/1.jpg", "dog/1.jpg"], r"class 'c\nat' holds a control character; rename it"),
        (["a\udcff/1.jpg", "dog/1.jpg"], "holds a control character; rename it"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_set_is_refused_in_one_line(
    tmp_path: Path, names: Sequence[str], message: str
) -> None:
    with pytest.raises(DataError) as refusal:
        prepared(photographs(tmp_path / "in", *names))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert "out" not in names_in(tmp_path)


def test_what_systems_leave_behind_is_passed_over(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX/x/._1.jpg", ".git/config",
                 ".ipynb_checkpoints/1.jpg", "ant/.ipynb_checkpoints/1.jpg", "ant/thumbs.DB",
                 "bee/._0.jpg", "empty/.keep", "readme.txt"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("no image")
    lines: list[str] = []
    made = prepared(root, lines, max_rejects=0)
    assert made.classes == CLASSES and sum(s.examples for s in made.splits.values()) == 12
    assert "1 files lie in no folder of a class and are left out: 'readme.txt'" in lines
    assert "1 folders hold no file and are no classes: 'empty'" in lines


def test_unusable_files_are_left_out_and_named(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    (root / "ant" / "notes.txt").write_text("no image")
    (root / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    lines: list[str] = []
    made = prepared(root, lines)  # a tenth of 14, rounded up, is 2
    assert sum(split.examples for split in made.splits.values()) == 12
    (line,) = (line for line in lines if line.startswith("rejected"))
    assert line.startswith("rejected 2 images (train 'ant/notes.txt': it is no image; JPEG, PNG")
    assert "train 'cat/gone.jpg': it has no file" in line and "rejects.csv names them" in line
    (root / "bee" / "empty.png").touch()
    with pytest.raises(DataError, match="3 of 15 listed images cannot be used") as refusal:
        prepared(root, overwrite=True)
    assert str(refusal.value).endswith("repair them, or pass --max-rejects 3")
    assert prepared(root, overwrite=True, max_rejects=3).fingerprint == made.fingerprint
    with pytest.raises(DataError, match="more than --max-rejects 0"):
        prepared(root, overwrite=True, max_rejects=0)


def test_loops_and_links_are_followed_once(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    photographs(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "ant" / "up").symlink_to(root)
    (root / "ant" / "itself").symlink_to("itself")
    (root / "bee" / "to_cat").symlink_to(root / "cat")
    made = prepared(root, max_rejects=3)
    assert made.classes == (*CLASSES, "dog")
    assert sum(split.examples for split in made.splits.values()) == 14
    rejects = (tmp_path / "out" / "rejects.csv").read_text().splitlines()[1:]
    assert sorted(rejects) == [
        'train,ant/itself,its file cannot be read (Too many levels of symbolic links)',
        "train,ant/up,it is a link to a folder that is read already",
        "train,bee/to_cat,it is a link to a folder that is read already",
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_are_rejects_and_unreadable_folders_are_refused(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    (root / "ant" / "0.jpg").chmod(0)
    made = prepared(root)
    assert sum(split.examples for split in made.splits.values()) == 11
    (root / "bee").chmod(0)
    with pytest.raises(DataError, match=r"cannot read .*bee: Permission denied"):
        prepared(root, overwrite=True)
    (root / "bee").chmod(0o755)


HOSTILE_NAMES = ("<script>alert(1)</script>", "=cmd|' calc'!A1", "@x", "ÄÖ 写真 📷", "-rf", 'a,b"c')


def test_names_are_escaped_wherever_they_are_shown(tmp_path: Path) -> None:
    names = [f"{name}/{index}{name[:9]}.jpg".replace("</", "<") for name in HOSTILE_NAMES
             for index in range(2)]  # fmt: skip
    root = photographs(tmp_path / "in", *names)
    (root / "@x" / "=1+1.jpg").write_text("no image")
    made = prepared(root)
    assert len(made.classes) == len({name.split("/")[0] for name in names})
    page = tmp_path / "page.html"
    check.check(tmp_path / "out", html=page, log=quiet)
    assert "<script>alert" not in page.read_text() and "&lt;script&gt;" in page.read_text()
    assert "train,'@x/=1+1.jpg," in (tmp_path / "out" / "rejects.csv").read_text()


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    root = photographs(
        tmp_path / "in", "train/caf\u00e9/1.jpg", "val/cafe\u0301/1.jpg", "train/bar/1.jpg"
    )
    assert prepared(root).classes == ("bar", "caf\u00e9")


def test_a_drawn_val_splits_no_near_duplicates(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    for index in range(4):
        for quality in (30, 60):
            with Image.open(root / "ant" / f"{index}.jpg") as image:
                image.save(root / "ant" / f"{index}_{quality}.jpg", quality=quality)
    lines: list[str] = []
    for seed in range(3):
        prepared(root, lines, seed=seed, val_fraction=0.3, overwrite=True)
        found = labels_of(tmp_path / "out")
        for index in range(4):
            names = [f"ant/{index}{end}.jpg" for end in ("", "_30", "_60")]
            assert len({name in found["val"] for name in names}) == 1
        assert any(name.startswith("ant") for name in found["val"])
    assert lines.count("near-duplicates: 12 images in 4 groups") == 3
    assert not any("in two splits" in line for line in lines)


def test_given_splits_that_share_photographs_are_reported_and_shown(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", "train/ant/1.jpg", "train/bee/1.jpg", "val/ant/3.jpg")
    with Image.open(root / "train" / "ant" / "1.jpg") as image:
        image.save(root / "val" / "ant" / "2.jpg", quality=40)
        image.resize((90, 66)).save(root / "train" / "bee" / "2.jpg")
    lines: list[str] = []
    prepared(root, lines)
    check.check(tmp_path / "out", html=tmp_path / "page.html", log=lines.append)
    for text in (
        "groups of near-duplicates in two splits (1): train 'train/ant/1.jpg' and val "
        "'val/ant/2.jpg'",
        "groups of near-duplicates with different labels (1): train 'train/ant/1.jpg' and train "
        "'train/bee/2.jpg'",
    ):
        assert text in lines and f"warning: {text}" in lines
    page = (tmp_path / "page.html").read_text()
    assert "3 near-duplicates" in page and "val \u00b7 ant \u00b7 val/ant/2.jpg" in page


def test_joints_of_several_people_are_attached_to_their_photographs(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    people = standing_people(2, 60, 44)
    images = [{"id": at, "file_name": TWELVE[at], "width": 60, "height": 44} for at in range(3)]
    images[2]["width"] = 61
    annotations = [
        {"image_id": at, "category_id": 1, "keypoints": person.ravel().tolist()}
        for at, person in ((0, people[0]), (0, people[1]), (1, people[0]), (2, people[0]))
    ]
    path = tmp_path / "joints.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations,
                                "categories": [{"id": 1, "keypoints": JOINTS}]}))  # fmt: skip
    lines: list[str] = []
    made = prepared(root, lines, joints=path)
    assert made.max_people == sum(each.with_joints for each in made.splits.values()) == 2
    assert "joints: 4 people in 3 of 12 photographs" in lines
    assert any("its joints are for 61 x 44 pixels and it has 60 x 44" in line for line in lines)
    stored = {
        record["id"]: record["keypoints"]
        for split in made.splits
        for source in [records.open_split(tmp_path / "out", split, made)]
        for record in (source[at] for at in range(len(source)))
    }
    for at, shown in ((0, people), (1, people[:1]), (3, people[:0])):
        np.testing.assert_allclose(stored[TWELVE[at]], shown, rtol=1e-6)
