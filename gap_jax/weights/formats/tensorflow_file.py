"""Reads TensorFlow's checkpoints without TensorFlow: a table of names with raw values.

The table is LevelDB's: blocks of entries whose keys share a prefix with the previous key, an index
block with the offsets of these, and a footer with the offset of the index block. Its values are
protocol buffers. The raw values are in the table (V1) or in data files (V2).
"""

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from gap_jax.weights.formats import LARGEST, MOST_AXES, Array, Arrays

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # after each block: its compression and a checksum
DTYPES: dict[int, Any] = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64}
SINGLE: dict[int, tuple[int, Any]] = {1: (5, np.float32), 2: (6, np.float64), 9: (10, np.int64)}
SUFFIX = ".index"
LONGEST_NAME_BYTES = 2**10
ALL_NAMES_BYTES = 2**25  # names share prefixes, so a small file can hold many long ones
MOST_SHARDS = 1000
LARGEST_INDEX_BYTES = 2**26
LARGEST_INTEGERS_BYTES = 2**20  # of a variable of whole numbers: these are step counters
_MASK_DELTA = 0xA282EAD8


def find_index(path: Path) -> Path | None:
    """The index of the bundle with the prefix `path`."""
    index = path.with_name(path.name + SUFFIX)
    return index if not path.exists() and index.is_file() else None


def map_data(index: Path, content: bytes) -> list[Array]:
    """Maps the data files of a bundle into memory; its first entry has their number."""
    if len(content) > LARGEST_INDEX_BYTES:
        raise ValueError(f"{index.name} has {len(content)} bytes")
    _, header = next(_table(content), (b"", b""))
    count = int(_fields(header).get(1, [1])[0])
    if count > MOST_SHARDS:
        raise ValueError(f"it is spread over {count} files")
    prefix = index.name.removesuffix(SUFFIX)
    shards = [index.with_name(f"{prefix}.data-{n:05d}-of-{count:05d}") for n in range(count)]
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise ValueError(f"{absent[0]} is missing or no file")
    sizes = [shard.stat().st_size for shard in shards]
    if sum(sizes) > LARGEST:
        raise ValueError(f"its data files have {sum(sizes) / 2**20:,.0f} MiB")
    return [
        np.memmap(shard, np.uint8, "r") if size else np.zeros(0, np.uint8)
        for shard, size in zip(shards, sizes, strict=True)
    ]


def read_bundle(index: Path, content: bytes) -> Arrays:
    """Reads the numeric variables by name and verifies their checksums."""
    views = map_data(index, content)
    bytes_left = sum(map(len, views))
    arrays = {}
    for name, value in _table(content):
        entry = _fields(value)
        if not name:
            continue
        if entry.get(7):
            raise ValueError(f"{name.decode()} is stored in slices, which are not read")
        dtype = DTYPES.get(entry.get(1, [0])[0])
        if dtype is None:
            continue
        bytes_left -= entry.get(5, [0])[0]
        if bytes_left < 0:
            raise ValueError("its variables are larger than its data files")
        view = views[entry.get(3, [0])[0]]
        arrays[name.decode()] = _view(name.decode(), entry, np.dtype(dtype), view)
    return arrays


def read_single(content: bytes) -> Arrays:
    """Reads the variables of the older form, one table of names, shapes and values."""
    declared: dict[str, tuple[int, list[int]]] = {}  # type and shape of each variable
    arrays = {}
    for key, value in _table(content):
        saved = _fields(value)
        if not key:
            for meta in _fields(saved[1][0]).get(1, []):
                variable = _fields(meta)
                dims = _dims(variable.get(2, [b""])[0])
                declared[variable[1][0].decode()] = variable[3][0], dims
            continue
        saved_slice = _fields(saved[2][0])
        name = saved_slice[1][0].decode()
        tensor = _fields(saved_slice[3][0])
        kind, dims = declared[name]
        field, dtype = SINGLE.get(kind, (0, None))
        if dtype is None:
            continue
        stored = b"".join(tensor.get(field, []))
        if dtype == np.int64:
            if len(stored) > LARGEST_INTEGERS_BYTES:
                raise ValueError(f"{name} has {len(stored)} bytes of whole numbers")
            values = np.fromiter(_varints(stored), np.uint64).view(np.int64)
        else:
            values = np.frombuffer(stored, dtype)
        if name in arrays or len(values) != np.prod(dims, dtype=object):
            raise ValueError(f"{name} of shape {dims} has {len(values)} values in a slice")
        arrays[name] = values.reshape(dims)
    return arrays


