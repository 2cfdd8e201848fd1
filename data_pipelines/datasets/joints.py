"""Reads joints and boxes from a JSON file in COCO's form, with COCO's 17 keypoints or our own 16.

A category of people names its keypoints, in any order, or is called person; an annotation belongs
to one person. Its box is `bbox`, or else that around its joints; one with neither is left out.

Twelve of our joints are COCO's; the others are derived and count as hidden. With s the middle of
the shoulders and f the middle of the annotated points of the face (nose, eyes, ears):

    pelvis     = middle of the hips        upper neck = (s + f) / 2
    thorax     = s                         head top   = upper neck + 2.4 (f - upper neck)

2.4 is the ratio of the distances head top to chin and face to chin of a standing adult.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.core.boxes import around_joints
from data_pipelines.core.errors import DataError, first_line, name_some
from data_pipelines.core.files import quote, read_bounded
from data_pipelines.datasets.child import parse_in_child
from data_pipelines.example import (
    HIDDEN,
    JOINTS,
    NO_PEOPLE,
    NOT_ANNOTATED,
    VISIBILITIES,
    Boxes,
    Keypoints,
)

MAX_BYTES = 512 * 2**20
MAX_PEOPLE = 100  # in an image
MAX_COORDINATE_PX = 1e5

PERSON = "person"  # name of a category
FACE = ("nose", "left eye", "right eye", "left ear", "right ear")
COCO = (
    *FACE,
    *(f"{side} {part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
      for side in ("left", "right")),
)  # fmt: skip
DERIVED = ("pelvis", "thorax", "upper neck", "head top")
HEAD_TOP_RATIO = 2.4

Person = Float[np.ndarray, "16 3"]
Row = tuple[str, list[int] | None, list[Any]]  # file name, width and height, people and boxes


class Annotated(NamedTuple):
    """Holds the people of an image, and its width and height if the file states them.

    Without `boxes` they are those around the joints.
    """

    keypoints: Keypoints
    size_px: tuple[int, int] | None
    boxes: Boxes | None = None


NOBODY = Annotated(NO_PEOPLE, None)


class Joints(NamedTuple):
    """Holds the annotated images by file name, and names the joints that nobody annotated."""

    images: Mapping[str, Annotated]
    derived: Sequence[str] = ()


def read(path: Path) -> Joints:
    """Reads the file in a child process with limits of time and memory."""
    derived, rows = parse_in_child(__name__, path)
    images = {}
    for name, size, people in rows:
        joints = np.array([each for each, _ in people], np.float32).reshape(-1, len(JOINTS), 3)
        given = np.array([box or [0] * 4 for _, box in people], np.float32).reshape(-1, 4)
        boxes = np.where(given.any(1, keepdims=True), given, around_joints(joints))
        images[name] = Annotated(joints, size and (size[0], size[1]), boxes)
    return Joints(images, derived)


def match(path: Path, found: Joints, ids: Sequence[str]) -> dict[str, Annotated]:
    """Finds the photograph of each annotated image; refuses two that fit, or if none fits.

    A name fits if it ends with the other, part by part: `1.jpg` and `cat/1.jpg` fit. An equal one
    fits alone.
    """
    by_name: dict[str, list[str]] = {}
    known = dict.fromkeys(ids)  # a list may name a photograph twice
    for name in known:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
    matched: dict[str, Annotated] = {}
    for file_name, annotated in found.images.items():
        parts = PurePosixPath(file_name).parts
        fitting = [file_name] if file_name in known else [
            name for name in by_name.get(parts[-1] if parts else "", ())
            if _ends_with(PurePosixPath(name).parts, parts)
        ]  # fmt: skip
        if len(fitting) > 1:
            named = " and ".join(map(quote, fitting[:2]))
            raise DataError(f"{path}: file_name {quote(file_name)} fits {named}; write its path "
                            "as one of these")  # fmt: skip
        if fitting and fitting[0] in matched:
            raise DataError(f"{path}: two images fit {quote(fitting[0])}, one of them "
                            f"{quote(file_name)}; keep one")  # fmt: skip
        matched |= dict.fromkeys(fitting, annotated)
    if found.images and not matched:
        named = name_some([quote(name) for name in found.images])
        raise DataError(f"none of the {len(found.images):,} images of {path} is among the "
                        f"photographs ({named}); pass the file of these")  # fmt: skip
    return matched


def _ends_with(one: Sequence[str], other: Sequence[str]) -> bool:
    shorter = min(len(one), len(other))
    return one[-shorter:] == other[-shorter:]


def describe(path: Path, found: Joints, matched: Mapping[str, Annotated], total: int) -> list[str]:
    """Returns lines for the summary: how many people were found, and which joints are derived."""
    shown = [(each.keypoints[..., 2] != NOT_ANNOTATED).any(1) for each in matched.values()]
    people, images = sum(map(np.sum, shown)), sum(map(np.any, shown))
    line = f"joints: {people:,} people in {images:,} of {total:,} photographs"
    if only_boxes := sum(map(len, shown)) - people:
        line += f"; {only_boxes:,} more people have a box without joints"
    if found.derived:
        line += f"; {', '.join(found.derived)} are derived from other joints"
    lines = [line]
    if absent := len(found.images) - len(matched):
        lines.append(f"{absent:,} images of {path.name} are not among the photographs")
    return lines


def parse(path: Path) -> tuple[list[str], list[Row]]:
    """Parses the file into the derived joints and a row for each image."""
    try:
        content = json.loads(read_bounded(path, MAX_BYTES))
    except DataError as error:
        is_absent = isinstance(error.__cause__, FileNotFoundError)
        problem = f"there is no file {path}" if is_absent else f"cannot read {path} ({error})"
        raise DataError(
            f"{problem}; pass a JSON file of people's joints or boxes, as docs/photos.md describes"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({first_line(error)}); get it again") from error
    try:
        return _parse_content(content)
    except _Fault as error:
        raise DataError(f"{path}: {error}; docs/photos.md describes the file") from error


class _Fault(Exception):
    """Names the first fault in the content of the file."""


def _parse_content(content: Any) -> tuple[list[str], list[Row]]:
    orders = _read_categories(content)
    if len({len(order) for order in orders.values() if order}) > 1:
        raise _Fault("its categories mix COCO's keypoints and our own")
    is_coco = any(len(order) == len(COCO) for order in orders.values())
    derived: list[str] = [*DERIVED] if is_coco else _read_derived(content)
    rows: dict[Any, Row] = {}
    names: set[str] = set()
    for index, image in enumerate(_field(content, "images", list, "the file")):
        where = f"images[{index}]"
        name = _field(image, "file_name", str, where).replace("\\", "/")
        number = _field(image, "id", (int, str), where)
        if number in rows or name in names:
            raise _Fault(f"{where} has the id or the file_name of another image")
        names.add(name)
        rows[number] = name, _read_size(image, where), []
    for index, annotation in enumerate(_field(content, "annotations", list, "the file")):
        where = f"annotations[{index}]"
        order = orders.get(_field(annotation, "category_id", (int, str), where))
        if order is None or annotation.get("iscrowd") == 1:
            continue  # an object, or a group of people
        number = _field(annotation, "image_id", (int, str), where)
        if number not in rows:
            raise _Fault(f"{where} has image_id={number!r}, which is no image's id")
        person, box = np.zeros((len(JOINTS), 3)), None
        if order and "keypoints" in annotation:
            person = _read_person(_field(annotation, "keypoints", list, where), order, where)
        if "bbox" in annotation:
            box = _read_box(_field(annotation, "bbox", list, where), where)
        people = rows[number][2]
        if box or (person[:, 2] != NOT_ANNOTATED).any():
            people.append([person.tolist(), box])
        if len(people) > MAX_PEOPLE:
            raise _Fault(f"{rows[number][0]!r} shows more than {MAX_PEOPLE} people")
    return derived, list(rows.values())


def _read_derived(content: Mapping[str, Any]) -> list[str]:
    """Returns the joints that a file of our own joints names as derived, as a detector's does."""
    derived = _field(content, "derived", list, "the file") if "derived" in content else []
    if unknown := [each for each in derived if each not in JOINTS]:
        raise _Fault(f"derived holds {str(unknown[0])[:40]!r}, which is no joint")
    return derived


