"""Paths that cannot be used, each in another way, and rights as a user without privileges has."""

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

VERSION = 0x20080522
OVERRIDES = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Has permission bits count for this thread even where it is root's."""
    if os.geteuid():
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("root passes every permission bit here")
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = struct.pack("Ii", VERSION, 0), ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    before = data.raw
    words = list(struct.unpack("6I", before))
    words[0] &= ~OVERRIDES
    assert libc.capset(header, struct.pack("6I", *words)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def make_unusable(folder: Path) -> dict[str, Path]:
    """A path of each kind, by the words that name what is wrong with it."""
    locked = folder / "locked"
    (locked / "inner").mkdir(parents=True)
    locked.chmod(0)
    (folder / "file").write_text("", "utf-8")
    (folder / "loop").symlink_to("loop")
    return {
        "permission": locked / "inner",
        "long": folder / ("x" * 300),
        "loop": folder / "loop",
        "file above": folder / "file" / "inner",
        "null byte": folder / "a\0b",
        "no utf-8": folder / "file" / "\udcff",
    }
