"""What `torch.save` writes, in its zip form and the one before 1.6, without torch."""

import collections
import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from gap_jax.weights.formats import MOST_AXES, tensors_only
from gap_jax.weights.formats.tensors_only import Unwelcome

Array = Shaped[np.ndarray, "..."]
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older form
DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
WRAPPERS = ("state_dict", "model", "model_state_dict")
PARALLEL = "module."  # before every name of a network that ran on several devices
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


def read_zip(content: bytes) -> dict[str, Array]:
    """The tensors of the zip form: PREFIX/data.pkl and a file for each storage, uncompressed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip without data.pkl: torch.save writes one, numpy's .npz has none")
        prefix = pickles[0].removesuffix("data.pkl")
        left = len(content)  # entries that lie in one another would hold more

        def read(name: str) -> bytes:
            nonlocal left
            entry = entries.get(name)
            if entry is None:
                raise ValueError(f"lacks {name}")
            left -= entry.file_size
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or left < 0:
                raise Unwelcome(f"{name}, which is compressed, encrypted or larger than the file")
            return archive.read(entry)

        tensors, _ = _load(read(pickles[0]))
        return _resolve(tensors, lambda stored: read(f"{prefix}data/{stored.key}"))


def read_legacy(content: bytes) -> dict[str, Array]:
    """The tensors of the older form: five pickles, then the storages one after the other."""
    position = 0
    parts = []
    for _ in range(3):
        part, size = tensors_only.load(content[position : position + LONGEST_HEAD], {})
        parts.append(part)
        position += size
    if parts[0] != MAGIC:
        raise Unwelcome("a pickle that torch.save did not write")
    stored: dict[str, Stored] = {}
    tensors, size = _load(content[position : position + tensors_only.LARGEST], stored)
    position += size
    keys, size = tensors_only.load(content[position : position + tensors_only.LARGEST], {})
    position += size
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        (count,) = struct.unpack_from("<q", content, position)
        if key not in stored or count != stored[key].length:
            raise ValueError(f"stores {count} values as {key!r}, which it does not tell before")
        position += 8
        places[key] = (position, count * stored[key].dtype.itemsize)
        position += places[key][1]
    view = memoryview(content)

    def find(stored: Stored) -> memoryview:
        start, length = places[stored.key]
        return view[start : start + length]

    return _resolve(tensors, find)


def _load(content: bytes, seen: dict[str, Stored] | None = None) -> tuple[dict[str, Tensor], int]:
    """The tensors of a pickled state dict by name, and the pickle's length.

    Whatever else stands beside them is left out.
    """

    def storage(pid: Any) -> Stored:
        kind, dtype, key, _, count = pid[:5]
        known = isinstance(dtype, np.dtype) and isinstance(key, str) and isinstance(count, int)
        if kind != "storage" or not known:
            raise Unwelcome("a storage of another kind")
        stored = Stored(key, dtype, count)
        if seen is not None:
            seen[stored.key] = stored
        return stored

    loaded, size = tensors_only.load(content, _allowed(), storage)
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict):
        raise ValueError("holds no dictionary of tensors")
    tensors = {
        name: value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise ValueError("holds no tensors by name")
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): value for name, value in tensors.items()}
    return tensors, size


def _allowed() -> dict[str, Any]:
    def rebuild(stored: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
        del rest
        if not isinstance(stored, Stored):
            raise Unwelcome("a tensor without a storage")
        return Tensor(stored, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))

    def rebuild_parameter(tensor: Any, *rest: Any) -> Any:
        del rest
        return tensor

    storages = {f"torch.{name}": np.dtype(dtype) for name, dtype in DTYPES.items()}
    return {
        **storages,
        "collections.OrderedDict": collections.OrderedDict,
        "torch._utils._rebuild_tensor_v2": rebuild,
        "torch._utils._rebuild_parameter": rebuild_parameter,
    }


def _resolve(
    tensors: dict[str, Tensor], find: Callable[[Stored], bytes | memoryview]
) -> dict[str, Array]:
    storages: dict[str, Array] = {}
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
    """The tensor as a view; its strides may not lead out of the storage, nor to a value twice."""
    _, offset, shape, strides = tensor
    if len(shape) != len(strides) or len(shape) > MOST_AXES or min((*shape, *strides, offset)) < 0:
        raise ValueError(f"gives {name} the shape {shape} with strides {strides}")
    if 0 in shape:
        return np.zeros(shape, values.dtype)
    reach, repeats = 0, False
    for stride, n in sorted(zip(strides, shape, strict=True)):
        repeats |= n > 1 and stride <= reach
        reach += (n - 1) * stride
    if offset + reach >= len(values) or repeats:
        raise ValueError(f"gives {name} the shape {shape}, which its storage does not hold")
    steps = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
