"""Reads and decodes image files in threads, once each; a fault becomes the reason of a reject."""

import datetime
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipelines.core.errors import DataError
from data_pipelines.decode import decode
from data_pipelines.photographs.duplicates import sketch
from data_pipelines.photographs.journal import Examined, Journal, make_key
from data_pipelines.workers import MAX_THREADS, available_cores

MAX_FILE_BYTES = 256 * 2**20
PROGRESS_INTERVAL_S = 15.0

Log = Callable[[str], None]


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

    with ThreadPoolExecutor(min(MAX_THREADS, available_cores())) as threads:
        try:
            found = threads.map(recall_or_examine, paths)
            return [next(found) for _ in count_images(split, len(paths), log)]
        finally:
            threads.shutdown(cancel_futures=True)


def read_file(path: Path) -> bytes:
    """Reads a regular file of bounded size; a DataError gives the reason why it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError("it is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"its file has {status.st_size:,} bytes, too many for an image")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("it has no file") from error
    except OSError as error:
        raise DataError(f"its file cannot be read ({error.strerror or error})") from error


def count_images(split: str, total: int, log: Log, done_to: str = "read") -> Iterator[int]:
    """Yields the positions of a split's images; logs progress and the time left at intervals."""
    started = logged_at = time.monotonic()
    for done in range(total):
        now = time.monotonic()
        if done and now - logged_at > PROGRESS_INTERVAL_S:
            logged_at = now
            left = datetime.timedelta(seconds=round((now - started) / done * (total - done)))
            log(f"{split}: {done:,} of {total:,} images {done_to}, about {left} left")
        yield done
