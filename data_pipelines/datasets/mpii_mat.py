"""Parses MPII's annotation file (MAT v5, struct RELEASE) into plain lists, in a child process.

It imports no heavy module, because a child starts for each file. Rules:
- positions are 0-based: the file's minus 1. A joint counts as annotated when x and y are numbers
  and neither is negative once truncated (the reference's rule, on the file's own numbers); right
  of or below the image is kept;
- `is_visible` may be a number, the character '0' or '1', empty or absent; only 1 means visible.
  An unknown visibility counts as hidden, and the position is used;
- of two points with one joint id the later is used; a person is left out who has neither a point
  nor a place, which is `objpos` with a `scale` above 0 (the person's height over 200 pixels);
- text is not changed: actions contain commas, double spaces and truncated ends.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from data_pipelines.core.errors import DataError
from data_pipelines.datasets.still.mat_file import (
    as_number,
    as_struct,
    as_text,
    as_whole,
    elements,
    load_variables,
    optional,
)

JOINT_COUNT = 16
MAX_POSITION_PX = 2**24  # above it float32 cannot represent every pixel
SCALE_PX = 200  # a person's height at scale 1
FIX = "pass mpii_human_pose_v1_u12_1.mat as MPII publishes it"

Joint: TypeAlias = Sequence[float | bool]  # x, y, is visible
Person: TypeAlias = list[Joint | None]
Place: TypeAlias = Sequence[float]  # x and y of the middle, the height in pixels


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
    places: list[Place | None]  # of the people


def parse(path: Path) -> list[Annotation]:
    """Parses every image in the order of the file; `source_index` counts them from 1."""
    try:
        release = as_struct(load_variables(path, ("RELEASE",), FIX)["RELEASE"])
        if release is None:
            raise ValueError("RELEASE is empty")
        names = ("annolist", "img_train", "act", "single_person")
        columns = [elements(release[name]) for name in names]
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


def _annotation(index: int, image: Any, is_train: Any, act: Any, single_person: Any) -> Annotation:
    entry, action = as_struct(image), as_struct(act)
    if entry is None:
        raise ValueError("the entry is empty")
    picture = as_struct(entry["image"])
    rects = [as_struct(each) for each in elements(entry["annorect"])]
    people = [(_person(each), _place(each)) for each in rects]
    nothing: Person = [None] * JOINT_COUNT
    found = [(person or nothing, place) for person, place in people if person or place]
    return Annotation(
        source_index=index,
        name=as_text("image.name", None if picture is None else picture["name"]),
        people=[person for person, _ in found],
        act_name=as_text("act_name", optional(action, "act_name")),
        act_id=as_whole("act_id", optional(action, "act_id"), -1),
        cat_name=as_text("cat_name", optional(action, "cat_name")),
        is_train=as_whole("img_train", is_train, 0) != 0,
        vididx=as_whole("vididx", optional(entry, "vididx"), 0),
        single_people=np.size(single_person),
        places=[place for _, place in found],
    )


def _person(rect: np.void | None) -> Person | None:
    annopoints = as_struct(optional(rect, "annopoints"))
    points = [] if annopoints is None else elements(annopoints["point"])
    if not points:
        return None
    person: Person = [None] * JOINT_COUNT
    for point in map(as_struct, points):
        if point is None:
            continue
        x, y = as_number("x", point["x"]), as_number("y", point["y"])
        if x is None or y is None:
            continue
        joint = as_whole("id", point["id"], -1)
        if not 0 <= joint < JOINT_COUNT:
            raise ValueError(f"a point has id {joint}, and joints are 0 to {JOINT_COUNT - 1}")
        if -1 < x < MAX_POSITION_PX and -1 < y < MAX_POSITION_PX:
            is_visible = as_number("is_visible", optional(point, "is_visible")) == 1
            person[joint] = (x - 1, y - 1, is_visible)
    return person


def _place(rect: np.void | None) -> Place | None:
    position = as_struct(optional(rect, "objpos"))
    scale = as_number("scale", optional(rect, "scale"))
    x, y = (as_number(f"objpos.{axis}", optional(position, axis)) for axis in "xy")
    if scale is None or x is None or y is None:
        return None
    height_px = SCALE_PX * scale
    is_within = max(abs(x), abs(y)) < MAX_POSITION_PX and 0 < height_px < MAX_POSITION_PX
    return [x - 1, y - 1, height_px] if is_within else None