def _read_categories(content: Any) -> dict[Any, list[int]]:
    """Returns for each category of people the position of each known keypoint in its list."""
    orders: dict[Any, list[int]] = {}
    for index, category in enumerate(_field(content, "categories", list, "the file")):
        where = f"categories[{index}]"
        number = _field(category, "id", (int, str), where)
        if "keypoints" not in category:
            if category.get("name") == PERSON:
                orders[number] = []
            continue
        listed = _field(category, "keypoints", list, where)
        names = [str(name).lower().replace("_", " ") for name in listed]
        known = next((each for each in (COCO, JOINTS) if sorted(each) == sorted(names)), None)
        if known is None:
            raise _Fault(f"{where} has {len(names)} keypoints that are neither COCO's "
                         f"{len(COCO)} nor our {len(JOINTS)}")  # fmt: skip
        orders[number] = [names.index(name) for name in known]
    if not orders:
        raise _Fault(f"no category names its keypoints or is called {PERSON}")
    return orders


def _read_size(image: Mapping[str, Any], where: str) -> list[int] | None:
    if "width" not in image and "height" not in image:
        return None
    size = [_field(image, side, int, where) for side in ("width", "height")]
    if min(size) < 1:
        raise _Fault(f"{where} is {size[0]} x {size[1]} pixels")
    return size


