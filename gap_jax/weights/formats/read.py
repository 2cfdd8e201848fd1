"""Opens a file of weights in any of the known formats."""

import hashlib
import pickle
import struct
import tokenize
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from data_pipelines.core import files
from data_pipelines.core.errors import CheckpointError
from gap_jax.weights.formats import (
    LARGEST,
    Array,
    Arrays,
    ForeignFile,
    hdf5_file,
    numpy_file,
    tensorflow_file,
    torch_file,
)
from gap_jax.weights.formats.tensors_only import ForbiddenError

BUFFER_VALUES = 2**20
ZIP, HDF5, NUMPY = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY"
PICKLED = b"\x80\x02"
BUNDLE = "tensorflow bundle"
SAFETENSORS = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip
DAMAGES = (
    OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError,
    MemoryError, RuntimeError, struct.error, zipfile.BadZipFile, pickle.UnpicklingError,
    safetensors.SafetensorError, tokenize.TokenError,
)  # fmt: skip


def open_arrays(path: Path) -> ForeignFile:
    """Reads the file's arrays; the path of a TensorFlow bundle is its prefix or its .index."""
    with files.reading(path, CheckpointError):
        source = tensorflow_file.find_index(path) or path
        _check_size(source)
        content = source.read_bytes()
    try:
        kind, arrays = _read(source, content)
        digest = hashlib.sha256(content)
        if kind == BUNDLE:  # its .index followed by its data files
            for data in tensorflow_file.map_data(source, content):
                digest.update(data.data)
        total = sum(values.nbytes for values in arrays.values())
        if total > LARGEST:  # many names of one storage, which would take hours to read
            raise ValueError(f"its {len(arrays):,} arrays would take {total / 2**20:,.0f} MiB")
        infinite = [name for name, values in arrays.items() if not _is_finite(values)]
    except ForbiddenError as error:
        raise CheckpointError(
            f"{path} holds {error}, which is not allowed in weights; nothing of it was run, "
            "get the file from its publisher"
        ) from error
    except DAMAGES as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged, or no file of weights that gap_jax reads ({text}); get it again"
        ) from error
    if infinite:
        raise CheckpointError(
            f"{path} holds values in {infinite[0]} that are not finite; get it again"
        )
    return ForeignFile(path, kind, digest.hexdigest(), arrays)


def _check_size(path: Path) -> None:
    """Refuses a file that is absent or too large, before it is read."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; name a file of weights")
    if not path.is_file():
        raise CheckpointError(f"{path} cannot be read (it is no file); name a file")
    if (size := path.stat().st_size) > LARGEST:
        raise CheckpointError(
            f"{path} has {size / 2**20:,.0f} MiB, and gap_jax reads weights of at most "
            f"{LARGEST / 2**20:,.0f} MiB; name another file"
        )


def _is_finite(values: Array) -> bool:
    """Checks in pieces, because a mask for the whole array would take memory."""
    pieces = np.nditer(
        values, ["external_loop", "buffered", "zerosize_ok"], order="K", buffersize=BUFFER_VALUES
    )
    return all(bool(np.isfinite(piece).all()) for piece in pieces)


def _read(path: Path, content: bytes) -> tuple[str, Arrays]:
    if content.startswith(ZIP):
        return "torch", torch_file.read_zip(content)
    if content.startswith(PICKLED):
        return "torch before 1.6", torch_file.read_legacy(content)
    if content.endswith(tensorflow_file.MAGIC):
        if path.suffix == tensorflow_file.SUFFIX:
            return BUNDLE, tensorflow_file.read_bundle(path, content)
        return "tensorflow file", tensorflow_file.read_single(content)
    if content[8:9] == b"{":
        return "safetensors", _read_safetensors(content)
    if content.startswith(HDF5):
        return "keras HDF5", hdf5_file.read_hdf5(path)
    if content.startswith(NUMPY):
        return "numpy dictionary", numpy_file.read_numpy(content)
    raise ValueError("unknown format")


def _read_safetensors(content: bytes) -> Arrays:
    """Reads without safetensors.numpy, which has no bfloat16; the library checks all sizes."""
    return {
        name: np.frombuffer(stored["data"], SAFETENSORS[stored["dtype"]]).reshape(stored["shape"])
        for name, stored in safetensors.deserialize(content)
    }
