"""Damage to prepared data is found and named, and oddities are warned of."""

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines import check, manifest, records
from data_pipelines.core.errors import CannotWrite, DataError
from data_pipelines.example import Entry
from data_pipelines.manifest import Manifest, Split
from tests.support.tiny_data import (
    build,
    prepare_tiny_people,
    quiet,
    standing_people,
    tiny_data,
    with_entries,
    write_photo,
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "people"
    prepare_tiny_people(folder)
    return folder


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "people"))


def refusal_of(folder: Path) -> str:
    with pytest.raises(DataError) as refusal:
        check.check(folder, html=None, log=quiet)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def shard_of(folder: Path, split: str = "train") -> Path:
    return folder / manifest.load(folder).splits[split].shards[0].file


def all_records(folder: Path) -> list[str]:
    stated = manifest.load(folder)
    found = []
    for name, split in stated.splits.items():
        source = records.open_split(folder, name, stated) if split.examples else ()
        found += [repr(source[position]) for position in range(len(source))]
    return found


def test_intact_data_passes_and_is_summarised(data: Path) -> None:
    lines: list[str] = []
    stated = check.check(data, html=None, log=lines.append)
    assert lines == [
        f"{data}: data set people, fingerprint {stated.fingerprint}",
        "train: 9 images in 1 shard, each read and decoded",
        "val: 4 images in 1 shard, each read and decoded",
        "test: 0 images in 0 shards",
        "warning: classes with fewer than 5 training images (3): 'jumping'; 'résumé, reading'; "
        "'waiting'",
    ]


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_in_a_shard_is_found(pristine: Path, data: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shard = shard_of(data, ("train", "val")[seed % 2])
    content = bytearray(shard.read_bytes())
    content[rng.choice(np.flatnonzero(content))] ^= 1 << int(rng.integers(8))
    shard.write_bytes(content)
    assert refusal_of(data).startswith(f"shard {shard} was changed after it was written")
    try:
        assert all_records(data) == all_records(pristine)
    except DataError as error:
        assert "cannot be" in str(error)


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])


def empty(shard: Path) -> None:
    shard.write_bytes(b"")


def rename(shard: Path) -> None:
    shard.rename(shard.with_name(shard.name.replace("00001", "00002")))


def blank(shard: Path) -> None:
    shard.write_bytes(bytes(shard.stat().st_size))


def add(shard: Path) -> None:
    shutil.copy(shard, shard.with_name(shard.name.replace("train", "extra")))


def turn_into_folder(shard: Path) -> None:
    shard.unlink()
    shard.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing; prepare the data again"),
        (rename, "is missing; prepare the data again"),
        (cut, "has 131,071 bytes and the manifest says 131,072"),
        (empty, "has 0 bytes and the manifest says 131,072"),
        (blank, "was changed after it was written"),
        (turn_into_folder, "bytes and the manifest says 131,072"),
        (add, "is not a shard of"),
    ],
)
def test_a_damaged_shard_is_named(data: Path, damage: Callable[[Path], None], message: str) -> None:
    shard = shard_of(data)
    damage(shard)
    refusal = refusal_of(data)
    assert message in refusal
    assert str(shard if damage is not add else shard.parent / "records-extra") in refusal


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("dataset_info.json", '"9"', '"8"'),
        ("dataset_info.json", '"train"', '"trian"'),
        ("dataset_info.json", "{", "["),
        ("features.json", "int64", "int32"),
        ("features.json", "source_index", "source_indez"),
    ],
)
def test_a_changed_description_of_the_records_is_refused(
    data: Path, file: str, old: str, new: str
) -> None:
    path = shard_of(data).parent / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert "prepare the data again" in refusal_of(data)
    path.unlink()
    assert "prepare the data again" in refusal_of(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("labelled", 8), ("with_joints", 5), ("class_counts", (3, 2, 4)), ("ids_sha256", "0" * 64)],
)
def test_a_manifest_that_differs_from_its_records_is_refused(
    data: Path, field: str, value: Any
) -> None:
    stated = manifest.load(data)
    train = dataclasses.replace(stated.splits["train"], **{field: value})
    manifest.save(dataclasses.replace(stated, splits={**stated.splits, "train": train}), data)
    assert refusal_of(data) == (
        f"the manifest of {data} and its records differ in {field} of split 'train'; "
        "prepare the data again"
    )
    manifest.save(dataclasses.replace(stated, max_people=3), data)
    assert "has max_people=3 and its records have 2" in refusal_of(data)


def record(position: int, **changes: Any) -> dict[str, Any]:
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (position, 0, 0)).save(content, "JPEG")
    return {
        "id": f"image {position}",
        "image": content.getvalue(),
        "width_px": 30,
        "height_px": 20,
        "label": 0,
        "keypoints": standing_people(1, 30, 20),
        "source_index": 0,
        "boxes": [(2, 3, 30, 20)],
        "person_labels": [1],
        **changes,
    }


