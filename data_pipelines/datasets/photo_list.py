"""Reads a list of photographs: a CSV file of path,label[;label...][,split]."""

import csv
import io
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.core.errors import DataError, first_line
from data_pipelines.core.files import quote, read_bounded, sha256
from data_pipelines.datasets.own_photos import SPLIT_NAMES, Options, Photo, to_raw
from data_pipelines.example import RawData, Reject

MAX_BYTES = 256 * 2**20
COLUMNS = "path,label[;label...][,split]"
_LABEL_TITLES = {"label", "labels", "class", "classes", "class_name", "category", "action"}

Row = tuple[int, list[str]]  # its line


def read(listing: Path, root: Path, options: Options) -> RawData:
    """Reads the list; paths lead from `root` and may not leave it.

    The first row is a header if its second cell names a column of labels and its first is no file.
    """
    if not root.is_dir():
        raise DataError(f"--root {root} is no folder; pass the folder where the paths begin")
    bases = Path(os.path.normpath(root.absolute())), root.resolve()
    rows = _read_rows(listing)
    titles = [cell.strip() for cell in rows[0][1]]
    has_header = titles[1].casefold() in _LABEL_TITLES and _find_name(bases, titles[0]) is None
    if has_header:
        rows = rows[1:]
        note = f"{listing}: the first line is a header ({','.join(titles)})"
    else:
        note = f"{listing}: no header, the first line is a photograph"
    photos: list[Photo] = []
    rejects: list[Reject] = []
    has_splits = any(len(cells) > 2 for _, cells in rows)
    for line, cells in rows:
        split = _read_split(listing, line, cells) if has_splits else "train"
        written = cells[0].strip()
        name = _find_name(bases, written)
        labels = tuple(dict.fromkeys(filter(None, map(_clean, cells[1].split(";")))))
        if name is None:
            rejects.append(Reject(split, written, "it has no file below --root"))
        else:
            photos.append(Photo(split, name, root / name, labels, line))
    if rejects and not photos:
        raise DataError(
            f"none of the {len(rejects):,} files that {listing} lists is below {root}, as "
            f"{quote(rejects[0].id)}; pass the folder where the paths begin as --root"
        )
    provenance = {"list": listing.name, "list_sha256": sha256(listing), "root": bases[-1].name}
    return to_raw(
        "csv",
        str(listing),
        photos,
        options,
        advice=f"its lines are {COLUMNS}",
        rejects=rejects,
        notes=[note],
        provenance=provenance,
    )


def _clean(label: str) -> str:
    return unicodedata.normalize("NFC", label.strip())


def _read_rows(listing: Path) -> list[Row]:
    """Reads the rows that are not empty; refuses one with another number of columns."""
    try:
        text = read_bounded(listing, MAX_BYTES).decode("utf-8-sig")
    except DataError as error:
        raise DataError(f"cannot read {listing} ({error}); pass a CSV file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{listing} is not UTF-8 text; save it as CSV in UTF-8") from error
    try:
        rows = list(_number_rows(text))
    except csv.Error as error:
        raise DataError(f"{listing} is no CSV ({first_line(error)}); save it again") from error
    if not rows:
        raise DataError(f"{listing} lists no photograph; its lines are {COLUMNS}")
    for line, cells in rows:
        if not 2 <= len(cells) <= 3:
            raise DataError(
                f"line {line} of {listing} has {len(cells)} columns separated by commas; its lines "
                f"are {COLUMNS}"
            )
    return rows


def _number_rows(text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _read_split(listing: Path, line: int, cells: Sequence[str]) -> str:
    written = cells[2].strip() if len(cells) > 2 else ""
    if written.casefold() not in SPLIT_NAMES:
        raise DataError(
            f"line {line} of {listing} has split {quote(written)}; write train, val or test in "
            "every line or in none"
        )
    return SPLIT_NAMES[written.casefold()]


def _find_name(bases: Sequence[Path], written: str) -> str | None:
    """Finds a listed file, also if its path has backslashes as on Windows; returns its path below.

    `bases` are the root as given and without links, as an absolute path may begin with either.
    """
    for name in (written, written.replace("\\", "/")):
        for base in bases:
            path = Path(os.path.normpath(base / name))
            if path != base and path.is_relative_to(base) and os.path.lexists(path):
                return path.relative_to(base).as_posix()
    return None
