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
PR_CAPBSET_DROP = 24
_LIBC = ctypes.CDLL(None, use_errno=True)
OVERRIDES = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Has permission bits count for this thread even where it is root's."""
    if os.geteuid():
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("root passes every permission bit here")
    header, data = struct.pack("Ii", VERSION, 0), ctypes.create_string_buffer(24)
    assert _LIBC.capget(header, data) == 0
    before = data.raw
    words = list(struct.unpack("6I", before))
    words[0] &= ~OVERRIDES
    assert _LIBC.capset(header, struct.pack("6I", *words)) == 0
    try:
        yield
    finally:
        assert _LIBC.capset(header, before) == 0


def drop_overrides() -> None:
    """Has permission bits count for what this process executes next, even where it is root's."""
    if os.geteuid() == 0 and sys.platform.startswith("linux"):
        for capability in (1, 2):
            _LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


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
        "no utf-8": folder / "file" / "\udcff",
    }
