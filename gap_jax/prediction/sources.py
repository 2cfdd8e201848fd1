"""Finds the images behind paths: files, folders, globs, lists, frames of videos, a camera."""

import contextlib
import dataclasses
import functools
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.core.errors import DataError
from data_pipelines.decode import SUFFIXES, decode
from data_pipelines.pictures.drawing import Picture
from gap_jax.prediction import video

LARGEST_BYTES = 2**29  # of a file; 50 million pixels without compression need 150 MB
NOT_READ = ("tif", "tiff", "heic", "heif", "avif", "jp2", "jxl")  # images, so each gets a reason
IMAGES = frozenset((*(each[1:] for each in SUFFIXES), *NOT_READ))
STDIN = "-"


@dataclasses.dataclass(frozen=True)
class Source:
    """The name of an image, and the function that reads its upright pixels.

    With a `box` (left, top, right, bottom) in pixels it asks about that person alone, the
    `person`-th of the image.
    """

    name: str
    load: Callable[[], Picture]
    person: int | None = None
    box: tuple[float, ...] | None = None


class Refused(NamedTuple):
    """An input without an answer, and the reason."""

    name: str
    error: str
    person: int | None = None


def find_sources(
    words: Iterable[str],
    *,
    listed: Iterable[bytes] = (),
    every_s: float = 1.0,
    left_out: Callable[[str], object] = bool,
) -> Iterator[Source | Refused]:
    """Yields the images of each word in order; a word without any gives its reason.

    A word is a file, a folder (with its subfolders), a quoted glob, `-` for the paths in `listed`,
    or a digit for a photograph from that camera. A video gives a frame every `every_s` seconds.
    `left_out` receives files in folders whose names are of no image.
    """
    for word in words:
        if word == STDIN:
            paths = (os.fsdecode(line.rstrip(b"\r\n")) for line in listed)
            for path in filter(None, paths):
                yield from _expand(path, every_s, left_out)
        elif len(word) == 1 and word.isascii() and word.isdigit():
            yield from _take_photograph(int(word))
        else:
            yield from _expand(word, every_s, left_out)


def open_source(image: str | os.PathLike[str] | np.ndarray | Source) -> Source:
    """Wraps a path or an array as a source."""
    match image:
        case Source():
            return image
        case str() | os.PathLike():
            path = os.fspath(image)
            return Source(path, functools.partial(read_image, path))
        case _:
            return Source("array", functools.partial(_check_array, image))


def _check_array(image: np.ndarray) -> Picture:
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype != np.uint8:
        raise DataError(
            f"it has shape {image.shape} and type {image.dtype}; pass RGB as (height, width, 3) "
            "of uint8"
        )
    return image


def read_image(path: str) -> Picture:
    """Reads the upright pixels of an image file."""
    try:
        if not Path(path).is_file():
            raise DataError("there is no such file" if not Path(path).exists() else "it is no file")
        if (size := Path(path).stat().st_size) > LARGEST_BYTES:
            raise DataError(f"it has {size / 2**20:,.0f} MiB, more than {LARGEST_BYTES // 2**20}")
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise DataError(f"it cannot be read ({error})") from error
    return decode(data, upright=True)


def _expand(
    word: str, every_s: float, left_out: Callable[[str], object]
) -> Iterator[Source | Refused]:
    """Yields the images of a file, a folder or a glob."""
    is_glob = glob.has_magic(word) and not os.path.lexists(word)
    found = 0
    for path in _match(word) if is_glob else [word]:
        for file in _walk(path, left_out) if _is_folder(path) else [path]:
            found += 1
            yield from [file] if isinstance(file, Refused) else _open(file, every_s)
    if not found:
        yield Refused(word, "it matches no image" if is_glob else "it holds no image")


def _match(pattern: str) -> list[str]:
    """Lists the paths that match, in order; `**` stands for any folders."""
    anchor = Path(pattern).anchor
    try:
        paths = Path(anchor).glob(str(Path(pattern).relative_to(anchor)))
        return sorted(str(path) for path in paths if _is_shown(path.name))
    except (OSError, ValueError):  # ValueError: ** beside other characters
        return []


def _walk(folder: str, left_out: Callable[[str], object]) -> Iterator[str | Refused]:
    """Yields the images and videos below a folder by name; a loop of links is entered once."""
    entered: set[tuple[int, int]] = set()
    faults: list[OSError] = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=faults.append):
        try:
            status = Path(parent).stat()
        except OSError as error:  # the folder was removed meanwhile
            faults.append(error)
            continue
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(filter(_is_shown, folders))
        for name in sorted(filter(_is_shown, names)):
            path = str(Path(parent, name))
            if _suffix(name) in IMAGES | video.SUFFIXES:
                yield path
            else:
                left_out(path)
    yield from (Refused(str(each.filename), f"it cannot be read ({each})") for each in faults)


def _is_folder(path: str) -> bool:
    with contextlib.suppress(OSError):  # such as a name that is too long
        return Path(path).is_dir()
    return False


def _is_shown(name: str) -> bool:
    """Tells whether a name is neither hidden nor left by macOS in an archive."""
    return not name.startswith(".") and name != "__MACOSX"


def _suffix(name: str) -> str:
    return Path(name).suffix.lower().lstrip(".")


def _open(path: str, every_s: float) -> Iterator[Source | Refused]:
    """Yields an image, or the frames of a video."""
    if _suffix(path) not in video.SUFFIXES:
        yield open_source(path)
        return
    try:
        for seconds, frame in video.read_frames(path, every_s):
            yield Source(f"{path} at {seconds:.1f} s", functools.partial(decode, frame))
    except DataError as refusal:
        yield Refused(path, str(refusal))


def _take_photograph(camera: int) -> Iterator[Source | Refused]:
    try:
        yield Source(f"camera {camera}", functools.partial(decode, video.photograph(camera)))
    except DataError as refusal:
        yield Refused(f"camera {camera}", str(refusal))