def _read_person(numbers: list[Any], order: Sequence[int], where: str) -> Person:
    if len(numbers) != 3 * len(order):
        raise _Fault(f"{where} has {len(numbers)} numbers, not {3 * len(order)}")
    _check_pixels(numbers, where)
    points = np.array(numbers, float).reshape(-1, 3)[list(order)]
    if not np.isin(points[:, 2], VISIBILITIES).all():
        raise _Fault(f"{where} has a visibility that is not 0, 1 or 2")
    points[points[:, 2] == NOT_ANNOTATED] = 0
    return from_coco(points) if len(order) == len(COCO) else points


def _read_box(numbers: list[Any], where: str) -> list[float] | None:
    """Returns left, top, right and bottom; None for a box without area."""
    if len(numbers) != 4:
        raise _Fault(f"{where} has a bbox of {len(numbers)} numbers, not x, y, width, height")
    _check_pixels(numbers, where)
    left, top, width, height = map(float, numbers)
    if min(width, height) < 0:
        raise _Fault(f"{where} has a bbox of {width:g} x {height:g} pixels")
    return [left, top, left + width, top + height] if width and height else None


def _check_pixels(numbers: Sequence[Any], where: str) -> None:
    for number in numbers:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not abs(number) <= MAX_COORDINATE_PX:
            raise _Fault(f"{where} holds {str(number)[:40]!r}, which is no pixel")


def from_coco(points: Float[np.ndarray, "17 3"]) -> Person:
    """Converts a person's keypoints of COCO to our joints."""
    known = dict(zip(COCO, points, strict=True))
    known["pelvis"] = _middle([known["left hip"], known["right hip"]])
    known["thorax"] = _middle([known["left shoulder"], known["right shoulder"]])
    face = _middle([each for each in map(known.get, FACE) if each is not None and each[2]])
    known["upper neck"] = neck = _middle([known["thorax"], face])
    known["head top"] = neck.copy()
    known["head top"][:2] += HEAD_TOP_RATIO * (face[:2] - neck[:2]) * (neck[2] > 0)
    return np.stack([known[name] for name in JOINTS])


def _middle(points: Sequence[Float[np.ndarray, " 3"]]) -> Float[np.ndarray, " 3"]:
    """Returns the mean as a hidden joint; not annotated if a point is not or there is none."""
    if not points or min(point[2] for point in points) == NOT_ANNOTATED:
        return np.zeros(3)
    x, y, _ = np.mean(points, axis=0)
    return np.array([x, y, HIDDEN])


def _field(item: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Returns a field of the wanted type, or names what is there instead."""
    if not isinstance(item, dict) or name not in item:
        raise _Fault(f"{where} has no {name}")
    value = item[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Fault(f"{where} has {name}={str(value)[:40]!r} of type {type(value).__name__}")
    return value
