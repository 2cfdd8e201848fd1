"""Writes the annotations of drawn pictures to annotations.mat in the format of MPII.

It has the peculiarities of that format: points are not sorted by id, the two head joints have no
visibility, every seventh image writes its visibilities as characters, every fifth omits the joints
of its bystanders, and test people have only a scale and a position.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.core.mat_file import format_mat
from data_pipelines.datasets.drawn.scene import Person

_POINT_ORDER = (6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15)
_HEAD_JOINTS = (8, 9)
_HEIGHT_OF_SCALE_1_PX = 200
_EMPTY = np.zeros((0, 0))
_NO_ACT = {"cat_name": _EMPTY, "act_name": _EMPTY, "act_id": -1}


class Activity(NamedTuple):
    """Names the activity of the people in an image, in MPII's fields."""

    cat_name: str
    act_name: str
    act_id: int


class Row(NamedTuple):
    """Describes one image of the release; without an activity it is a test image."""

    image: str
    people: tuple[Person, ...]
    activity: Activity | None
    video: str


def save(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows, in order, as the RELEASE struct of a MATLAB v5 file."""
    videos = list(dict.fromkeys(row.video for row in rows if row.activity))
    ranks = {video: rank for rank, video in enumerate(videos, 1)}
    images = [_image(number, row, ranks.get(row.video)) for number, row in enumerate(rows)]
    release = {
        "annolist": _structs(images),
        "img_train": np.array([[row.activity is not None for row in rows]], np.uint8),
        "version": "12",
        "single_person": _cells(np.c_[1 : len(row.people) + 1].astype(np.uint8) for row in rows),
        "act": _structs([row.activity._asdict() if row.activity else _NO_ACT for row in rows]).T,
        "video_list": _cells(videos).T,
    }
    path.write_bytes(format_mat({"RELEASE": _structs([release])}, "drawn"))


def _structs(elements: Sequence[dict[str, Any]]) -> np.ndarray:
    """Makes an array of objects with named fields, which scipy.io writes as a struct array."""
    fields = [(field, object) for field in elements[0]]
    return np.array([tuple(element.values()) for element in elements], fields)[None]


def _cells(values: Iterable[Any]) -> np.ndarray:
    return np.fromiter(values, object)[:, None]


def _image(number: int, row: Row, video_rank: int | None) -> dict[str, Any]:
    people = [_person(number, rank, person) for rank, person in enumerate(row.people)]
    if not row.activity:
        people = [{field: person[field] for field in ("scale", "objpos")} for person in people]
    return {
        "image": _structs([{"name": row.image}]),
        "annorect": _structs(people),
        "frame_sec": np.uint8(number % 60) if video_rank else _EMPTY,
        "vididx": np.uint32(video_rank) if video_rank else _EMPTY,
    }


def _person(number: int, rank: int, person: Person) -> dict[str, Any]:
    joints = person.joints + 1  # MATLAB counts pixels from 1
    neck, top = joints[list(_HEAD_JOINTS)]
    middle, reach = (neck + top) / 2, 0.45 * math.dist(neck, top)
    head = np.rint([*(middle - reach), *(middle + reach)]).astype(np.int16)
    x, y = np.rint((joints[6] + joints[7]) / 2).astype(np.int16)
    as_characters, unannotated = number % 7 == 3, rank > 0 and number % 5 == 2
    points = []
    for joint in _POINT_ORDER:
        visible = person.visible[joint]
        is_visible = str(int(visible)) if as_characters else np.uint8(visible)
        if joint in _HEAD_JOINTS:
            is_visible = _EMPTY
        at_x, at_y = np.round(joints[joint], 2)
        points.append({"x": at_x, "y": at_y, "id": np.uint8(joint), "is_visible": is_visible})
    return dict(zip(("x1", "y1", "x2", "y2"), head, strict=True)) | {
        "annopoints": _EMPTY if unannotated else _structs([{"point": _structs(points)}]),
        "scale": person.height_px / _HEIGHT_OF_SCALE_1_PX,
        "objpos": _structs([{"x": x, "y": y}]),
    }
