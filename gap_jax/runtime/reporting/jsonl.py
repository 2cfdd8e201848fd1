"""Files of lines: text, or rows of numbers as strict JSON, which are cut where a run resumes."""

import contextlib
import itertools
import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from data_pipelines.core import files

Item = TypeVar("Item", contravariant=True)

MOST_WAITING = 10_000  # lines; while the disk is full, older ones are dropped


class LineWriter(Generic[Item]):
    """Appends lines to a file, from any thread; after a failure, of which it warns, they wait."""

    def __init__(
        self, path: Path, warn: Callable[[str], None], encode: Callable[[Item], str] = str
    ) -> None:
        self._path = path
        self._warn = warn
        self._encode = encode
        self._has_warned = False
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._lock = threading.Lock()
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, item: Item, /) -> None:
        """Writes the item as a line, or keeps it for the next try."""
        line = f"{self._encode(item)}\n"
        with self._lock:
            self._waiting.append(line.encode("utf-8", "backslashreplace"))
            error = self._drain()
        if error and not self._has_warned:
            self._has_warned = True
            self._warn(
                f"{self._path} cannot be written ({error.strerror}); training goes on, and "
                "its lines wait in memory"
            )

    def close(self) -> None:
        """Tries a last time to write what waits; closing twice does nothing."""
        with self._lock:
            if self._file < 0:
                return
            self._drain()
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
        if self._waiting:
            self._warn(f"{self._path} lacks its last {len(self._waiting):,} lines")

    def _drain(self) -> OSError | None:
        rest, size = b"".join(self._waiting), 0
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
    """Encodes a row as strict JSON: a number that is not finite becomes null and is named."""
    numbers = {name: value for name, value in row.items() if isinstance(value, float)}
    nonfinite = [name for name, value in numbers.items() if not math.isfinite(value)]
    content: dict[str, Any] = {**row, **dict.fromkeys(nonfinite)}
    if nonfinite:
        content["nonfinite"] = nonfinite
    return json.dumps(content, allow_nan=False)


JsonlWriter = partial(LineWriter[Mapping[str, Any]], encode=encode_row)


class Cut(NamedTuple):
    """The number of dropped rows, of later steps and damaged, and of the steps that have a row."""

    beyond: int
    damaged: int
    steps: int


def cut_after(path: Path, step: int) -> Cut:
    """Drops rows of steps beyond `step`, and damaged ones, from a file of rows."""
    with files.writing(path):
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    steps = [_read_step(line) for line in lines]
    kept = [at is not None and at <= step for at in steps]
    if not all(kept):
        files.write_atomically(path, b"".join(itertools.compress(lines, kept)))
    damaged = steps.count(None)
    beyond = kept.count(False) - damaged
    return Cut(beyond, damaged, len(set(itertools.compress(steps, kept))))


def _read_step(line: bytes) -> int | None:
    """Returns None for a damaged row."""
    try:
        step = json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, TypeError, KeyError):
        return None
    return step if isinstance(step, int) else None
