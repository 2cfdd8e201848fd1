"""annotations.mat: what is known of drawn pictures in the form in which MPII publishes itself.

It has that form's peculiarities too: points are not sorted by id, the two head joints carry no
visibility, every seventh image writes its visibilities as characters, every fifth leaves
the joints of its bystanders out, and test people have nothing but a scale and a place.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io

from data_pipelines.datasets.drawn.scene import Person

Struct = np.ndarray  # of objects with named fields, as scipy.io writes a MATLAB struct array

_POINT_ORDER = (6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15)
_HEAD_JOINTS = (8, 9)
_HEIGHT_OF_SCALE_1_PX = 200
_EMPTY = np.zeros((0, 0))
_TRAIN_FIELDS = ("x1", "y1", "x2", "y2", "annopoints", "scale", "objpos")
_TEST_FIELDS = ("scale", "objpos")


class Activity(NamedTuple):
    """What the people of an image do."""

    category: str
    name: str
    act_id: int


class Row(NamedTuple):
    """One image of the release; without an activity it is a test image."""

    image: str
    people: tuple[Person, ...]
    activity: Activity | None
    video: str


# What a file begins with says when it was made, and equal annotations shall give equal files.
UNDATED = b"MATLAB 5.0 MAT-file, drawn".ljust(116)


def save(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows, in order, as the RELEASE struct of a MATLAB v5 file."""
    videos = list(dict.fromkeys(row.video for row in rows if row.activity))
    ranks = {video: rank for rank, video in enumerate(videos, 1)}
    images = [_image(number, row, ranks.get(row.video)) for number, row in enumerate(rows)]
    release = {
        "annolist": _structs(images),
        "img_train": np.array([[row.activity is not None for row in rows]], np.uint8),
        "version": "12",
        "single_person": _cells([np.c_[1 : len(row.people) + 1].astype(np.uint8) for row in rows]),
        "act": _structs([_act(row.activity) for row in rows]).T,
        "video_list": _cells(videos).T,
    }
    content = io.BytesIO()
    scipy.io.savemat(content, {"RELEASE": _structs([release])}, do_compression=True)
    path.write_bytes(UNDATED + content.getvalue()[len(UNDATED) :])


def _structs(elements: Sequence[dict[str, Any]]) -> Struct:
    array = np.zeros((1, len(elements)), [(field, object) for field in elements[0]])
    for index, element in enumerate(elements):
        array[0, index] = tuple(element.values())
    return array


def _cells(values: Sequence[Any]) -> np.ndarray:
    array = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        array[index, 0] = value
    return array


def _act(activity: Activity | None) -> dict[str, Any]:
    category, name, act_id = activity or (_EMPTY, _EMPTY, -1)
    return {"cat_name": category, "act_name": name, "act_id": act_id}


def _image(number: int, row: Row, video_rank: int | None) -> dict[str, Any]:
    fields = _TRAIN_FIELDS if row.activity else _TEST_FIELDS
    people = [_person(number, rank, person) for rank, person in enumerate(row.people)]
    return {
        "image": _structs([{"name": row.image}]),
        "annorect": _structs([{field: person[field] for field in fields} for person in people]),
        "frame_sec": np.uint8(number % 60) if video_rank else _EMPTY,
        "vididx": np.uint32(video_rank) if video_rank else _EMPTY,
    }


def _person(number: int, rank: int, person: Person) -> dict[str, Any]:
    joints = person.joints + 1  # MATLAB counts pixels from 1
    neck, top = joints[list(_HEAD_JOINTS)]
    (x1, y1), (x2, y2) = (
        np.rint((neck + top) / 2 + sign * 0.45 * math.dist(neck, top)).astype(np.int16)
        for sign in (-1, 1)
    )
    x, y = np.rint((joints[6] + joints[7]) / 2).astype(np.int16)
    as_characters, unannotated = number % 7 == 3, rank > 0 and number % 5 == 2
    points = [
        _point(joint, joints[joint], bool(person.visible[joint]), as_characters)
        for joint in _POINT_ORDER
    ]
    return {
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "annopoints": _EMPTY if unannotated else _structs([{"point": _structs(points)}]),
        "scale": person.height_px / _HEIGHT_OF_SCALE_1_PX,
        "objpos": _structs([{"x": x, "y": y}]),
    }


def _point(joint: int, place: np.ndarray, visible: bool, as_character: bool) -> dict[str, Any]:
    if joint in _HEAD_JOINTS:
        is_visible = _EMPTY
    else:
        is_visible = str(int(visible)) if as_character else np.uint8(visible)
    x, y = np.round(place, 2)
    return {"x": x, "y": y, "id": np.uint8(joint), "is_visible": is_visible}
