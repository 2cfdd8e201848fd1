"""The drawn scenes of objects have the right labels, and invalid requests are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.core.errors import CannotWrite, ConfigError
from data_pipelines.datasets import objects
from data_pipelines.datasets.drawn import image_store
from data_pipelines.datasets.drawn.scene import ACTOR, OBJECT
from data_pipelines.datasets.drawn.things import THINGS
from data_pipelines.example import RawData

SIZES = {"train": 24, "val": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RawData:
    return objects.draw(tmp_path_factory.mktemp("drawn") / "objects", sizes=SIZES)


def test_drawing_returns_and_writes_the_labels(data: RawData) -> None:
    assert (data.label_kind, data.classes, data.rejects) == ("multi", (*THINGS, "person"), [])
    for split, size in SIZES.items():
        raw = data.splits[split]
        assert raw.listed == raw.annotated == raw.on_disk == len(raw.entries) == size
    folder = data.splits["train"].entries[0].path.parents[1]
    written = json.loads((folder / objects.LABELS).read_text())
    assert written["classes"] == list(data.classes)
    assert {split: len(names) for split, names in written["splits"].items()} == SIZES
    for number, entry in enumerate(data.splits["train"].entries[:4]):
        scene = objects.draw_scene(0, "train", number)
        names = {kind for kind, share in scene.items if share >= 0.4}
        assert entry.label == tuple(int(name in names) for name in data.classes)
        assert written["splits"]["train"][entry.path.name] == sorted(names)
        assert entry.keypoints.shape == (0, 16, 3)
        assert entry.path.is_file()
        assert entry.id == entry.path.stem


def test_every_class_is_in_some_pictures_and_missing_in_others(data: RawData) -> None:
    labels = np.array([entry.label for entry in data.splits["train"].entries])
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


def test_invalid_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed=-1"):
        objects.draw(tmp_path / "objects", seed=-1)
    with pytest.raises(ConfigError, match="'test' is not drawn; the splits are train, val"):
        objects.draw(tmp_path / "objects", sizes={"test": 1})
    (tmp_path / image_store.IMAGES).mkdir()
    with pytest.raises(CannotWrite, match="is not an empty folder"):
        objects.draw(tmp_path)
