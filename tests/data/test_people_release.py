"""The drawn people are written in the format of MPII, and MPII's reader reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from data_pipelines.datasets import mpii, people
from data_pipelines.datasets.drawn import image_store
from data_pipelines.datasets.drawn.actions import ACTIONS
from data_pipelines.example import HIDDEN, UNLABELLED, VISIBLE

SIZES = {"train": 32, "val": 12, "test": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("drawn") / "people"
    people.draw(target, sizes=SIZES)
    return target


@pytest.fixture(scope="module")
def release(folder: Path) -> Any:
    path = folder / people.ANNOTATIONS
    return scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)["RELEASE"]


def stems(folder: Path, split: str) -> list[str]:
    return (folder / people.SPLITS / f"images_mpii_{split}.txt").read_text().splitlines()


@pytest.mark.slow
def test_the_release_has_the_shapes_of_mpii(folder: Path) -> None:
    raw = scipy.io.loadmat(folder / people.ANNOTATIONS, struct_as_record=False)["RELEASE"][0, 0]
    assert raw._fieldnames == [
        "annolist", "img_train", "version", "single_person", "act", "video_list",
    ]  # fmt: skip
    assert raw.annolist.shape == raw.img_train.shape == (1, 48)
    assert raw.act.shape == raw.single_person.shape == (48, 1)
    assert raw.video_list.shape == (1, 11)
    assert raw.act[0, 0]._fieldnames == ["cat_name", "act_name", "act_id"]
    row = raw.annolist[0, 0]
    assert row._fieldnames == ["image", "annorect", "frame_sec", "vididx"]
    assert row.image[0, 0].name.tolist() == ["100000000.jpg"]
    assert row.annorect[0, 0]._fieldnames == [
        "x1", "y1", "x2", "y2", "annopoints", "scale", "objpos",
    ]  # fmt: skip
    assert raw.annolist[0, 44].annorect[0, 0]._fieldnames == ["scale", "objpos"]
    assert raw.annolist[0, 44].vididx.shape == (0, 0)


def test_the_release_has_the_peculiarities_of_mpii(release: Any) -> None:
    rects = [row.annorect for row in release.annolist]
    several = [rect for rect in rects if isinstance(rect, np.ndarray)]
    assert 5 < len(several) < 30, "one person comes bare, several as an array"
    train = [rect for rect in several if hasattr(rect[0], "annopoints")]
    without_joints = [rect for rect in train if isinstance(rect[1].annopoints, np.ndarray)]
    assert 0 < len(without_joints) < len(train)
    points = np.atleast_1d(rects[0])[0].annopoints.point
    assert [point.id for point in points][:4] == [6, 7, 8, 9]
    assert points[2].is_visible.size == points[3].is_visible.size == 0
    assert np.atleast_1d(rects[3])[0].annopoints.point[0].is_visible in ("0", "1")
    ids = {act.act_id for act in release.act if str(act.act_name) == "umbrella walking"}
    assert ids == set(ACTIONS["umbrella walking"].act_ids)
    assert [group.tolist() for group in map(np.atleast_1d, release.single_person)] == [
        list(range(1, np.size(rect) + 1)) for rect in rects
    ]


def test_coordinates_are_counted_from_one(release: Any) -> None:
    first = np.atleast_1d(release.annolist[0].annorect)[0]
    points = {point.id: (point.x, point.y) for point in first.annopoints.point}
    actor = people.draw_scene(0, "train", 0).people[0]
    np.testing.assert_allclose(
        [points[joint] for joint in range(16)], actor.joints + 1, atol=0.0051
    )
    assert first.x1 < points[9][0] < first.x2
    assert first.scale * 200 == pytest.approx(actor.height_px)


def test_test_images_are_unlabelled_and_splits_disjoint(folder: Path, release: Any) -> None:
    listed = {split: stems(folder, split) for split in SIZES}
    assert {split: len(names) for split, names in listed.items()} == SIZES
    assert len(set().union(*listed.values())) == sum(SIZES.values())
    for trained, row, act in zip(release.img_train, release.annolist, release.act, strict=True):
        is_test = row.image.name.removesuffix(".jpg") in listed["test"]
        assert trained == (not is_test)
        assert (act.act_id == -1) == is_test == (np.size(act.act_name) == 0)
        assert (np.size(row.vididx) == 0) == is_test
    assert (folder / people.SPLITS / "images_mpii_val.txt").read_bytes().endswith(b"\n")


@pytest.mark.slow
def test_the_reader_of_mpii_reads_the_drawn_people(folder: Path) -> None:
    data = mpii.read(
        folder / people.ANNOTATIONS,
        folder / image_store.IMAGES,
        folder / people.SPLITS,
        name="people",
    )
    assert not data.rejects
    assert set(data.classes) == set(ACTIONS)
    assert data.provenance["videos_in_train_and_val"] == 0
    for split, size in SIZES.items():
        assert len(data.splits[split].entries) == size
    scenes = [people.draw_scene(0, "train", number) for number in range(SIZES["train"])]
    names = [people.choose_action(0, "train", number) for number in range(SIZES["train"])]
    for entry, scene, name in zip(data.splits["train"].entries, scenes, names, strict=True):
        assert entry.label == data.classes.index(name)
        found, actor = entry.keypoints[0], scene.people[0]
        np.testing.assert_allclose(found[:, :2], actor.joints, atol=0.0051)
        for joint in (0, 10, 13):
            assert found[joint, 2] == (VISIBLE if actor.visible[joint] else HIDDEN)
    assert all(entry.label == UNLABELLED for entry in data.splits["test"].entries)


def test_the_masks_file_holds_every_mask(folder: Path) -> None:
    with np.load(folder / people.MASKS, allow_pickle=False) as masks:
        assert set(masks) == {name for split in SIZES for name in stems(folder, split)}
        np.testing.assert_array_equal(masks["200000003"], people.draw_scene(0, "val", 3).mask)
