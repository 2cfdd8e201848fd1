"""Files that grow by whole lines: rows of numbers as valid JSON, cut back where a run resumes."""

import contextlib
import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines import files

MOST_WAITING = 10_000  # lines a full disk may hold up before the oldest are given up


class Journal:
    """Appends lines to a file, from any thread; what the disk refuses waits and is tried again.

    A file that cannot even be opened is refused. Later trouble is told once and stops nobody.
    """

    def __init__(self, path: Path, on_trouble: Callable[[str], None]) -> None:
        self._path = path
        self._on_trouble = on_trouble
        self._has_told = False
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._lock = threading.Lock()
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, line: str) -> None:
        """Writes the line now, or as soon as the disk takes it."""
        with self._lock:
            self._waiting.append(f"{line}\n".encode("utf-8", "backslashreplace"))
            trouble = self._drain()
        if trouble and not self._has_told:
            self._has_told = True
            self._on_trouble(
                f"{self._path} cannot be written ({trouble.strerror}); training goes on, and "
                "its lines wait in memory"
            )

    def close(self) -> None:
        """Tries a last time; closing twice does nothing."""
        with self._lock:
            if self._file < 0:
                return
            self._drain()
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
        if self._waiting:
            self._on_trouble(f"{self._path} lacks its last {len(self._waiting):,} lines")

    def _drain(self) -> OSError | None:
        rest = b"".join(self._waiting)
        size = 0
        try:
            size = os.fstat(self._file).st_size
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)  # half a line would spoil the next one
            return error
        self._waiting.clear()
        return None


def encode_row(row: Mapping[str, Any]) -> str:
    """The row as one line of strict JSON: a number that is not finite is null and is named."""
    nonfinite = [
        name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)
    ]
    content = {name: None if name in nonfinite else value for name, value in row.items()}
    if nonfinite:
        content["nonfinite"] = nonfinite
    return json.dumps(content, allow_nan=False)


class Cut(NamedTuple):
    """How many rows were dropped: of later steps, and torn or otherwise damaged ones."""

    beyond: int
    damaged: int


def cut_after(path: Path, step: int) -> Cut:
    """Drops rows of steps beyond `step`, and damaged ones, from a file of rows."""
    lines = _read_lines(path)
    found = [(_read_step(line), line) for line in lines]
    kept = [line for at, line in found if at is not None and at <= step]
    if len(kept) < len(lines):
        files.write_atomically(path, b"".join(kept))
    damaged = sum(at is None for at, _ in found)
    return Cut(len(lines) - len(kept) - damaged, damaged)


def count_steps(path: Path) -> int:
    """How many steps have a row in a file of rows."""
    return len({_read_step(line) for line in _read_lines(path)} - {None})


def _read_lines(path: Path) -> list[bytes]:
    """The lines of a file with their ends; none where there is no file."""
    if not path.exists():
        return []
    with files.writing(path):
        return path.read_bytes().splitlines(keepends=True)


def _read_step(line: bytes) -> int | None:
    """The step of a whole row; None of a damaged one."""
    try:
        step = json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, TypeError, KeyError):
        return None
    return step if isinstance(step, int) else None
