"""Reads Keras' weights in HDF5 as LAYER/VARIABLE, with h5py.

Before Keras 3 groups are named after layers and datasets after variables. In Keras 3's .weights.h5,
as layers/conv2d_7/vars/0, `vars` has the layer's name as an attribute, and variables are numbered.
"""

import importlib
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.core.errors import CheckpointError
from gap_jax.weights.formats import Arrays
from gap_jax.weights.formats.tensors_only import ForbiddenError

LARGEST_GROWTH = 4  # bytes of values for each byte of the file: weights compress badly
NUMBERED = "vars"  # the group of a layer's variables in Keras 3's files
LONGEST_NAME = 200


def read_hdf5(path: Path) -> Arrays:
    """Reads the arrays by layer, and by the variable's number or its name without ":0".

    Soft and external links, storage outside the file and types that are not numbers are refused.
    """
    try:
        h5py: Any = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{path} is HDF5, which needs h5py: pip install 'gap_jax[convert]'"
        ) from error
    arrays: Arrays = {}
    bytes_left = LARGEST_GROWTH * path.stat().st_size
    with h5py.File(path, "r") as file:
        for member, dataset in _find_datasets(h5py, file):
            if dataset.external or dataset.is_virtual:
                raise ForbiddenError(f"values outside the file for {member}")
            if dataset.dtype.kind not in "fiu":
                raise ValueError(f"{member} holds {dataset.dtype}, no numbers")
            bytes_left -= dataset.dtype.itemsize * int(np.prod(dataset.shape, dtype=object))
            if bytes_left < 0:
                raise ValueError("its arrays are larger than the file can hold")
            layer, variable = posixpath.split(member)
            name = f"{_name_layer(h5py, file, layer)}/{variable.partition(':')[0]}"
            if name in arrays:
                raise ValueError(f"two arrays are called {name}")
            arrays[name] = np.asarray(dataset[()])
    return arrays


def _find_datasets(h5py: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """Yields every dataset with its path; follows only hard links."""
    seen = set()
    open_groups = [("", file)]
    while open_groups:
        prefix, group = open_groups.pop()
        for name in group:
            path = posixpath.join(prefix, name)
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ForbiddenError(f"a link at {path}")
            member = group[name]
            if member.id in seen:
                raise ForbiddenError(f"a loop at {path}")
            seen.add(member.id)
            if isinstance(member, h5py.Group):
                open_groups.append((path, member))
            else:
                yield path, member


def _name_layer(h5py: Any, file: Any, group: str) -> str:
    """The name of the layer whose variables are in `group`."""
    if posixpath.basename(group) != NUMBERED:
        return posixpath.basename(group)
    attributes = file[group].attrs
    kind = attributes.get_id("name") if "name" in attributes else None
    is_text = kind and kind.shape == () and h5py.check_string_dtype(kind.dtype)
    name = attributes["name"] if is_text else ""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"{group} has no layer name, which Keras 3.15 writes")
    return name
