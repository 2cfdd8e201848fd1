"""Reads and decodes image files in threads, once each; a fault becomes the reason of a reject."""

import contextlib
import zlib
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import read_bounded
from data_pipelines.core.parallel import MAX_THREADS, map_ahead
from data_pipelines.core.progress import Log, count_items
from data_pipelines.decode import decode
from data_pipelines.photographs.duplicates import sketch
from data_pipelines.photographs.journal import Examined, Journal, make_key

MAX_FILE_BYTES = 256 * 2**20
AHEAD = 4 * MAX_THREADS


def examine(
    split: str,
    paths: Sequence[Sequence[Path]],
    *,
    upright: bool,
    log: Log,
    journal: Journal,
) -> list[Examined | DataError]:
    """Examines the files of each record of a split in their order; all have one size.

    Files in the journal are not read again.
    """

    def recall_or_examine(frames: Sequence[Path]) -> Examined | DataError:
        key = make_key(frames, upright=upright)
        found = journal.find(key) if key else None
        if found is None:
            found = examine_one(frames)
            if key and isinstance(found, Examined):
                journal.add(key, found)
        return found

    def examine_one(frames: Sequence[Path]) -> Examined | DataError:
        sizes: set[tuple[int, int]] = set()
        crc32, middle = 0, None
        for index, path in enumerate(frames):
            try:
                content = read_file(path)
                image = decode(content, upright=upright)
            except DataError as error:
                return DataError(f"frame {path.name}: {error}") if len(frames) > 1 else error
            sizes.add((image.shape[1], image.shape[0]))
            crc32 = zlib.crc32(content, crc32)
            middle = sketch(image) if index == len(frames) // 2 else middle
        if middle is None or len(sizes) != 1:
            return DataError("its frames have more than one size")
        return Examined(*sizes.pop(), crc32, middle)

    with contextlib.closing(map_ahead(recall_or_examine, paths, AHEAD)) as found:
        return [next(found) for _ in count_items(split, len(paths), log)]


def read_file(path: Path) -> bytes:
    """Reads a file of bounded size; a DataError gives the reason why it cannot be read."""
    return read_bounded(path, MAX_FILE_BYTES)
