"""Keras' weights in HDF5, as LAYER/VARIABLE, through h5py.

Until Keras 3 a layer's group has the layer's name and its variables theirs. In Keras 3's own
`.weights.h5` groups count the layers of a class in an order of their own, as
`layers/conv2d_7/vars/0`: `vars` has the layer's name as an attribute, and numbers its variables in
the order of their making.
"""

import importlib
import posixpath
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from gap_jax.errors import CheckpointError
from gap_jax.weights.formats.tensors_only import Unwelcome

Array = Shaped[np.ndarray, "..."]
LARGEST_GROWTH = 4  # bytes of values for each byte of the file: weights compress badly
NUMBERED = "vars"  # the group of a layer's variables in Keras 3's files
LONGEST_NAME = 200


def read_hdf5(path: Path) -> dict[str, Array]:
    """The arrays of a file, by their layer and the variable's name without its ":0", or its number.

    Links that lead elsewhere, storage outside the file and types that are no numbers are refused.
    """
    try:
        h5py: Any = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{path} is HDF5, which takes h5py: pip install 'gap_jax[convert]'"
        ) from error
    arrays: dict[str, Array] = {}
    room = LARGEST_GROWTH * path.stat().st_size
    with h5py.File(path, "r") as file:
        for place, dataset in _walk(h5py, file):
            room -= _check(place, dataset)
            if room < 0:
                raise ValueError("its arrays are larger than the file can hold")
            layer, variable = posixpath.split(place)
            name = f"{_name_layer(h5py, file, layer)}/{variable.partition(':')[0]}"
            if name in arrays:
                raise ValueError(f"two arrays are called {name}")
            arrays[name] = np.asarray(dataset[()])
    return arrays


def _walk(h5py: Any, file: Any) -> list[tuple[str, Any]]:
    """Every dataset, reached by links that stay where they are."""
    found, seen = [], set()
    open_groups = [("", file)]
    while open_groups:
        prefix, group = open_groups.pop()
        for name in group:
            place = posixpath.join(prefix, name)
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise Unwelcome(f"a link at {place}")
            member = group[name]
            if member.id in seen:
                raise Unwelcome(f"the loop at {place}")
            seen.add(member.id)
            if isinstance(member, h5py.Group):
                open_groups.append((place, member))
            else:
                found.append((place, member))
    return found


def _name_layer(h5py: Any, file: Any, place: str) -> str:
    """The name of the layer whose variables lie at `place`."""
    if posixpath.basename(place) != NUMBERED:
        return posixpath.basename(place)
    told = file[place].attrs
    kind = told.get_id("name") if "name" in told else None
    text = kind and kind.shape == () and h5py.check_string_dtype(kind.dtype)
    name = told["name"] if text else ""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"{place} does not name its layer, as Keras 3.15 does")
    return name


def _check(place: str, dataset: Any) -> int:
    """How many bytes the values take."""
    if dataset.external or dataset.is_virtual:
        raise Unwelcome(f"values outside the file for {place}")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{place} holds {dataset.dtype}, no numbers")
    return dataset.dtype.itemsize * int(np.prod(dataset.shape, dtype=object))
