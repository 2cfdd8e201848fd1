"""Reads other libraries' files of weights without these libraries and without running their code.

`read.open_arrays` detects the format from the content. A file that is damaged, has wrong sizes or
refers to anything but tensors is a CheckpointError in one line.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

LARGEST = 4 * 2**30  # bytes of a file
MOST_AXES = 8

Array = Shaped[np.ndarray, "..."]
Arrays = dict[str, Array]


class ForeignFile(NamedTuple):
    """The arrays of a file by their foreign names; `format` is the library that wrote it."""

    path: Path
    format: str
    sha256: str
    arrays: Arrays
