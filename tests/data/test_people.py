"""The drawn people: determinism, bodies, mirroring, masks and refusals."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipelines.core.errors import CannotWrite, ConfigError
from data_pipelines.datasets import people
from data_pipelines.datasets.drawn import body, image_store
from data_pipelines.datasets.drawn.actions import ACTIONS
from data_pipelines.datasets.drawn.scene import ACTOR, OBJECT, Scene
from data_pipelines.example import MIRRORED_JOINTS

RIGHT, LEFT = [0, 1, 2, 10, 11, 12], [5, 4, 3, 15, 14, 13]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [people.draw_scene(3, "train", number) for number in range(96)]


def actions(seed: int, count: int) -> list[str]:
    return [people.choose_action(seed, "train", index) for index in range(count)]


def test_a_picture_depends_on_its_seed_split_and_number_only() -> None:
    one, again = people.draw_scene(0, "train", 5), people.draw_scene(0, "train", 5)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.owner, again.owner)
    np.testing.assert_array_equal(one.people[0].joints, again.people[0].joints)
    others = [
        people.draw_scene(1, "train", 5),
        people.draw_scene(0, "val", 5),
        people.draw_scene(0, "train", 6),
        people.draw_scene(0, "train", 5, "hard"),
    ]
    for other in others:
        assert one.items != other.items, "the surroundings differ, not only the action"
        assert not np.array_equal(one.people[0].joints, other.people[0].joints)


def test_adding_images_changes_no_image(tmp_path: Path) -> None:
    people.draw(tmp_path / "few", sizes={"train": 3, "val": 2})
    assert not (tmp_path / "few/splits/images_mpii_test.txt").exists()  # an empty list is refused
    people.draw(tmp_path / "more", sizes={"train": 5, "val": 4, "test": 1})
    few, more = (
        sorted((tmp_path / name / image_store.IMAGES).iterdir()) for name in ("few", "more")
    )
    contents = {path.name: path.read_bytes() for path in more}
    assert (len(few), len(contents)) == (5, 10)
    assert len(set(contents.values())) == 10
    for path in few:
        assert path.read_bytes() == contents[path.name]


def test_every_block_of_eight_has_every_action_in_a_new_order() -> None:
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


@pytest.mark.slow
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
    for number in numbers:
        scene = people.draw_scene(0, "train", number)
        ball = np.argwhere(scene.mask == OBJECT)[:, ::-1].mean(0)
        right, left = scene.people[0].joints[[10, 15]]
        right_handed += np.linalg.norm(ball - right) < np.linalg.norm(ball - left)
    assert 10 <= right_handed <= 30, f"{right_handed} of {len(numbers)}"


@pytest.mark.parametrize("difficulty", people.DIFFICULTIES)
def test_joints_sit_on_the_body(difficulty: str) -> None:
    near = inside = 0
    for number in range(48):
        scene = people.draw_scene(4, "val", number, difficulty)
        height, width = scene.mask.shape
        figure = (scene.mask == ACTOR).astype(np.uint8)
        reached = cv2.dilate(figure, np.ones((5, 5), np.uint8))
        for x, y in np.rint(scene.people[0].joints).astype(int):
            if 0 <= x < width and 0 <= y < height:
                inside += 1
                near += int(reached[y, x])
    assert inside > 700
    assert near / inside >= 0.95


def test_masks_show_the_actor_and_the_held_thing(scenes: list[Scene]) -> None:
    for scene, action in zip(scenes, actions(3, 96), strict=True):
        assert (scene.mask == ACTOR).sum() > 500
        held = (scene.mask == OBJECT).sum()
        assert held > 20 if ACTIONS[action].grip else held == 0
        assert set(np.unique(scene.mask)) <= {0, ACTOR, OBJECT}


def test_a_joint_is_visible_where_the_body_is_not_covered(scenes: list[Scene]) -> None:
    covered = outside = 0
    for scene in scenes:
        height, width = scene.owner.shape
        own = np.pad(scene.owner == ACTOR, 2)
        for rank, person in enumerate(scene.people):
            for joint, (x, y) in enumerate(np.rint(person.joints).astype(int)):
                if not (0 <= x < width and 0 <= y < height):
                    assert not person.visible[joint]
                    outside += 1
                elif rank == 0:
                    assert person.visible[joint] == own[y : y + 5, x : x + 5].any()
                    covered += not person.visible[joint]
    assert covered > 3
    assert outside > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"difficulty": "brutal"}, "difficulty='brutal' is not one of easy, default, hard"),
        ({"sizes": {"trian": 3}}, "'trian'"),
        ({"sizes": {"val": -3}}, "val=-3"),
        ({"sizes": {"train": 10**8}}, "train=100000000 images"),
        ({"sizes": {"train": 0, "val": 0}}, "has no image"),
    ],
)
def test_an_invalid_request_is_refused(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        people.draw(tmp_path / "people", **arguments)
    assert not any(tmp_path.iterdir())


def test_a_folder_with_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CannotWrite, match="is not an empty folder"):
        people.draw(tmp_path, sizes={"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_scene, drawn = people.draw_scene, []

    def interrupt(seed: int, split: str, index: int, difficulty: str) -> Scene:
        drawn.append((split, index))
        if index == 2:
            raise KeyboardInterrupt
        return draw_scene(seed, split, index, difficulty)

    monkeypatch.setattr(people, "draw_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        people.draw(tmp_path / "people", sizes={"train": 4, "val": 1})
    assert drawn == [("train", 0), ("train", 1), ("train", 2)]
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_draw_the_same_files(tmp_path: Path) -> None:
    """Nothing depends on a clock or on the order of a hash, so redrawn data continue a run."""
    words = [sys.executable, "-m", "gap_jax", "data", "prepare", "people", "--train=4", "--val=1"]
    drawing = [
        subprocess.Popen(
            [*words, "--test=1", f"--out={tmp_path / name}"], stdout=subprocess.DEVNULL
        )
        for name in ("one", "other")
    ]
    assert [each.wait(120) for each in drawing] == [0, 0]
    one, other = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for folder in (tmp_path / "one", tmp_path / "other")
    )
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
