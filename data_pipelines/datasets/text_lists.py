"""Reads the text lists of data sets, whose size is bounded."""

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import read_bounded

MAX_BYTES = 16 * 2**20


def read_lines(path: Path, advice: str) -> Iterator[tuple[int, str]]:
    """Yields the number, from 1 on, and the text of each line that is not blank, stripped."""
    try:
        lines = read_bounded(path, MAX_BYTES).decode("utf-8-sig").splitlines()
    except DataError as error:
        raise DataError(f"cannot read {path} ({error}); {advice}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; {advice}") from error
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            yield number, text


def read_rows(path: Path, columns: int, advice: str) -> Iterator[list[str]]:
    """Yields the words of each line, as many as there are columns."""
    for number, line in read_lines(path, advice):
        words = line.split()
        if len(words) != columns:
            raise DataError(
                f"line {number} of {path} has {len(words)} words, not {columns}; {advice}"
            )
        yield words
