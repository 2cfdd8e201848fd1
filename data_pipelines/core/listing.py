"""Lists the folders of a user's photographs, each once, wherever links lead.

What systems and editors leave behind is passed over.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import reading

_IGNORED = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__pycache__"}

Seen = set[tuple[int, int]]  # device and inode of the folders that were read


class Listing(NamedTuple):
    """Holds the content of a folder: folders to read, files, and links to folders read before."""

    folders: list[Path]
    files: list[Path]
    loops: list[Path]


def list_folder(folder: Path, seen: Seen) -> Listing:
    """Lists a folder by name; its own folders count as read before a link leads to them."""
    with reading(folder, DataError), os.scandir(folder) as items:
        status = folder.stat()
        found = sorted(items, key=lambda item: item.name)
    seen.add((status.st_dev, status.st_ino))
    found = [each for each in found if not _is_ignored(each.name)]
    listing = Listing([], [], [])
    for item in sorted(found, key=lambda item: item.is_symlink()):
        path = folder / item.name
        identity = _identify_folder(item)
        if identity is None:
            listing.files.append(path)
        elif identity in seen:
            listing.loops.append(path)
        else:
            seen.add(identity)
            listing.folders.append(path)
    return listing


def walk(folder: Path, seen: Seen) -> Iterator[Listing]:
    """Yields the content of a folder and of all folders below it."""
    waiting = [folder]
    while waiting:
        listing = list_folder(waiting.pop(), seen)
        yield listing
        waiting += reversed(listing.folders)


def _identify_folder(item: os.DirEntry[str]) -> tuple[int, int] | None:
    """Returns the device and inode of a folder, None for anything else."""
    try:
        status = item.stat()
    except OSError:  # a link that leads nowhere or to itself is rejected when it is read
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _IGNORED
