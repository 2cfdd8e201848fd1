"""Parses MPII's annotation file (MAT v5, struct RELEASE) into plain lists, in a child process.

It imports no heavy module, because a child starts for each file. Rules:
- positions are 0-based: the file's minus 1. A joint counts as annotated when x and y are numbers
  and neither is negative once truncated (the reference's rule, on the file's own numbers); right
  of or below the image is kept;
- `is_visible` may be a number, the character '0' or '1', empty or absent; only 1 means visible.
  An unknown visibility counts as hidden, and the position is used;
- of two points with one joint id the later is used; a person without points is left out;
- text is not changed: actions contain commas, double spaces and truncated ends.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.io

from data_pipelines.core.errors import DataError

JOINT_COUNT = 16
MAX_POSITION_PX = 2**24  # above it float32 cannot represent every pixel
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
FIX = "pass mpii_human_pose_v1_u12_1.mat as MPII publishes it"

Joint: TypeAlias = Sequence[float | bool]  # x, y, is visible
Person: TypeAlias = list[Joint | None]


class Annotation(NamedTuple):
    """Describes an image of `annolist`; a missing text is empty, act_id -1 and vididx 0."""

    source_index: int
    name: str
    people: list[Person]
    act_name: str
    act_id: int
    cat_name: str
    is_train: bool
    vididx: int
    single_people: int


def parse(path: Path) -> list[Annotation]:
    """Parses every image in the order of the file; `source_index` counts them from 1."""
    try:
        release = _struct(_load(path))
        if release is None:
            raise ValueError("RELEASE is empty")
        names = ("annolist", "img_train", "act", "single_person")
        columns = [_elements(release[name]) for name in names]
        counts = {name: len(column) for name, column in zip(names, columns, strict=True)}
        if len(set(counts.values())) != 1:
            raise ValueError(f"the fields of RELEASE differ in length: {counts}")
    except ValueError as error:
        raise DataError(f"{path} is not MPII's annotation file: {error}; {FIX}") from error
    rows = []
    for index, row in enumerate(zip(*columns, strict=True), 1):
        try:
            rows.append(_annotation(index, *row))
        except ValueError as error:
            raise DataError(f"{path}, annolist({index}): {error}; {FIX}") from error
    return rows


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(512 + len(HDF5_SIGNATURE))
        if HDF5_SIGNATURE in (head[: len(HDF5_SIGNATURE)], head[512:]):
            raise DataError(f"{path} has MATLAB's v7.3 format (HDF5), MPII's has v5; {FIX}")
        variables = scipy.io.loadmat(path, appendmat=False, variable_names=["RELEASE"])
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes scipy raise almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path} cannot be read as a .mat file ({reason}); {FIX}") from error
    if "RELEASE" not in variables:
        raise ValueError("it holds no variable RELEASE")
    return variables["RELEASE"]


def _annotation(index: int, image: Any, is_train: Any, act: Any, single_person: Any) -> Annotation:
    entry, action = _struct(image), _struct(act)
    if entry is None:
        raise ValueError("the entry is empty")
    picture = _struct(entry["image"])
    people = [_person(person) for person in map(_struct, _elements(entry["annorect"]))]
    return Annotation(
        source_index=index,
        name=_text("image.name", None if picture is None else picture["name"]),
        people=[person for person in people if person is not None],
        act_name=_text("act_name", _optional(action, "act_name")),
        act_id=_whole("act_id", _optional(action, "act_id"), -1),
        cat_name=_text("cat_name", _optional(action, "cat_name")),
        is_train=_whole("img_train", is_train, 0) != 0,
        vididx=_whole("vididx", _optional(entry, "vididx"), 0),
        single_people=np.size(single_person),
    )


def _person(rect: np.void | None) -> Person | None:
    annopoints = _struct(_optional(rect, "annopoints"))
    points = [] if annopoints is None else _elements(annopoints["point"])
    if not points:
        return None
    person: Person = [None] * JOINT_COUNT
    for point in map(_struct, points):
        if point is None:
            continue
        x, y = _number("x", point["x"]), _number("y", point["y"])
        if x is None or y is None:
            continue
        joint = _whole("id", point["id"], -1)
        if not 0 <= joint < JOINT_COUNT:
            raise ValueError(f"a point has id {joint}, and joints are 0 to {JOINT_COUNT - 1}")
        if -1 < x < MAX_POSITION_PX and -1 < y < MAX_POSITION_PX:
            is_visible = _number("is_visible", _optional(point, "is_visible")) == 1
            person[joint] = (x - 1, y - 1, is_visible)
    return person


def _elements(value: Any) -> list[Any]:
    """Lists the elements of a struct array, cell or matrix of any shape."""
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{type(value).__name__} is not an array")
    return list(value.ravel())


def _unwrap(value: Any) -> Any:
    """Unwraps nested arrays and cells of one element; returns None for an empty one."""
    while isinstance(value, np.ndarray):
        if value.size == 0:
            return None
        if value.size > 1:
            raise ValueError(f"{value.size} values are given, not one")
        value = value.ravel()[0]
    return value


def _struct(value: Any) -> np.void | None:
    inner = _unwrap(value)
    if inner is None or (isinstance(inner, np.void) and inner.dtype.names):
        return inner
    raise ValueError(f"{inner!r:.40} is not a struct")


def _optional(struct: np.void | None, name: str) -> Any:
    return struct[name] if struct is not None and name in (struct.dtype.names or ()) else None


def _number(name: str, value: Any) -> float | None:
    inner = _unwrap(value)
    if inner is None:
        return None
    if isinstance(inner, np.integer | np.floating | np.bool_ | str):
        return float(inner)
    raise ValueError(f"{name} is {inner!r:.40}, not a number")


def _whole(name: str, value: Any, missing: int) -> int:
    number = _number(name, value)
    if number is None:
        return missing
    if not number.is_integer():
        raise ValueError(f"{name} is {number}, not a whole number")
    return int(number)


def _text(name: str, value: Any) -> str:
    inner = _unwrap(value)
    if inner is None:
        return ""
    if not isinstance(inner, str):
        raise ValueError(f"{name} is {inner!r:.40}, not text")
    inner.encode()  # refuses a lone surrogate, which cannot be stored
    return str(inner)
