"""Other people's files of weights, read without their libraries and without running anything.

`read.open_arrays` tells a file's format by its content: safetensors, what `torch.save` writes,
TensorFlow's checkpoints, Keras' HDF5, numpy's dictionary of layers. What is damaged, lies about its
sizes, or names anything but tensors is a CheckpointError in one line.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

LARGEST = 4 * 2**30  # bytes of a file
MOST_AXES = 8

Arrays = dict[str, Shaped[np.ndarray, "..."]]


class ForeignFile(NamedTuple):
    """Arrays by the names they have there; `format` says who wrote them."""

    path: Path
    format: str
    sha256: str
    arrays: Arrays
