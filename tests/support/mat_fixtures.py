"""Writes tiny MPII annotation files in the shapes of the real one and in unusual shapes.

A struct array gives each element the union of the fields; a missing field is empty, as in MATLAB.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

EMPTY = np.zeros((0, 0))

Fields = Mapping[str, Any]


def struct_array(records: Sequence[Fields]) -> np.ndarray:
    """Makes a (1, N) struct array, or an empty matrix without records."""
    names = list(dict.fromkeys(name for record in records for name in record))
    if not records:
        return EMPTY
    array = np.zeros((1, len(records)), dtype=[(name, object) for name in names])
    for index, record in enumerate(records):
        for name in names:
            array[0, index][name] = record.get(name, EMPTY)
    return array


def cell_array(values: Sequence[Any]) -> np.ndarray:
    """Makes a (1, N) cell array."""
    array = np.empty((1, len(values)), object)
    for index, value in enumerate(values):
        array[0, index] = value
    return array


def point(joint: Any, x: Any, y: Any, **is_visible: Any) -> dict[str, Any]:
    """Makes an annotated point; without `is_visible` the field is absent or empty."""
    return {"x": x, "y": y, "id": np.uint8(joint) if isinstance(joint, int) else joint} | is_visible


def rect(points: Sequence[Fields] | None, **fields: Any) -> dict[str, Any]:
    """Makes a person of `annorect`; without points it has no `annopoints`."""
    head = {name: np.uint16(value) for name, value in zip(("x1", "y1"), (9, 9), strict=True)}
    position = {"scale": 3.5, "objpos": struct_array([{"x": np.uint16(40), "y": np.uint16(50)}])}
    if points is None:
        return position | fields
    annopoints = struct_array([{"point": struct_array(points)}])
    return head | {"annopoints": annopoints} | position | fields


@dataclasses.dataclass
class Image:
    """Describes an image of RELEASE with the defaults of a labelled training image."""

    name: str = "015601864.jpg"
    rects: Sequence[Fields] = ()
    act_name: Any = "curling"
    act_id: Any = dataclasses.field(default_factory=lambda: np.uint16(1))
    cat_name: Any = "sports"
    is_train: int = 1
    vididx: Any = dataclasses.field(default_factory=lambda: np.uint16(7))
    single: Any = dataclasses.field(default_factory=lambda: np.array([[1]], np.uint8))


def release(images: Sequence[Image], *, as_cells: bool = False) -> dict[str, Any]:
    """Makes the fields of RELEASE; `as_cells` stores lists of structs as cells, transposed."""
    annolist = [
        {
            "image": struct_array([{"name": image.name}]),
            "annorect": cell_array([struct_array([each]) for each in image.rects])
            if as_cells
            else struct_array(image.rects),
            "frame_sec": np.uint8(11),
            "vididx": image.vididx,
        }
        for image in images
    ]
    acts = [
        {"cat_name": image.cat_name, "act_name": image.act_name, "act_id": image.act_id}
        for image in images
    ]
    single_person = cell_array([image.single for image in images])
    img_train = np.array([[image.is_train for image in images]], np.uint8)
    if as_cells:
        annolist_array = cell_array([struct_array([each]) for each in annolist]).T
        act_array = cell_array([struct_array([each]) for each in acts])
        img_train = img_train.T
    else:
        annolist_array, act_array = struct_array(annolist), struct_array(acts).T
        single_person = single_person.T
    return {
        "annolist": annolist_array,
        "img_train": img_train,
        "version": "12",
        "single_person": single_person,
        "act": act_array,
        "video_list": cell_array(["abc", "def"]),
    }


def write_mat(
    path: Path, images: Sequence[Image], *, as_cells: bool = False, compress: bool = True
) -> Path:
    """Writes an annotation file of these images."""
    fields = release(images, as_cells=as_cells)
    scipy.io.savemat(path, {"RELEASE": struct_array([fields])}, do_compression=compress)
    return path
