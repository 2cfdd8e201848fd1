"""The drawn scenes of objects have correct labels, and an invalid labels file is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.datasets import objects
from data_pipelines.datasets.drawn import image_store
from data_pipelines.datasets.drawn.scene import ACTOR, OBJECT
from data_pipelines.datasets.drawn.things import THINGS
from data_pipelines.errors import CannotWrite, ConfigError, DataError

SIZES = {"train": 24, "val": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("drawn") / "objects"
    objects.draw(target, sizes=SIZES)
    return target


def rewrite(folder: Path, target: Path, change: dict[str, Any]) -> Path:
    """A folder with the labels of `folder`, changed."""
    content = json.loads((folder / objects.LABELS).read_text())
    (target / objects.LABELS).write_text(json.dumps({**content, **change}))
    return target


def test_reading_returns_the_drawn_labels(folder: Path) -> None:
    data = objects.read(folder)
    assert data.label_kind == "multi"
    assert data.classes == (*THINGS, "person")
    assert not data.rejects
    for split, size in SIZES.items():
        raw = data.splits[split]
        assert raw.listed == raw.annotated == raw.on_disk == len(raw.entries) == size
    for number, entry in enumerate(data.splits["train"].entries[:4]):
        names = {
            name for name, held in zip(data.classes, np.ravel(entry.label), strict=True) if held
        }
        scene = objects.draw_scene(0, "train", number)
        assert names == {kind for kind, share in scene.items if share >= 0.4}
        assert entry.keypoints.shape == (0, 16, 3)
        assert entry.path.is_file()
        assert entry.id == entry.path.stem


def test_every_class_is_in_some_pictures_and_missing_in_others(folder: Path) -> None:
    labels = np.array([entry.label for entry in objects.read(folder).splits["train"].entries])
    assert labels.shape == (SIZES["train"], len(THINGS) + 1)
    assert labels.any(0).all()
    assert not labels.all(0).any()


def test_a_scene_has_surroundings_and_no_actor() -> None:
    one, again = (objects.draw_scene(2, "val", 7) for _ in range(2))
    np.testing.assert_array_equal(one.image, again.image)
    assert not np.isin(one.owner, (ACTOR, OBJECT)).any()
    assert not np.array_equal(one.owner, objects.draw_scene(3, "val", 7).owner)
    for kind, share in one.items:
        assert kind in objects.CLASSES
        assert 0 <= share <= 1


def test_a_missing_image_is_a_reject(folder: Path, tmp_path: Path) -> None:
    data = objects.read(rewrite(folder, tmp_path, {}))
    assert [reject.split for reject in data.rejects] == ["train"] * 24 + ["val"] * 8
    assert data.rejects[0] == ("train", "500000000", "has no file '500000000.jpg' among the images")
    assert data.splits["train"].listed == 24
    assert data.splits["train"].on_disk == len(data.splits["train"].entries) == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"classes": []}, "classes"),
        ({"classes": "ball"}, "classes"),
        ({"classes": ["ball", "ball"]}, "classes"),
        ({"classes": ["ball", 3]}, "classes"),
        ({"more": 1}, "exactly classes and splits"),
        ({"splits": {}}, "no split"),
        ({"splits": []}, "no split"),
        ({"splits": {"train": ["a.jpg"]}}, "'train' holds no pictures"),
        ({"splits": {"train": {"../a.jpg": []}}}, "'../a.jpg'"),
        ({"splits": {"train": {"a.png": []}}}, "'a.png'"),
        ({"splits": {"train": {"a.jpg": ["kite"]}}}, "'kite'"),
        ({"splits": {"train": {"a.jpg": ["ball", "ball"]}}}, "'ball'"),
        ({"splits": {"train": {"a.jpg": "ball"}}}, "'ball'"),
        ({"splits": {"train": {"a.jpg": None}}}, "None"),
        ({"splits": {"train": {"a.jpg": [["ball"]]}}}, "ball"),
        ({"splits": {"train": {"a.jpg": []}, "val": {"a.jpg": []}}}, "'a.jpg'"),
    ],
)
def test_invalid_labels_are_refused_in_one_line(
    change: dict[str, Any], complaint: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        objects.read(rewrite(folder, tmp_path, change))
    line = str(caught.value)
    assert complaint in line
    assert "labels.json" in line
    assert line.endswith("draw the data set again")
    assert "\n" not in line


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"NaN"])
def test_a_file_that_is_not_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / objects.LABELS).write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.json"):
        objects.read(tmp_path)


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no labels\.json"):
        objects.read(tmp_path)


def test_invalid_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed=-1"):
        objects.draw(tmp_path / "objects", seed=-1)
    with pytest.raises(ConfigError, match="'test' is not drawn; the splits are train, val"):
        objects.draw(tmp_path / "objects", sizes={"test": 1})
    (tmp_path / image_store.IMAGES).mkdir()
    with pytest.raises(CannotWrite, match="is not an empty folder"):
        objects.draw(tmp_path)
