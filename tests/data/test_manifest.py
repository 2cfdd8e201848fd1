"""A manifest that was damaged, edited or written by another program is refused by name."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines import manifest
from data_pipelines.core.errors import DataError
from data_pipelines.manifest import Manifest, Shard, Split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a manifest of two splits, and no shard."""
    shards = (Shard("records/train-0", 10, 4, "a" * 64), Shard("records/train-1", 12, 5, "b" * 64))
    train = Split(9, 9, 6, (3, 3, 3), "c" * 64, shards)
    val = Split(0, 0, 0, (0, 0, 0), manifest.digest_ids([]), ())
    provenance = {"images": "a folder", "seed": 3, "lists": ["train", "val"]}
    classes = ("jumping", "résumé, reading", "waiting")
    splits = {"train": train, "val": val}
    manifest.save(Manifest("people", "single", classes, 2, splits, provenance), tmp_path)
    return tmp_path


def refusal_of(folder: Path) -> str:
    with pytest.raises(DataError) as refusal:
        manifest.load(folder)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_loading_returns_the_saved_manifest(data: Path) -> None:
    stated = manifest.load(data)
    assert stated.classes[1] == "résumé, reading"
    manifest.save(stated, data)
    assert manifest.load(data) == stated


def test_the_fingerprint_covers_everything_but_provenance(data: Path) -> None:
    stated = manifest.load(data)
    digests = {
        dataclasses.replace(stated, **change).fingerprint
        for change in (
            {},
            {"name": "mpii"},
            {"classes": stated.classes[::-1]},
            {"max_people": 3},
            {"exif": manifest.EXIF_APPLIED},
            {"splits": dict(list(stated.splits.items())[:1])},
        )
    }
    assert len(digests) == 6
    assert dataclasses.replace(stated, provenance={}).fingerprint == stated.fingerprint


def test_the_digest_of_ids_depends_on_order_and_boundaries() -> None:
    lists = (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], [])
    assert len({manifest.digest_ids(each) for each in lists}) == len(lists)


def test_flipped_bits_are_detected(data: Path) -> None:
    path, stated = data / manifest.MANIFEST, manifest.load(data)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for position in rng.choice(len(whole), 120, replace=False):
        content = bytearray(whole)
        content[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            found = manifest.load(data)
        except DataError:
            continue
        assert dataclasses.replace(found, provenance=stated.provenance) == stated


def changed(value: Any, *path: str | int) -> Callable[[Any], Any]:
    """Returns a function that sets one value of a manifest, or deletes it if `value` is None."""

    def change(content: Any) -> Any:
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if value is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return content

    return change


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ((3, 1, 4, 1, 5), ""),
        ((3, 1, 0, 1, 5), "mAP over 4 of 5 classes; no image of val is of 'c'"),
        (
            (0, 1, 0, 0, 0),
            "mAP over 1 of 5 classes; no image of val is of 'a', 'c', 'd' and 1 more",
        ),
    ],
)
def test_skipped_classes_are_named(counts: tuple[int, ...], names: str) -> None:
    assert manifest.describe_skipped("abcde", counts, "val") == names
    assert len(manifest.describe_skipped(["n" * 100_000], [0], "val")) < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(None, "classes"), "was changed after its fingerprint"),
        (changed(None, "fingerprint"), "was changed after its fingerprint None"),
        (changed(None, "format_version"), "format_version=None and this gap_jax reads up to 2"),
        (changed(3, "format_version"), "format_version=3 and this gap_jax reads up to 2"),
        (changed(1, "format_version"), "was changed after its fingerprint"),
        (changed(1, "surprise"), "was changed after its fingerprint"),
        (changed("x", "max_people"), "was changed after its fingerprint"),
        (changed(["a", "b", "c"], "classes"), "was changed after its fingerprint"),
        (changed([], "splits"), "was changed after its fingerprint"),
        (lambda content: [content], "format_version=None"),
    ],
)
def test_an_edited_manifest_is_refused(
    data: Path, change: Callable[[Any], Any], message: str
) -> None:
    path = data / manifest.MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    refusal = refusal_of(data)
    assert message in refusal
    assert refusal.startswith(str(path))
    assert refusal.endswith("prepare the data again")


TRAIN, SHARD = ("splits", "train"), ("splits", "train", "shards", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(["a", "a", "b"], "classes"), "class 'a' is listed 2 times"),
        (changed(["a", "b\nc", "d"], "classes"), r"class 'b\nc' holds a control character"),
        (changed([], "classes"), "it has no classes"),
        (changed(None, "classes"), "'classes'"),
        (changed(1, "surprise"), "surprise"),
        (changed("applied", "exif"), "its exif is 'applied', not 'ignored: "),
        (changed([], "splits"), "'items'"),
        (changed(8, *TRAIN, "examples"), "do not add up to its examples"),
        (changed([3, 6], *TRAIN, "class_counts"), "does not count every class"),
        (changed("../x", *SHARD, "file"), "lies outside the folder"),
        (changed("/x", *SHARD, "file"), "lies outside the folder"),
        (changed(None, *SHARD, "sha256"), "sha256"),
    ],
)
def test_an_invalid_manifest_with_its_own_fingerprint_is_refused(
    data: Path, change: Callable[[Any], Any], message: str
) -> None:
    path = data / manifest.MANIFEST
    content = json.loads(path.read_text())
    del content["fingerprint"]
    content = change(content)
    path.write_text(json.dumps({**content, "fingerprint": manifest._digest(content)}))
    refusal = refusal_of(data)
    assert message in refusal
    assert refusal.startswith(f"{path} is not a data manifest: ")
    assert refusal.endswith("prepare the data again")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}'])
def test_a_file_that_is_no_manifest_is_refused(data: Path, content: bytes) -> None:
    (data / manifest.MANIFEST).write_bytes(content)
    assert str(data / manifest.MANIFEST) in refusal_of(data)
    (data / manifest.MANIFEST).unlink()
    assert refusal_of(data) == f"no prepared data in {data}: it holds no manifest.json"