def test_damaged_records_are_collected_and_counted(tmp_path: Path) -> None:
    nowhere = np.full((1, 16, 3), np.inf, np.float32)
    bad = [
        record(0, width_px=31),
        record(1, label=7),
        record(2, image=b"no picture"),
        record(3, keypoints=nowhere),
        *(record(position, label=-2) for position in range(4, 12)),
        record(12),
    ]
    shards = records.write(tmp_path, "single", 2, {"train": bad}, has_boxes=True)["train"]
    split = Split(13, 13, 13, (13, 0), "0" * 64, tuple(shards))
    manifest.save(Manifest("people", "single", ("a", "b"), 1, {"train": split}, {}), tmp_path)
    refusal = refusal_of(tmp_path)
    assert refusal.startswith(
        f"12 of the records in {tmp_path} are damaged: train 'image 0': it is"
    )
    for fault in (
        "'image 0': it is 30 x 20 pixels, its record says 31 x 20;",
        "'image 1': its label 7 is outside 0..1;",
        "'image 2': it is no image; JPEG, PNG, WebP, GIF, BMP are read;",
        "'image 3': a keypoint is not finite;",
        "'image 9': its label -2 is outside 0..1 and 2 more; prepare",
    ):
        assert fault in refusal


def test_every_frame_of_a_video_is_checked(tmp_path: Path) -> None:
    nowhere = np.full((1, 16, 3), np.inf, np.float32)
    people = standing_people(1, 30, 20)
    video = record(0, keypoints=np.concatenate([people, people, nowhere]), source_frames=3)
    video["frames"] = [video.pop("image")] * 3
    del video["boxes"], video["person_labels"]
    shards = records.write(tmp_path, "single", 2, {"train": [video]}, 3, has_boxes=False)["train"]
    split = Split(1, 1, 1, (1, 0), "0" * 64, tuple(shards))
    made = Manifest("hmdb51", "single", ("a", "b"), 1, {"train": split}, {}, frames=3)
    manifest.save(made, tmp_path)
    assert "'image 0': a keypoint is not finite" in refusal_of(tmp_path)


def test_damaged_boxes_are_found(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"boxes": [(2, 3, 30.5, 20)]},
        {"boxes": [(2, 3, 1, 20)]},
        {"boxes": [(np.nan, 3, 30, 20)]},
        {"boxes": [(2, 3, 30, 20)] * 2},
        {"person_labels": [2]},
        {"person_labels": []},
    ]
    bad = [record(position, **each) for position, each in enumerate(changes)]
    shards = records.write(tmp_path, "single", 2, {"train": bad}, has_boxes=True)["train"]
    split = Split(6, 6, 6, (6, 0), "0" * 64, tuple(shards))
    manifest.save(Manifest("people", "single", ("a", "b"), 1, {"train": split}, {}), tmp_path)
    refusal = refusal_of(tmp_path)
    for fault in (
        "'image 0': a box reaches beyond its image;",
        "'image 1': a box ends before it begins;",
        "'image 2': a box is not finite or reaches beyond 16,777,216 pixels;",
        "'image 3': its boxes have shape (2, 4), not (1, 4);",
        "'image 4': a person's label is outside -1..1;",
        "'image 5': its labels of people have shape (0,), not (1,);",
    ):
        assert fault in refusal


def test_oddities_are_reported(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in", sizes={"train": 9, "val": 4})
    train = raw.splits["train"].entries
    train[0] = dataclasses.replace(train[0], label=-1)
    twin = Entry("twin", train[3].path, 0, standing_people(1, 60, 44))
    far = standing_people(1, 60, 44)
    far[0, 0, 0] = 60 + 6.2
    near = standing_people(1, 60, 44)
    near[0, 0, 0] = 60 + 4.8
    turned = tmp_path / "in" / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 44)).save(turned, "JPEG", exif=exif)
    broken = tmp_path / "in" / "broken.jpg"
    Image.new("RGB", (60, 44), "red").save(broken, "JPEG", exif=exif.tobytes()[:-9])
    single = tmp_path / "in" / "single.jpg"
    write_photo(single, 99)
    odd = [
        twin,
        Entry("far", single, 0, far),
        Entry("turned", turned, 0, near),
        Entry("broken", broken, 0, near),
    ]
    raw = with_entries(dataclasses.replace(raw, classes=(*raw.classes, "swimming")), "val", *odd)
    build(tmp_path / "out", raw)
    lines: list[str] = []
    check.check(tmp_path / "out", html=None, log=lines.append)
    assert [line.removeprefix("warning: ") for line in lines if "warning" in line] == [
        "classes without a training image (1): 'swimming'",
        "classes with fewer than 5 training images (3): 'jumping'; 'résumé, reading'; 'waiting'",
        "groups of near-duplicates in two splits (1): train 'train_003.jpg' and val 'twin'",
        "images with a joint far outside (1): val 'far'",
        "images with an EXIF orientation, which is ignored (1): val 'turned'",
        "mAP over 3 of 4 classes; no image of val is of 'swimming'",
        "1 training images have no label and train with weight 0",
    ]


def test_a_contact_sheet_that_cannot_be_written_ends_with_73(data: Path) -> None:
    with pytest.raises(CannotWrite, match="cannot write"):
        check.check(data, html=data / "manifest.json" / "sheet.html", log=quiet)
