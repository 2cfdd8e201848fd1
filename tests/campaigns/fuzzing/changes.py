"""Random changes of bytes, of text and of MATLAB variables."""

import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.io

from tests.campaigns.fuzzing.case import Mutate, Rng, choose

ODD_NUMBERS = (
    b"-1", b"0", b"7", b"1e309", b"-1e309", b"NaN", b"1.5", b"2147483648", b"9" * 40, b"1" * 5000,
    "\u0663".encode(), b"null", b"true", b'""', b"[]", b"{}", b"[[1]]",
)  # fmt: skip
ODD_WORDS = (
    b"", b"\0", b"..", b"../../outside.jpg", b"/etc/passwd", b"\xff\xfe", b"\xed\xa0\x80",
    b"\\ud800", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\x1b[31m", b"=cmd()", b"a" * 70_000, b"\n",
    b"\r", b",", b";", b'"', b" ", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"\xef\xbb\xbf",
)  # fmt: skip
NESTINGS = (b"[", b"{", b'{"a":', b"<a>", b"(", b'"')
NESTED = 50_000
ODD_VALUES: tuple[Callable[[], Any], ...] = (
    lambda: np.zeros((0, 0)), lambda: np.nan, lambda: np.inf, lambda: -1.0, lambda: 1e300,
    lambda: np.uint64(2**64 - 1), lambda: 1j, lambda: "text", lambda: "", lambda: "\0",
    lambda: "../outside.jpg", lambda: "a" * 70_000, lambda: np.zeros((3, 2)), lambda: np.eye(2) > 0,
    lambda: np.array([["a", "bc"]], object), lambda: np.zeros((1, 2), [("x", object)]),
    lambda: scipy.sparse.csc_matrix(np.eye(3)), lambda: np.array(["ab", "cd"]),
)  # fmt: skip


def flip_bits(data: bytes, rng: Rng, most: int = 1) -> bytes:
    """Flips up to `most` bits."""
    changed = bytearray(data)
    for place in rng.integers(8 * len(data), size=rng.integers(most) + 1):
        changed[place // 8] ^= 1 << int(place % 8)
    return bytes(changed)


def truncate(data: bytes, rng: Rng) -> bytes:
    """Cuts off the end."""
    return data[: rng.integers(len(data))]


def overwrite(data: bytes, rng: Rng) -> bytes:
    """Overwrites bytes with random bytes, zeros or the end marker of a JPEG."""
    start, count = int(rng.integers(len(data))), int(rng.integers(1, 40))
    new = (rng.bytes(count), bytes(count), b"\xff\xd9")[rng.integers(3)]
    return data[:start] + new + data[start + len(new) :]


def drop_or_insert(data: bytes, rng: Rng) -> bytes:
    """Deletes or inserts bytes."""
    start, count = int(rng.integers(len(data))), int(rng.integers(1, 40))
    if rng.random() < 0.5:
        return data[:start] + data[start + count :]
    return data[:start] + rng.bytes(count) + data[start:]


BYTES: dict[str, Mutate] = {
    "one bit": flip_bits,
    "bits": functools.partial(flip_bits, most=16),
    "cut off": truncate,
    "overwritten": overwrite,
    "bytes less or more": drop_or_insert,
}


def move_lines(data: bytes, rng: Rng) -> bytes:
    """Deletes, repeats or moves a line."""
    lines = data.splitlines(keepends=True)
    at, to = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    line = lines[at]
    match rng.integers(3):
        case 0:
            del lines[at]
        case 1:
            lines.insert(to, line)
        case _:
            lines.insert(to, lines.pop(at))
    return b"".join(lines)


def replace(data: bytes, rng: Rng, pattern: bytes, odd: tuple[bytes, ...]) -> bytes:
    """Replaces a match of the pattern by an odd text."""
    matches = list(re.finditer(pattern, data))
    start, end = choose(rng, matches).span() if matches else (0, 0)
    return data[:start] + choose(rng, odd) + data[end:]


def nest(data: bytes, rng: Rng) -> bytes:
    """Inserts a deep nesting that does not end."""
    at = int(rng.integers(len(data) + 1))
    return data[:at] + NESTED * choose(rng, NESTINGS) + data[at:]


def reencode(data: bytes, rng: Rng) -> bytes:
    """Encodes a text otherwise, or ends its lines otherwise."""
    text = data.decode()
    return choose(
        rng, (text.encode("utf-16"), text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode())
    )


TEXT: dict[str, Mutate] = {
    **BYTES,
    "lines moved": move_lines,
    "odd number": functools.partial(replace, pattern=rb"-?\d[\d.]*", odd=ODD_NUMBERS),
    "odd word": functools.partial(replace, pattern=rb"\w+", odd=ODD_WORDS),
    "nested": nest,
    "encoded otherwise": reencode,
}


def replace_value(data: bytes, rng: Rng) -> bytes:
    """Replaces a variable, field, cell or number in a MATLAB file by an odd value."""
    variables = {
        name: value
        for name, value in scipy.io.loadmat(io.BytesIO(data)).items()
        if not name.startswith("__")
    }
    container, key = choose(rng, [*_list_places(variables)])
    value = choose(rng, ODD_VALUES)()
    try:
        container[key] = value
    except (TypeError, ValueError):  # an array of numbers, which holds numbers alone
        container[key] = choose(rng, (np.nan, np.inf, -7, 1e300)) if _is_float(container) else 0
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=bool(rng.integers(2)))
    return file.getvalue()


def _list_places(container: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each container with each key or index in it, at any depth."""
    if isinstance(container, Mapping):
        keys: list[Any] = list(container)
    elif isinstance(container, np.void):
        keys = list(container.dtype.names or ())
    elif isinstance(container, np.ndarray) and container.dtype.kind in "OVf":
        keys = list(np.ndindex(container.shape))
    else:
        return
    for key in keys:
        is_struct = isinstance(container, np.ndarray) and container.dtype.kind == "V"
        if not is_struct:
            yield container, key
        yield from _list_places(container[key])


def _is_float(container: Any) -> bool:
    return isinstance(container, np.ndarray) and container.dtype.kind == "f"


MAT: dict[str, Mutate] = {**BYTES, "odd value": replace_value, "odd value again": replace_value}
