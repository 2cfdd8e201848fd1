"""A dictionary {layer: {variable: array}} that numpy pickled, as Caffe's weights travel."""

import io
from typing import Any

import numpy as np
from jaxtyping import Shaped

from gap_jax.weights.formats import tensors_only
from gap_jax.weights.formats.tensors_only import Unwelcome

Array = Shaped[np.ndarray, "..."]


class _Pending:
    """An array whose shape, type and bytes its pickle tells afterwards.

    All of a file share `room`, as bytes that the pickle names again would be copied again.
    """

    def __init__(self, room: list[int]) -> None:
        self.room = room

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        if isinstance(content, list):  # the one around all, of which numpy makes an object array
            self.held = content
            return
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | str):
            raise Unwelcome("an array of objects")
        self.room[0] -= len(content)
        if self.room[0] < 0:
            raise ValueError("its arrays are larger than the file")
        raw = content.encode("latin1") if isinstance(content, str) else content
        order = "F" if is_fortran else "C"
        values = np.frombuffer(raw, dtype.read())
        self.values = values.reshape(tuple(map(int, shape)), order=order)


class _Dtype:
    """A type of numbers by its letters, "f4" say, and what its pickle adds: the byte order."""

    def __init__(self, name: Any, *rest: Any) -> None:
        del rest
        if not isinstance(name, bytes | str):
            raise Unwelcome("a type without a name")
        self.name = name.decode("latin1") if isinstance(name, bytes) else name
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"

    def read(self) -> np.dtype:
        """The type itself; anything but plain numbers is refused."""
        if self.name not in ("f2", "f4", "f8", "i4", "i8"):
            raise Unwelcome(f"values of type {self.name}")
        return np.dtype(self.order + self.name)


def read_numpy(content: bytes) -> dict[str, Array]:
    """The arrays as LAYER/VARIABLE."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }[version]  # fmt: skip
    shape, _, dtype = read(stream)
    if shape != () or dtype.kind != "O":
        raise ValueError("a numpy array that is no dictionary of layers")
    loaded, _ = tensors_only.load(
        stream.read(), _allowed([len(content)]), encoding="latin1", longest=len(content)
    )
    arrays = {}
    for layer, variables in loaded.held[0].items():
        for variable, pending in variables.items():
            arrays[f"{layer}/{variable}"] = pending.values
    return arrays


def _allowed(room: list[int]) -> dict[str, Any]:
    def rebuild(*rest: Any) -> _Pending:
        del rest
        return _Pending(room)

    return {
        **{f"numpy.{core}.multiarray._reconstruct": rebuild for core in ("core", "_core")},
        "numpy.ndarray": object(),
        "numpy.dtype": _Dtype,
    }
