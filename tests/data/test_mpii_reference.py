"""The reader gives the real MPII lists and class table, if the machine has them."""

import csv
import hashlib
import itertools
from pathlib import Path

import numpy as np

from data_pipelines.datasets import mpii
from data_pipelines.datasets.mpii_splits import is_official, read_lists
from tests.support.mat_fixtures import EMPTY, Image, write_mat

MD5 = {
    "train": "3bafeaf11608c82d86cc75fd03257bf6",
    "val": "de82e7c4a41c569561ea43b4aaef919a",
    "test": "7ed6f1f8b3b97afd74e803c491499d86",
}


def test_the_real_lists(reference_data: Path) -> None:
    lists = read_lists(reference_data / "mpii_lists")
    assert {split: len(names) for split, names in lists.items()} == {
        "train": 8219,
        "val": 6988,
        "test": 5709,
    }
    assert len(set(itertools.chain(*lists.values()))) == 20916
    assert is_official(lists)
    for split, names in lists.items():
        content = "".join(f"{name}\n" for name in names).encode()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == MD5[split]
    assert not is_official({**lists, "val": lists["val"][::-1]})


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_real_classes_in_the_real_lists(reference_data: Path, tmp_path: Path) -> None:
    """Writes one image per act_id and one per class of val; real names, not in order."""
    rows = table(reference_data / "mpii_classes_nips_order.tsv")
    lists = read_lists(reference_data / "mpii_lists")
    free = {split: iter(names[::-1]) for split, names in lists.items()}
    images = [Image("unlisted.jpg", act_name="zumba"), unlabelled(next(free["test"]))]
    for row in rows:
        for position, act_id in enumerate(row["act_ids"].split(",")):
            if position == 0 and int(row["val_images"]):
                images.append(image_of(next(free["val"]), row, act_id))
            images.append(image_of(next(free["train"]), row, act_id))
    images += [image_of(images[-1].name[:-5] + "x", rows[0], "1"), unlabelled(next(free["test"]))]
    annotations = write_mat(tmp_path / "a.mat", images)
    for image in images:
        (tmp_path / image.name).touch()
    raw = mpii.read(annotations, tmp_path, reference_data / "mpii_lists")
    assert raw.classes == tuple(row["act_name"] for row in rows) and len(raw.classes) == 393
    assert raw.provenance["act_ids"] == [row["act_ids"] for row in rows]
    assert sum(len(row["act_ids"].split(",")) for row in rows) == 611
    assert raw.provenance["split_kind"] == "official lists"
    labels = {
        split: {str(entry.label) for entry in each.entries} for split, each in raw.splits.items()
    }
    assert (len(labels["train"]), len(labels["val"]), labels["test"]) == (393, 371, {"-1"})
    assert [each.listed for each in raw.splits.values()] == [8219, 6988, 5709]
    assert [each.annotated for each in raw.splits.values()] == [611, 371, 2]
    assert len(raw.rejects) == 20916 - 611 - 371 - 2


def image_of(name: str, row: dict[str, str], act_id: str) -> Image:
    return Image(
        f"{name}.jpg",
        act_name=row["act_name"],
        act_id=np.uint16(int(act_id)),
        cat_name=row["cat_name"],
    )


def unlabelled(name: str) -> Image:
    return Image(f"{name}.jpg", (), EMPTY, np.int16(-1), EMPTY, 0, EMPTY)
