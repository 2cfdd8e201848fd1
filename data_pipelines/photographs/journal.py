"""Keeps what is known of examined files, so that a killed command does not decode them again."""

import contextlib
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from data_pipelines.core import files
from data_pipelines.photographs.duplicates import THUMBNAIL_PX, Sketch

FORMAT_VERSION = 1
MOST_BYTES = 2**30  # of a journal that is read
_LINE = re.compile(
    rb"(?P<key>[0-9a-f]{64}) (\d{1,9}) (\d{1,9}) (\d{1,10}) ([0-9a-f]{16}) ([0-9a-f]{%d})"
    % (2 * THUMBNAIL_PX**2)
)


class Examined(NamedTuple):
    """Holds what is known of the image files of a record, which were decoded.

    `crc32` is that of their bytes, one after the other; the sketch is that of the middle frame.
    """

    width_px: int
    height_px: int
    crc32: int
    sketch: Sketch


class Journal:
    """Holds examined files by their paths, sizes and times of change; adds lines to a file."""

    def __init__(self, file: IO[bytes], known: dict[bytes, Examined]) -> None:
        self._file, self._known = file, known

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: bytes) -> Examined | None:
        """Returns what an earlier command found out about these files, if they are unchanged."""
        return self._known.get(key)

    def add(self, key: bytes, found: Examined) -> None:
        """Appends a line in one call, so that threads need no lock."""
        numbers = f"{found.width_px} {found.height_px} {found.crc32}"
        thumbnail = found.sketch.thumbnail.tobytes().hex()
        line = b"%b %b %016x %b" % (
            key, numbers.encode(), int(found.sketch.hash), thumbnail.encode(),
        )  # fmt: skip
        self._file.write(b"%b %08x\n" % (line, zlib.crc32(line)))


def make_key(paths: Sequence[Path], *, upright: bool) -> bytes | None:
    """Digests the paths, sizes and times of change of files; None if one cannot be looked up."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {upright}".encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            return None
        digest.update(b"\0%b\0" % os.fsencode(path.absolute()))
        digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest().encode()


@contextlib.contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Opens the journal that a killed command left, or a new one; removes it at the end."""
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        known = _read(path)
        file = path.open("ab", buffering=0)
    try:
        with file:
            yield Journal(file, known)
    finally:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[bytes, Examined]:
    """Reads the whole lines; starts a new file if the old one cannot be a journal."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.unlink()
    if not path.exists() or path.stat().st_size > MOST_BYTES:
        path.write_bytes(b"")
        return {}
    known: dict[bytes, Examined] = {}
    content = path.read_bytes()
    for line in content.splitlines():
        text, _, crc32 = line.rpartition(b" ")
        match = _LINE.fullmatch(text)
        if not match or crc32 != b"%08x" % zlib.crc32(text):
            continue  # cut off by a kill
        key, width_px, height_px, of_bytes, bits, thumbnail = match.groups()
        cells = np.frombuffer(bytes.fromhex(thumbnail.decode()), np.uint8)
        sketch = Sketch(np.uint64(int(bits, 16)), cells.reshape(THUMBNAIL_PX, THUMBNAIL_PX))
        known[key] = Examined(int(width_px), int(height_px), int(of_bytes), sketch)
    if content and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
    return known
