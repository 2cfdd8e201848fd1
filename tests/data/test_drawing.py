"""Joints are drawn at their keypoints in the colour of their side of the body."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.example import BONES, JOINTS, MIRRORED_JOINTS, PADDING_ID, HostBatch
from data_pipelines.pictures import drawing
from data_pipelines.transforms import View
from tests.support.tiny_data import standing_people

GREY = np.full((200, 160, 3), 90, np.uint8)


def one_joint(joint: int, x: float, y: float, visibility: int) -> np.ndarray:
    keypoints = np.zeros((1, 16, 3), np.float32)
    keypoints[0, joint] = (x, y, visibility)
    return keypoints


@pytest.mark.parametrize("joint", range(16), ids=JOINTS)
def test_a_visible_joint_is_filled_and_a_hidden_one_hollow(joint: int) -> None:
    side = JOINTS[joint].split()[0]
    colour = {"left": drawing.LEFT, "right": drawing.RIGHT}.get(side, drawing.CENTRE)
    visible = drawing.draw_skeletons(GREY, one_joint(joint, 80, 100, 2))
    hidden = drawing.draw_skeletons(GREY, one_joint(joint, 80, 100, 1))
    assert tuple(visible[100, 80]) == colour
    assert tuple(hidden[100, 80]) == drawing.CASING
    ring = np.abs(hidden.astype(int) - colour).max(-1).min()
    assert ring < 70
    assert np.abs(hidden[97:104, 77:84].astype(int) - visible[97:104, 77:84]).max() > 70
    absent = drawing.draw_skeletons(GREY, one_joint(joint, 80, 100, 0))
    np.testing.assert_array_equal(absent, GREY)


@pytest.mark.parametrize("at", [(80.0, 100.0), (80.5, 99.25), (41.75, 150.5)])
def test_a_joint_is_drawn_to_a_fraction_of_a_pixel(at: tuple[float, float]) -> None:
    drawn = drawing.draw_skeletons(GREY, one_joint(9, *at, 2))
    change = np.abs(drawn.astype(float) - GREY).sum(-1)
    rows, columns = np.mgrid[0:200, 0:160]
    centre = (change * columns).sum() / change.sum(), (change * rows).sum() / change.sum()
    np.testing.assert_allclose(centre, at, atol=0.15)


def test_each_limb_has_its_side_and_a_mirrored_person_the_other() -> None:
    image = np.full((400, 400, 3), 90, np.uint8)
    people = standing_people(1, 400, 400)
    halves = [people, people[:, MIRRORED_JOINTS]]
    for keypoints, left_half in zip(halves, (drawing.RIGHT, drawing.LEFT), strict=True):
        drawn = drawing.draw_skeletons(image, keypoints)
        blue, orange = ((drawn == colour).all(-1) for colour in (drawing.LEFT, drawing.RIGHT))
        of_left, of_right = (blue, orange) if left_half == drawing.LEFT else (orange, blue)
        assert of_left[:, :190].sum() > 200
        assert of_right[:, 210:].sum() > 200
        assert not of_left[:, 210:].any()
        assert not of_right[:, :190].any()
    thigh = (people[0, 3, :2] + people[0, 4, :2]) / 2
    shown = drawing.draw_skeletons(image, people)[round(thigh[1]), round(thigh[0])]
    assert tuple(shown) == drawing.LEFT


def test_bones_join_all_joints_and_are_their_own_mirror_image() -> None:
    reached = {0}
    for _ in BONES:
        reached |= {end for bone in BONES if reached & set(bone) for end in bone}
    assert reached == set(range(len(JOINTS))) and len(BONES) == len(JOINTS) - 1
    mirrored = {frozenset(MIRRORED_JOINTS[end] for end in bone) for bone in BONES}
    assert mirrored == {frozenset(bone) for bone in BONES}


def test_a_bone_needs_both_ends() -> None:
    people = standing_people(1, 160, 200)
    people[0, 1] = 0
    knee = standing_people(1, 160, 200)[0, 1, :2].round().astype(int)
    shin = drawing.draw_skeletons(GREY, people)[knee[1] + 10, knee[0]]
    assert tuple(shin) == (90, 90, 90)


def test_the_image_is_not_changed_and_may_be_a_view() -> None:
    mirrored = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)[:, ::-1]
    before = mirrored.copy()
    drawing.draw_skeletons(mirrored, standing_people(2, 80, 60))
    drawing.draw_disc(mirrored, np.array([5.0, 5.0, 2.0]), 9.5)
    np.testing.assert_array_equal(mirrored, before)


def test_joints_far_outside_are_accepted() -> None:
    people = standing_people(1, 160, 200)
    people[0, :4, :2] = [[1e30, 5], [-1e30, 1e9], [4e8, -4e8], [160, -1]]
    assert drawing.draw_skeletons(GREY, people).shape == GREY.shape


def test_lines_grow_with_the_image() -> None:
    inked = []
    for side in (160, 640):
        image = np.full((side, side, 3), 90, np.uint8)
        drawn = drawing.draw_skeletons(image, standing_people(1, side, side))
        inked.append((drawn != image).any(-1).sum())
    assert inked[1] > 5 * inked[0], "lines of a constant width would give 4"


def test_a_disc_has_the_radius_of_the_target() -> None:
    drawn = drawing.draw_disc(GREY, np.array([80.0, 100.0, 2.0]), 30.5)
    rows, columns = np.nonzero((drawn != GREY).any(-1))
    distance = np.hypot(rows - 100, columns - 80)
    assert abs(distance.mean() - 30.5) < 0.3
    assert distance.min() > 27
    assert (drawn == drawing.CASING).all(-1).sum() > 200, "the dark edge shows on both sides"


def test_a_box_is_outlined_on_the_border_of_its_pixels() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    drawn = drawing.draw_boxes(image, np.array([[10, 5, 50, 30], [0, 0, 0, 0]], np.float32))
    rows, columns = np.nonzero(np.abs(drawn.astype(int) - drawing.BOX).max(-1) < 90)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 30, 9, 50)
    assert (drawn[9:26, 14:46] == 90).all() and (drawn[0] == 90).all()
    assert not np.array_equal(drawn, image) and (image == 90).all()


def test_fitting_keeps_joints_and_disc_on_the_picture() -> None:
    image = np.zeros((40, 100, 3), np.uint8)
    fitted = drawing.fit(View(image, one_joint(0, 99.5, 19.5, 2).astype(float), 10.0), 250)
    assert fitted.image.shape == (100, 250, 3)
    np.testing.assert_allclose(fitted.keypoints[0, 0], (249.5, 49.5, 2))
    assert fitted.disc_radius == pytest.approx(25)
    assert drawing.fit(View(image, one_joint(0, 0, 0, 0), 0.0), 50).image.shape == (20, 50, 3)


def test_the_first_joint_inside() -> None:
    people = np.concatenate([one_joint(3, 200, 5, 2), one_joint(4, 7, 8, 1)])
    joint = drawing.first_joint_inside(people, GREY)
    assert joint is not None
    np.testing.assert_array_equal(joint, (7, 8, 1))
    assert drawing.first_joint_inside(people[:1], GREY) is None
    assert drawing.first_joint_inside(people[:0], GREY) is None


def test_a_batch_becomes_a_grid_with_names() -> None:
    rng = np.random.default_rng(0)
    batch = HostBatch(
        image=rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8),
        keypoints=np.stack([standing_people(1, 64, 64)] * 5),
        disc_radius=np.full(5, 3, np.float32),
        label=np.array([0, 1, 0, 1, 0], np.int32),
        weight=np.array([1, 1, 1, 0, 0], np.float32),
        id=np.array([4, 2, 7, 1, PADDING_ID]),
    )
    names = ("jump", "an exceedingly long name of 写真 that has no room at all beneath it")
    sheet = np.asarray(Image.open(io.BytesIO(drawing.draw_batch(batch, names, side_px=100))))
    assert sheet.shape == (2 * (100 + 30) + 8, 3 * 108 + 8, 3)
    captions = [
        sheet[top + 100 : top + 122, left : left + 100]
        for top in (8, 138)
        for left in (8, 116, 224)
    ]
    assert [bool((caption < 128).any()) for caption in captions] == [True] * 5 + [False]
    np.testing.assert_array_equal(captions[0], captions[2])
    assert len({caption.tobytes() for caption in captions}) == 5
    gap = sheet[:, 108:116]
    assert (gap == 255).all()
    endless = ("jump", "n" * 100_000)
    large = drawing.draw_batch(batch, endless, side_px=64)
    assert Image.open(io.BytesIO(large)).size == (3 * 72 + 8, 2 * (64 + 30) + 8)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (np.int64(1), "b"),
        (-1, "no label"),
        (np.array([1, 0, 1], np.int8), "a, c"),
        (np.zeros(3, np.int8), "no class"),
        (np.array([0, -1, -2], np.int8), "no class"),
        (np.array([-3, -1, -2], np.int8), "no label"),
    ],
)
def test_texts_of_labels(label: object, text: str) -> None:
    assert drawing.label_text(label, ("a", "b", "c")) == text
