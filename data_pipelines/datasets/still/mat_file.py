"""Reads MATLAB files of version 5, in a child process: variables, structs, cells, numbers, text.

It imports no heavy module, because a child starts for each file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from data_pipelines.core.errors import DataError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def load_variables(path: Path, names: Sequence[str], fix: str) -> dict[str, Any]:
    """Loads the named variables; ValueError names one that the file lacks."""
    try:
        with path.open("rb") as file:
            head = file.read(512 + len(HDF5_SIGNATURE))
        if HDF5_SIGNATURE in (head[: len(HDF5_SIGNATURE)], head[512:]):
            raise DataError(f"{path} has MATLAB's v7.3 format (HDF5), and v5 is published; {fix}")
        variables = scipy.io.loadmat(path, appendmat=False, variable_names=list(names))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes scipy raise almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path} cannot be read as a .mat file ({reason}); {fix}") from error
    for name in names:
        if name not in variables:
            raise ValueError(f"it holds no variable {name}")
    return variables


def elements(value: Any) -> list[Any]:
    """Lists the elements of a struct array, cell or matrix of any shape."""
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{type(value).__name__} is not an array")
    return list(value.ravel())


def unwrap(value: Any) -> Any:
    """Unwraps nested arrays and cells of one element; returns None for an empty one."""
    while isinstance(value, np.ndarray):
        if value.size == 0:
            return None
        if value.size > 1:
            raise ValueError(f"{value.size} values are given, not one")
        value = value.ravel()[0]
    return value


def as_struct(value: Any) -> np.void | None:
    inner = unwrap(value)
    if inner is None or (isinstance(inner, np.void) and inner.dtype.names):
        return inner
    raise ValueError(f"{inner!r:.40} is not a struct")


def optional(struct: np.void | None, name: str) -> Any:
    return struct[name] if struct is not None and name in (struct.dtype.names or ()) else None


def as_number(name: str, value: Any) -> float | None:
    inner = unwrap(value)
    if inner is None:
        return None
    if isinstance(inner, np.integer | np.floating | np.bool_ | str):
        return float(inner)
    raise ValueError(f"{name} is {inner!r:.40}, not a number")


def as_whole(name: str, value: Any, missing: int) -> int:
    number = as_number(name, value)
    if number is None:
        return missing
    if not number.is_integer():
        raise ValueError(f"{name} is {number}, not a whole number")
    return int(number)


def as_text(name: str, value: Any) -> str:
    inner = unwrap(value)
    if inner is None:
        return ""
    if not isinstance(inner, str):
        raise ValueError(f"{name} is {inner!r:.40}, not text")
    inner.encode()  # refuses a lone surrogate, which cannot be stored
    return str(inner)
