"""Reads the text lists of data sets: lines of words."""

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import read_bounded

MAX_BYTES = 16 * 2**20


def read_rows(path: Path, columns: Sequence[int], advice: str) -> list[list[str]]:
    """Reads the words of each line; a line may have one of the given numbers of words."""
    try:
        lines = read_bounded(path, MAX_BYTES).decode("utf-8-sig").splitlines()
    except DataError as error:
        raise DataError(f"cannot read {path} ({error}); {advice}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text; {advice}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words and len(words) not in columns:
            raise DataError(
                f"line {number} of {path} has {len(words)} words, not "
                f"{' or '.join(map(str, columns))}; {advice}"
            )
        if words:
            rows.append(words)
    return rows
