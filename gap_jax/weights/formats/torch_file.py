"""Reads files of `torch.save`, in the zip form and in the form before 1.6, without torch."""

import collections
import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gap_jax.weights.formats import MOST_AXES, Array, Arrays, tensors_only
from gap_jax.weights.formats.tensors_only import ForbiddenError

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older form
DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}  # fmt: skip
WRAPPERS = ("state_dict", "model", "model_state_dict")
PARALLEL = "module."  # prefix of every name in DataParallel networks
LONGEST_HEAD = 2**16  # bytes of each pickle before the tensors in the older form


class Stored(NamedTuple):
    """A storage that a pickle refers to."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage."""

    stored: Stored
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_zip(content: bytes) -> Arrays:
    """Reads the zip form: PREFIX/data.pkl and an uncompressed file for each storage."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip without data.pkl: torch.save writes one, numpy's .npz has none")
        prefix = pickles[0].removesuffix("data.pkl")
        bytes_left = len(content)  # refuses entries that overlap

        def read(name: str) -> bytes:
            nonlocal bytes_left
            entry = entries.get(name)
            if entry is None:
                raise ValueError(f"{name} is missing")
            bytes_left -= entry.file_size
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or bytes_left < 0:
                raise ForbiddenError(f"{name}, compressed, encrypted or larger than the file")
            return archive.read(entry)

        tensors, _ = _load(io.BytesIO(read(pickles[0])))
        return _resolve(tensors, lambda stored: read(f"{prefix}data/{stored.key}"))


def read_legacy(content: bytes) -> Arrays:
    """Reads the older form: five pickles, then the storages one after the other."""
    stream = io.BytesIO(content)
    head = [tensors_only.load(stream, {}, longest=LONGEST_HEAD) for _ in range(3)]
    if head[0] != MAGIC:
        raise ForbiddenError("a pickle that torch.save did not write")
    tensors, stored = _load(stream)
    keys = tensors_only.load(stream, {})
    position = stream.tell()
    view = memoryview(content)
    storages: dict[str, memoryview] = {}
    for key in keys:
        (count,) = struct.unpack_from("<q", content, position)
        if key not in stored or count != stored[key].length:
            raise ValueError(f"stores {count} values as {key!r}, unlike its pickle")
        start = position + 8
        position = start + count * stored[key].dtype.itemsize
        storages[key] = view[start:position]
    return _resolve(tensors, lambda stored: storages[stored.key])


def _load(stream: io.BytesIO) -> tuple[dict[str, Tensor], dict[str, Stored]]:
    """Loads a pickled state dict: its tensors by name, and all storages by key."""
    seen: dict[str, Stored] = {}

    def storage(pid: Any) -> Stored:
        kind, dtype, key, _, count = pid[:5]
        known = isinstance(dtype, np.dtype) and isinstance(key, str) and isinstance(count, int)
        if kind != "storage" or not known:
            raise ForbiddenError("a storage of another kind")
        seen[key] = Stored(key, dtype, count)
        return seen[key]

    loaded = tensors_only.load(stream, ALLOWED, storage)
    if not isinstance(loaded, dict):
        raise ValueError("holds no dictionary of tensors")
    for wrapper in WRAPPERS:
        if isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    tensors = {
        name: value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise ValueError("holds no tensors by name")
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): value for name, value in tensors.items()}
    return tensors, seen


def _rebuild(stored: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(stored, Stored):
        raise ForbiddenError("a tensor without a storage")
    return Tensor(stored, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


ALLOWED: dict[str, Any] = {
    **{f"torch.{name}": np.dtype(dtype) for name, dtype in DTYPES.items()},
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}


def _resolve(tensors: dict[str, Tensor], find: Callable[[Stored], bytes | memoryview]) -> Arrays:
    storages: Arrays = {}
    arrays = {}
    for name, tensor in tensors.items():
        stored = tensor.stored
        if stored.key not in storages:
            content = find(stored)
            if stored.length < 0 or len(content) != stored.length * stored.dtype.itemsize:
                raise ValueError(f"stores {len(content)} bytes for {stored.length} values")
            storages[stored.key] = np.frombuffer(content, stored.dtype)
        arrays[name] = _view(name, tensor, storages[stored.key])
    return arrays


def _view(name: str, tensor: Tensor, values: Array) -> Array:
    """Views the storage; refuses strides beyond its end or with two indices for one value."""
    _, offset, shape, strides = tensor
    if len(shape) != len(strides) or len(shape) > MOST_AXES or min((*shape, *strides, offset)) < 0:
        raise ValueError(f"{name} has shape {shape} and strides {strides}")
    if 0 in shape:
        return np.zeros(shape, values.dtype)
    reach, repeats = 0, False
    for stride, n in sorted(zip(strides, shape, strict=True)):
        repeats |= n > 1 and stride <= reach
        reach += (n - 1) * stride
    if offset + reach >= len(values) or repeats:
        raise ValueError(f"{name} has shape {shape}, which does not fit its storage")
    steps = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
