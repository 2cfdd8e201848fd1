"""The drawn people: determinism, bodies, mirrors, and the MPII form they are written in."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io

from data_pipelines.datasets import mpii, people
from data_pipelines.datasets.drawn import album, body
from data_pipelines.datasets.drawn.actions import ACTIONS
from data_pipelines.datasets.drawn.scene import ACTOR, OBJECT, Scene
from data_pipelines.errors import CannotWrite, ConfigError
from data_pipelines.example import HIDDEN, MIRRORED_JOINTS, UNLABELLED, VISIBLE
from tests.bulk_drawing import draw_pictures

SIZES = {"train": 32, "val": 12, "test": 4}
RIGHT, LEFT = [0, 1, 2, 10, 11, 12], [5, 4, 3, 15, 14, 13]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("drawn") / "people"
    people.draw(target, sizes=SIZES)
    return target


@pytest.fixture(scope="module")
def release(folder: Path) -> Any:
    path = folder / people.ANNOTATIONS
    return scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)["RELEASE"]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return draw_pictures(3, "train", range(96))


def actions(seed: int, count: int) -> list[str]:
    return [people.choose_action(seed, "train", index) for index in range(count)]


def stems(folder: Path, split: str) -> list[str]:
    return (folder / people.SPLITS / f"images_mpii_{split}.txt").read_text().splitlines()


def test_a_picture_depends_on_its_seed_split_and_number_only() -> None:
    one, again = people.picture(0, "train", 5), people.picture(0, "train", 5)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.owner, again.owner)
    np.testing.assert_array_equal(one.people[0].joints, again.people[0].joints)
    others = [
        people.picture(1, "train", 5),
        people.picture(0, "val", 5),
        people.picture(0, "train", 6),
        people.picture(0, "train", 5, "hard"),
    ]
    for other in others:
        assert not np.array_equal(one.people[0].joints, other.people[0].joints)


def test_adding_images_changes_none(folder: Path, tmp_path: Path) -> None:
    people.draw(tmp_path / "fewer", sizes={"train": 11, "val": 3})
    drawn = sorted((tmp_path / "fewer" / album.IMAGES).iterdir())
    assert len(drawn) == 14
    for path in drawn:
        assert path.read_bytes() == (folder / album.IMAGES / path.name).read_bytes()


def test_every_block_of_eight_has_every_action_in_an_order_of_its_own() -> None:
    names = actions(seed=0, count=160)
    blocks = [tuple(names[start : start + 8]) for start in range(0, 160, 8)]
    assert {frozenset(block) for block in blocks} == {frozenset(ACTIONS)}
    assert len(set(blocks)) == len(blocks)
    assert names != actions(seed=1, count=160)


@pytest.mark.parametrize("frontal", [0.0, 0.3, 1.0])
def test_limbs_keep_their_lengths_in_every_pose(frontal: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        joints = body.place_joints(rng.uniform(-360, 360, 10), frontal)
        for bone in body.SKELETON:
            length = abs(joints[bone.joint] - joints[bone.parent])
            assert length == pytest.approx(bone.length * (frontal if bone.square else 1))


def test_a_limb_points_where_its_angle_says() -> None:
    angles = np.zeros(10)
    angles[[0, 1]] = 180
    angles[body.LIMB_ANGLES.index("right upper arm")] = -90
    angles[body.LIMB_ANGLES.index("left shin")] = 90
    joints = body.place_joints(angles, 1.0)
    assert joints[9] == pytest.approx(-0.515j), "head top, above the pelvis"
    assert joints[11] - joints[12] == pytest.approx(-0.17), "right elbow, left in the picture"
    assert joints[5] - joints[4] == pytest.approx(0.24), "left ankle, right in the picture"
    assert joints[0] - joints[2] == pytest.approx(0.485j), "right leg, hanging"


def test_a_body_seen_from_the_front_has_its_right_on_the_left_of_the_picture(
    scenes: list[Scene],
) -> None:
    upright = body.place_joints(np.array([180, 180, *[0] * 8], float), 1.0)
    assert np.all(np.real(upright[RIGHT]) < 0)
    assert np.all(np.real(upright[LEFT]) > 0)
    bystanders = [person for scene in scenes for person in scene.people[1:]]
    assert len(bystanders) > 10
    for person in bystanders:
        assert person.joints[12, 0] < person.joints[13, 0], "in the mirror as out of it"


def test_a_mirrored_scene_is_the_flipped_picture_with_swapped_joints(scenes: list[Scene]) -> None:
    scene = next(scene for scene in scenes if len(scene.people) == 2)
    mirrored = scene.mirrored()
    width_px = scene.image.shape[1]
    np.testing.assert_array_equal(mirrored.image, scene.image[:, ::-1])
    np.testing.assert_array_equal(mirrored.mask, scene.mask[:, ::-1])
    for person, twin in zip(scene.people, mirrored.people, strict=True):
        for joint, partner in enumerate(MIRRORED_JOINTS):
            x, y = person.joints[joint]
            np.testing.assert_allclose(twin.joints[partner], (width_px - 1 - x, y))
            assert twin.visible[partner] == person.visible[joint]
    np.testing.assert_allclose(mirrored.mirrored().people[0].joints, scene.people[0].joints)


def test_half_of_the_throwers_are_left_handed() -> None:
    numbers = [n for n, name in enumerate(actions(0, 320)) if name == "throwing ball"]
    right_handed = 0
    for scene in draw_pictures(0, "train", numbers):
        ball = np.argwhere(scene.mask == OBJECT)[:, ::-1].mean(0)
        right, left = scene.people[0].joints[[10, 15]]
        right_handed += np.linalg.norm(ball - right) < np.linalg.norm(ball - left)
    assert 10 <= right_handed <= 30, f"{right_handed} of {len(numbers)}"


@pytest.mark.parametrize("difficulty", people.DIFFICULTIES)
def test_joints_sit_on_the_body(difficulty: str) -> None:
    near = inside = 0
    for scene in draw_pictures(4, "val", range(48), difficulty):
        height, width = scene.mask.shape
        figure = (scene.mask == ACTOR).astype(np.uint8)
        reached = cv2.dilate(figure, np.ones((5, 5), np.uint8))
        for x, y in np.rint(scene.people[0].joints).astype(int):
            if 0 <= x < width and 0 <= y < height:
                inside += 1
                near += int(reached[y, x])
    assert inside > 700
    assert near / inside >= 0.95


def test_masks_show_the_actor_and_what_is_held(scenes: list[Scene]) -> None:
    for scene, action in zip(scenes, actions(3, 96), strict=True):
        assert (scene.mask == ACTOR).sum() > 500
        held = (scene.mask == OBJECT).sum()
        assert held > 20 if ACTIONS[action].grip else held == 0
        assert set(np.unique(scene.mask)) <= {0, ACTOR, OBJECT}


def test_a_covered_joint_does_not_show(scenes: list[Scene]) -> None:
    shown = np.array([person.visible for scene in scenes for person in scene.people])
    assert 0.85 < shown.mean() < 0.99
    for scene in scenes:
        for person in scene.people:
            x, y = person.joints.T
            outside = (x < -1) | (y < -1) | (x > scene.mask.shape[1]) | (y > scene.mask.shape[0])
            assert not person.visible[outside].any()


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


def test_the_release_carries_the_peculiarities_of_mpii(release: Any) -> None:
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
    actor = people.picture(0, "train", 0).people[0]
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


def test_the_reader_of_mpii_finds_what_was_drawn(folder: Path) -> None:
    data = mpii.read(
        folder / people.ANNOTATIONS, folder / album.IMAGES, folder / people.SPLITS, name="people"
    )
    assert not data.rejects
    assert set(data.classes) == set(ACTIONS)
    assert data.provenance["videos_in_train_and_val"] == 0
    for split, size in SIZES.items():
        assert len(data.splits[split].entries) == size
    scenes = draw_pictures(0, "train", range(SIZES["train"]))
    names = actions(0, SIZES["train"])
    for entry, scene, name in zip(data.splits["train"].entries, scenes, names, strict=True):
        assert entry.label == data.classes.index(name)
        found, actor = entry.keypoints[0], scene.people[0]
        np.testing.assert_allclose(found[:, :2], actor.joints, atol=0.0051)
        for joint in (0, 10, 13):
            assert found[joint, 2] == (VISIBLE if actor.visible[joint] else HIDDEN)
    assert {entry.label for entry in data.splits["test"].entries} == {UNLABELLED}


def test_the_side_file_holds_every_mask(folder: Path) -> None:
    with np.load(folder / people.MASKS, allow_pickle=False) as masks:
        assert set(masks) == {name for split in SIZES for name in stems(folder, split)}
        np.testing.assert_array_equal(masks["200000003"], people.picture(0, "val", 3).mask)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"difficulty": "brutal"}, "difficulty='brutal' is not one of easy, default, hard"),
        ({"sizes": {"trian": 3}}, "'trian'"),
        ({"sizes": {"val": -3}}, "val=-3"),
        ({"sizes": {"train": 0, "val": 0}}, "asks for no image"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(
    asked: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        people.draw(tmp_path / "people", **asked)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CannotWrite, match="holds something"):
        people.draw(tmp_path, sizes={"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_drawing_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    told = []

    def interrupt(done: int, total: int) -> None:
        told.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        people.draw(tmp_path / "people", sizes={"train": 4, "val": 1}, progress=interrupt)
    assert told == [(1, 5), (2, 5), (3, 5)]
    assert not any(tmp_path.iterdir())
