"""Writes files of other libraries byte by byte, without these libraries."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from gap_jax.weights.formats.tensorflow_file import DTYPES, SINGLE
from gap_jax.weights.formats.tensorflow_file import MAGIC as TABLE_MAGIC

Arrays = Mapping[str, np.ndarray]
STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage", "f2": "HalfStorage"}


def whole(number: int) -> bytes:
    """Pickles a number."""
    content = number.to_bytes(max(1, number.bit_length() // 8 + 1), "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def text(word: str) -> bytes:
    """Pickles a text."""
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def named(module: str, name: str) -> bytes:
    """Pickles a global."""
    return f"c{module}\n{name}\n".encode()


def row(*parts: bytes) -> bytes:
    """Pickles a tuple."""
    return b"(" + b"".join(parts) + b"t"


def called(function: bytes, *arguments: bytes) -> bytes:
    """Pickles a call, the instruction that runs code."""
    return function + row(*arguments) + b"R"


def tensor(
    key: str,
    values: np.ndarray,
    *,
    length: int | None = None,
    strides: Sequence[int] | None = None,
    legacy: bool = False,
) -> bytes:
    """Pickles a tensor whose values are in the storage `key`."""
    storage = row(
        text("storage"),
        named("torch", STORAGES[values.dtype.str[1:]]),
        text(key),
        text("cpu"),
        whole(values.size if length is None else length),
        *([b"N"] if legacy else []),
    )
    steps = [step // values.itemsize for step in values.strides] if strides is None else strides
    return called(
        named("torch._utils", "_rebuild_tensor_v2"),
        storage + b"Q",
        whole(0),
        row(*map(whole, values.shape)),
        row(*map(whole, steps)),
        b"\x89",
        called(named("collections", "OrderedDict")),
    )


def mapping(**members: bytes) -> bytes:
    """Pickles a dictionary."""
    return pickled(b"}(" + b"".join(text(name) + member for name, member in members.items()) + b"u")


def pickled(content: bytes) -> bytes:
    """Completes a pickle of protocol 2."""
    return b"\x80\x02" + content + b"."


def zipped(pickle: bytes, storages: Arrays, *, method: int = zipfile.ZIP_STORED) -> bytes:
    """Writes torch.save's zip of a pickle and its storages by key."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/version", "3\n")
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values.tobytes("A"))
    return stream.getvalue()


def keyed(arrays: Arrays) -> dict[str, np.ndarray]:
    """The arrays by the keys of their storages."""
    return {str(index): values for index, values in enumerate(arrays.values())}


def torch_zip(arrays: Arrays) -> bytes:
    """Writes a state dict like torch.save."""
    keys = dict(zip(arrays, keyed(arrays), strict=True))
    return zipped(
        mapping(**{name: tensor(keys[name], values) for name, values in arrays.items()}),
        keyed(arrays),
    )


def torch_legacy(arrays: Arrays) -> bytes:
    """Writes a state dict like torch.save before version 1.6."""
    keys = dict(zip(arrays, keyed(arrays), strict=True))
    tensors = {name: tensor(keys[name], each, legacy=True) for name, each in arrays.items()}
    storages = b"".join(
        struct.pack("<q", each.size) + each.tobytes("A") for each in arrays.values()
    )
    return (
        pickled(whole(0x1950A86A20F9469CFC6C))
        + pickled(whole(1001))
        + mapping(protocol_version=whole(1001))
        + mapping(**tensors)
        + pickled(b"](" + b"".join(map(text, keys.values())) + b"e")
        + storages
    )


def bundle(prefix: Path, arrays: Arrays, *, lie: int = 0) -> None:
    """Writes a checkpoint of TensorFlow's Saver; `lie` is added to each stated size."""
    codes = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
    data, entries = b"", {b"": field(1, 1)}
    for name, values in sorted(arrays.items()):
        dims = b"".join(field(2, field(1, n)) for n in values.shape)
        entries[name.encode()] = b"".join(
            [
                field(1, codes[values.dtype]),
                field(2, dims),
                field(4, len(data)),
                field(5, values.nbytes + lie),
                varint(6 << 3 | 5) + struct.pack("<I", mask(google_crc32c.value(values.tobytes()))),
            ]
        )
        data += values.tobytes()
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
    prefix.with_name(f"{prefix.name}.index").write_bytes(tabled(entries))


def tabled(entries: Mapping[bytes, bytes]) -> bytes:
    """Writes a table with one block of entries."""
    table = sealed(block(entries))
    handle = varint(0) + varint(len(table) - 5)
    index = sealed(block({max(entries): handle}))
    footer = handle + varint(len(table)) + varint(len(index) - 5)
    return table + index + footer.ljust(40, b"\0") + TABLE_MAGIC


def single(arrays: Arrays) -> bytes:
    """Writes a V1 checkpoint of TensorFlow's Saver: values are in the table."""
    codes = {np.dtype(dtype): (code, number) for code, (number, dtype) in SINGLE.items()}
    metas, entries = b"", {}
    for name, values in sorted(arrays.items()):
        code, number = codes[values.dtype]
        shape = b"".join(field(2, field(1, n)) for n in values.shape)
        metas += field(1, field(1, name.encode()) + field(2, shape) + field(3, code))
        packed = (
            b"".join(varint(int(n) % 2**64) for n in values.ravel())
            if values.dtype == np.int64
            else values.tobytes()
        )
        tensor = field(number, packed)  # its type and shape stand in the metas alone
        entries[b"\1" + name.encode()] = field(2, field(1, name.encode()) + field(3, tensor))
    return tabled({b"": field(1, metas), **entries})


def block(entries: Mapping[bytes, bytes]) -> bytes:
    """Writes a table's block; each key shares a prefix with the previous one."""
    content, before = b"", b""
    for key, value in sorted(entries.items()):
        shared = next(
            (i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b),
            min(len(key), len(before)),
        )
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        before = key
    return content + struct.pack("<II", 0, 1)


def sealed(content: bytes) -> bytes:
    """Adds a block's trailer."""
    return content + b"\0" + struct.pack("<I", mask(google_crc32c.value(content + b"\0")))


def mask(checksum: int) -> int:
    """Masks a checksum like LevelDB."""
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def field(number: int, value: int | bytes) -> bytes:
    """Encodes a field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Encodes a number with seven bits per byte."""
    content = b""
    while value > 127:
        content += bytes([value & 127 | 128])
        value >>= 7
    return content + bytes([value])
