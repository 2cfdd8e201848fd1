"""Each peculiarity of MPII's annotation file, in a tiny file of its format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.datasets import mpii, mpii_mat
from data_pipelines.datasets.mpii_mat import Annotation, Joint, parse
from data_pipelines.example import HIDDEN
from tests.support.mat_fixtures import (
    EMPTY,
    Fields,
    Image,
    cell_array,
    point,
    rect,
    struct_array,
    write_mat,
)


@pytest.fixture(params=["struct arrays", "cells"])
def as_cells(request: pytest.FixtureRequest) -> bool:
    return request.param == "cells"


def parse_one(tmp_path: Path, image: Image, *, as_cells: bool = False) -> Annotation:
    (row,) = parse(write_mat(tmp_path / "a.mat", [image], as_cells=as_cells))
    return row


def parse_joint(tmp_path: Path, fields: Fields) -> Joint | None:
    image = Image(rects=[rect([fields, point(15, 5, 5)])])
    return parse_one(tmp_path, image).people[0][int(fields["id"])]


def annotated(person: Sequence[Joint | None]) -> list[int]:
    return [joint for joint, position in enumerate(person) if position is not None]


def test_the_real_sample(tmp_path: Path) -> None:
    head = {"x1": np.uint16(627), "y1": np.uint8(100), "x2": np.uint16(706), "y2": np.uint8(198)}
    objpos = struct_array([{"x": np.uint16(594), "y": np.uint16(257)}])
    points = [
        point(6, np.uint16(610), np.uint8(187), is_visible=np.uint8(0)),
        point(7, np.uint16(647), np.uint8(176), is_visible=np.uint8(1)),
        point(8, 637.0201, 189.8183, is_visible=EMPTY),
        point(9, 695.9799, 108.1817, is_visible=EMPTY),
        point(0, np.uint16(620), np.uint16(394), is_visible=np.uint8(1)),
        *(point(joint, np.uint16(600), np.uint16(300), is_visible=1) for joint in (1, 2, 3, 4, 5)),
        *(point(joint, np.uint16(600), np.uint16(300), is_visible=1) for joint in range(10, 16)),
    ]
    first = {**rect(points, scale=3.021046176409755, objpos=objpos), **head}
    names = ["037454012", "095071431", "073199394", "059865848"]
    tests = [
        Image(f"{name}.jpg", [rect(None)], "", np.int16(-1), "", 0, EMPTY, EMPTY) for name in names
    ]
    sample = Image(
        rects=[first, rect([point(0, 9, 9)])],
        vididx=np.uint16(1660),
        single=np.array([[1], [2]], np.uint8),
    )
    rows = parse(write_mat(tmp_path / "a.mat", [*tests, sample]))
    assert rows[0] == Annotation(
        1, "037454012.jpg", [[None] * 16], "", -1, "", False, 0, 0, [[39, 49, 700]]
    )
    row = rows[4]
    assert row._replace(people=[], places=[]) == Annotation(
        5, "015601864.jpg", [], "curling", 1, "sports", True, 1660, 2, []
    )
    assert row.places[0] == [593, 256, pytest.approx(604.2092)]
    assert annotated(row.people[0]) == list(range(16))
    assert [row.people[0][joint] for joint in (6, 7, 8, 9, 0)] == [
        (609, 186, False),
        (646, 175, True),
        (pytest.approx(636.0201), pytest.approx(188.8183), False),
        (pytest.approx(694.9799), pytest.approx(107.1817), False),
        (619, 393, True),
    ]
    assert annotated(row.people[1]) == [0]


@pytest.mark.parametrize(
    ("is_visible", "expected"),
    [
        (np.uint8(1), True),
        (np.uint8(0), False),
        (1.0, True),
        (np.int16(-1), False),
        (np.uint8(2), False),
        (np.True_, True),
        (np.nan, False),
        ("1", True),
        ("0", False),
        (np.array(["1"]), True),
        ("", False),
        (EMPTY, False),
        (cell_array(["1"]), True),
    ],
    ids=repr,
)
def test_forms_of_is_visible(tmp_path: Path, is_visible: Any, expected: bool) -> None:
    assert parse_joint(tmp_path, point(3, 9, 9, is_visible=is_visible)) == (8, 8, expected)


def test_absent_is_visible_counts_as_hidden(tmp_path: Path) -> None:
    assert parse_joint(tmp_path, point(3, 9, 9)) == (8, 8, False)
    only_one = Image(rects=[rect([point(3, 9, 9)])])
    people = parse_one(tmp_path, only_one).people
    assert mpii.stack_people(people)[0, 3].tolist() == [8, 8, HIDDEN]


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.uint8(0), -1),
        (np.uint8(255), 254),
        (np.uint16(65535), 65534),
        (np.int16(1), 0),
        (637.0201, 636.0201),
        (5000.0, 4999),
        (-0.5, -1.5),
        ("12", 11),
        (np.int16(-1), None),
        (-3.5, None),
        (np.nan, None),
        (np.inf, None),
        (-np.inf, None),
        (1e300, None),
        (EMPTY, None),
    ],
    ids=repr,
)
def test_forms_of_a_coordinate(tmp_path: Path, x: Any, expected: float | None) -> None:
    wanted = None if expected is None else pytest.approx(expected)
    across = parse_joint(tmp_path, point(2, x, np.uint8(4), is_visible=1))
    assert across == (None if wanted is None else (wanted, 3, True))
    down = parse_joint(tmp_path, point(2, np.uint8(4), x, is_visible=1))
    assert down == (None if wanted is None else (3, wanted, True))


@pytest.mark.parametrize("count", [0, 1, 2, 13])
def test_any_number_of_people(tmp_path: Path, count: int, as_cells: bool) -> None:
    rects = [rect([point(0, index + 1, 1)]) for index in range(count)]
    row = parse_one(tmp_path, Image(rects=rects), as_cells=as_cells)
    assert [person[0] for person in row.people] == [(index, 0, False) for index in range(count)]


def test_people_without_points_and_place_are_left_out(tmp_path: Path, as_cells: bool) -> None:
    rects = [
        rect(None, scale=EMPTY),
        rect([point(1, 2, 2)]),
        rect([], objpos=EMPTY),
        rect(None, annopoints=EMPTY, scale=0.0),
        rect([point(4, 5, 5)], scale=EMPTY, objpos=EMPTY),
    ]
    row = parse_one(tmp_path, Image(rects=rects), as_cells=as_cells)
    assert [annotated(person) for person in row.people] == [[1], [4]]
    assert row.places == [[39, 49, 700], None]


def test_annorect_without_annopoints_at_all(tmp_path: Path, as_cells: bool) -> None:
    row = parse_one(tmp_path, Image(rects=[rect(None), rect(None)]), as_cells=as_cells)
    assert row.people == [[None] * 16] * 2 and row.places == [[39, 49, 700]] * 2


def test_extra_fields_of_text(tmp_path: Path) -> None:
    extra = {"part_occ1": "0", "head_r11": "0.97", "torso_r33": "1"}
    image = Image(rects=[rect([point(0, 1, 1)]), rect([point(1, 1, 1)], **extra)])
    assert [annotated(person) for person in parse_one(tmp_path, image).people] == [[0], [1]]


def test_few_and_unsorted_points(tmp_path: Path) -> None:
    order = (9, 0, 15, 4)
    row = parse_one(tmp_path, Image(rects=[rect([point(joint, joint + 1, 1) for joint in order])]))
    assert annotated(row.people[0]) == sorted(order)
    assert [row.people[0][joint] for joint in order] == [(joint, 0, False) for joint in order]


def test_the_later_of_two_points_is_used(tmp_path: Path) -> None:
    image = Image(rects=[rect([point(2, 5, 5), point(2, 9, 9), point(2, EMPTY, 9)])])
    assert parse_one(tmp_path, image).people[0][2] == (8, 8, False)


def test_a_person_with_invalid_points_is_kept(tmp_path: Path) -> None:
    (person,) = parse_one(tmp_path, Image(rects=[rect([point(2, -9, -9)])])).people
    assert annotated(person) == []


@pytest.mark.parametrize(
    "act_name",
    [
        "sitting, talking in person, on the phone, computer, or text messaging, light effort",
        "two  spaces",
        " padded ",
        "truck driving, loading and unloading truck, tying down load, standing, walking and "
        "carrying heavy lo",
        "a/b (c)",
        "танцы",
    ],
)
def test_action_names_are_verbatim(tmp_path: Path, act_name: str) -> None:
    assert parse_one(tmp_path, Image(act_name=act_name)).act_name == act_name


@pytest.mark.parametrize("nothing", [EMPTY, "", np.array([], dtype="U1"), cell_array([""])])
def test_an_empty_action(tmp_path: Path, nothing: Any, as_cells: bool) -> None:
    image = Image(act_name=nothing, act_id=EMPTY, cat_name=nothing)
    row = parse_one(tmp_path, image, as_cells=as_cells)
    assert (row.act_name, row.act_id, row.cat_name) == ("", -1, "")


def test_video_training_flag_and_separated_people(tmp_path: Path, as_cells: bool) -> None:
    images = [
        Image("a.jpg", vididx=EMPTY, is_train=0, single=EMPTY),
        Image("b.jpg", vididx=np.uint8(255), single=np.array([[1], [3]], np.uint8)),
        Image("c.jpg", vididx=3.0, single=np.uint8(2)),
    ]
    rows = parse(write_mat(tmp_path / "a.mat", images, as_cells=as_cells))
    assert [(row.source_index, row.name) for row in rows] == [
        (1, "a.jpg"),
        (2, "b.jpg"),
        (3, "c.jpg"),
    ]
    assert [(row.vididx, row.is_train, row.single_people) for row in rows] == [
        (0, False, 0),
        (255, True, 2),
        (3, True, 1),
    ]


def test_compression_does_not_matter(tmp_path: Path) -> None:
    images = [Image("a.jpg", [rect([point(0, 1.5, 2, is_visible="1")])]), Image("b.jpg")]
    plain = parse(write_mat(tmp_path / "plain.mat", images, compress=False))
    assert plain == parse(write_mat(tmp_path / "packed.mat", images))


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (Image(rects=[rect([point(16, 1, 1)])]), "id 16"),
        (Image(rects=[rect([point(EMPTY, 1, 1)])]), "id -1"),
        (Image(rects=[rect([point(0, "left", 1)])]), "left"),
        (Image(rects=[rect([point(0, np.array([[1, 2]]), 1)])]), "2 values"),
        (Image(rects=[rect([point(0, 1j, 1)])]), "x is"),
        (Image(rects=[rect([{"x": 1, "y": 2}])]), "id"),
        (Image(rects=[rect(None, annopoints="none")]), "none"),
        (Image(act_name=np.uint8(3)), "act_name"),
        (Image(act_id=1.5), "act_id is 1.5"),
        (Image(vididx=np.nan), "vididx"),
    ],
)
def test_invalid_values_are_refused_by_name(tmp_path: Path, image: Image, named: str) -> None:
    path = write_mat(tmp_path / "a.mat", [Image("first.jpg"), image])
    with pytest.raises(DataError) as refusal:
        parse(path)
    line = str(refusal.value)
    assert f"{path}, annolist(2): " in line and named in line and mpii_mat.FIX in line
    assert "\n" not in line