def _dims(shape: bytes) -> list[int]:
    dims = _fields(shape).get(2, [])
    if len(dims) > MOST_AXES:
        raise ValueError(f"a variable of {len(dims)} axes")
    return [_fields(dim).get(1, [0])[0] for dim in dims]


def _varints(packed: bytes) -> Iterator[int]:
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def _view(name: str, entry: dict[int, list[Any]], dtype: np.dtype, view: Array) -> Array:
    dims = _dims(entry.get(2, [b""])[0])
    start, size = entry.get(4, [0])[0], entry.get(5, [0])[0]
    if start + size > len(view) or size != int(np.prod(dims, dtype=object)) * dtype.itemsize:
        raise ValueError(f"{name} of shape {dims} does not fit {size} bytes at {start}")
    stored = view[start : start + size]
    if _unmask(entry.get(6, [0])[0]) != google_crc32c.value(stored):  # a checksum of 0 is left out
        raise ValueError(f"the checksum of {name} differs")
    return stored.view(dtype).reshape(dims)


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the entries of all blocks in order; refuses blocks that overlap."""
    if len(content) < FOOTER_BYTES:
        raise ValueError("too short for a table")
    # the footer: offset and size of the metaindex, and of the index
    _, _, start, size = itertools.islice(_varints(content[-FOOTER_BYTES:]), 4)
    names_left, bytes_left = ALL_NAMES_BYTES, len(content)
    for _, handle in _block(content, start, size):
        block_start, block_size = itertools.islice(_varints(handle), 2)
        bytes_left -= block_size
        if bytes_left < 0:
            raise ValueError("its blocks are larger than the file")
        for key, value in _block(content, block_start, block_size):
            names_left -= len(key)
            if names_left < 0:
                raise ValueError(f"its names take more than {ALL_NAMES_BYTES} bytes")
            yield key, value


def _block(content: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if start + size + TRAILER_BYTES > len(content) or size < 4:
        raise ValueError(f"a block of {size} bytes at {start} ends after the file")
    block = content[start : start + size]
    trailer = content[start + size : start + size + TRAILER_BYTES]
    if trailer[0]:
        raise ValueError("the table is compressed, which is not read")
    if _unmask(struct.unpack_from("<I", trailer, 1)[0]) != google_crc32c.value(block + trailer[:1]):
        raise ValueError(f"the checksum of the block at {start} differs")
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    end, position, key = size - 4 * (restarts + 1), 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or shared + unshared > LONGEST_NAME_BYTES:
            raise ValueError(f"a name of {shared} and {unshared} bytes")
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length
        if position > end:
            raise ValueError("an entry ends after its block")


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Parses a protocol buffer's fields: numbers, or the bytes of texts and messages."""
    fields: dict[int, list[Any]] = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
            case 2:
                size, position = _varint(message, position)
                value, position = message[position : position + size], position + size
            case 5:
                value, position = struct.unpack_from("<I", message, position)[0], position + 4
            case 1:
                value, position = struct.unpack_from("<Q", message, position)[0], position + 8
            case kind:
                raise ValueError(f"a field of kind {kind} in the table")
        if position > len(message):
            raise ValueError("a field ends after its message")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number of more than 64 bits")


def _unmask(masked: int) -> int:
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF
