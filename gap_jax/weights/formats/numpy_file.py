"""Reads a dictionary {layer: {variable: array}} pickled by numpy, the format of Caffe's weights."""

import io
from typing import Any

import numpy as np

from gap_jax.weights.formats import Arrays, tensors_only
from gap_jax.weights.formats.tensors_only import ForbiddenError


class _Pending:
    """An array whose shape, type and bytes follow in the pickle.

    All arrays of a file share `bytes_left`: repeated references to the same bytes are copies.
    """

    def __init__(self, bytes_left: list[int]) -> None:
        self.bytes_left = bytes_left

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        if isinstance(content, list):  # the outermost array, of type object
            self.objects = content
            return
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | str):
            raise ForbiddenError("an array of objects")
        self.bytes_left[0] -= len(content)
        if self.bytes_left[0] < 0:
            raise ValueError("its arrays are larger than the file")
        raw = content.encode("latin1") if isinstance(content, str) else content
        values = np.frombuffer(raw, dtype.plain())
        self.values = values.reshape(tuple(map(int, shape)), order="F" if is_fortran else "C")


class _Dtype:
    """A number type by its name, such as "f4"; its byte order follows in the pickle."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, bytes | str):
            raise ForbiddenError("a type without a name")
        self.name = name.decode("latin1") if isinstance(name, bytes) else name
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"

    def plain(self) -> np.dtype:
        """Numpy's type; all but numbers are refused."""
        if self.name not in ("f2", "f4", "f8", "i4", "i8"):
            raise ForbiddenError(f"values of type {self.name}")
        return np.dtype(self.order + self.name)


def read_numpy(content: bytes) -> Arrays:
    """Reads the arrays as LAYER/VARIABLE."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }[version]  # fmt: skip
    shape, _, dtype = read(stream)
    if shape != () or dtype.kind != "O":
        raise ValueError("a numpy array that is no dictionary of layers")
    bytes_left = [len(content)]
    allowed = {"numpy.ndarray": object(), "numpy.dtype": _Dtype}
    for package in ("core", "_core"):
        allowed[f"numpy.{package}.multiarray._reconstruct"] = lambda *_: _Pending(bytes_left)
    loaded = tensors_only.load(stream, allowed, encoding="latin1", longest=len(content))
    return {
        f"{layer}/{variable}": pending.values
        for layer, variables in loaded.objects[0].items()
        for variable, pending in variables.items()
    }
