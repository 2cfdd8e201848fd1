"""Reads a folder of photographs: ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/*.

A class is the name of a folder, in Unicode's composed form. The content of a file decides whether
it is an image, so every other file is a reject with its reason; only what systems and editors leave
behind is passed over. Folders in a class belong to it. A folder is read once, wherever links lead.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.core.errors import DataError, name_some
from data_pipelines.core.files import quote, reading
from data_pipelines.datasets.own_photos import SPLIT_NAMES, Options, Photo, to_raw
from data_pipelines.example import RawData, Reject

LAYOUTS = "ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/*"
_IGNORED = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__pycache__"}
_READ_ALREADY = "it is a link to a folder that is read already"

Seen = set[tuple[int, int]]  # device and inode of the folders that were read


class _Listing(NamedTuple):
    """Holds the content of a folder: folders to read, files, and links to folders read before."""

    folders: list[Path]
    files: list[Path]
    loops: list[Path]


def read(root: Path, options: Options) -> RawData:
    """Reads the folder; a split `val` is derived unless there is a folder for it."""
    if not root.is_dir():
        raise DataError(f"--root {root} is no folder; pass the folder of {LAYOUTS}")
    status = root.stat()
    seen: Seen = {(status.st_dev, status.st_ino)}
    top = _list_folder(root, seen)
    splits = _find_splits(root, top.folders)
    photos: list[Photo] = []
    rejects: list[Reject] = []
    outside: list[str] = [] if "" in splits else [path.name for path in top.files]
    without_files: list[str] = []
    for split, folder in splits.items():
        listing = _list_folder(folder, seen) if split else top
        split = split or "train"
        for class_folder in listing.folders:
            label = unicodedata.normalize("NFC", class_folder.name)
            files = 0
            for path, is_loop in _walk(class_folder, seen):
                name = path.relative_to(root).as_posix()
                if is_loop:
                    rejects.append(Reject(split, name, _READ_ALREADY))
                else:
                    photos.append(Photo(split, name, path, (label,)))
                    files += 1
            if not files:
                without_files.append(class_folder.relative_to(root).as_posix())
        rejects += [Reject(split, _name(path, root), _READ_ALREADY) for path in listing.loops]
        loose = [_name(path, root) for path in listing.files]
        if split == "test" and not listing.folders:
            photos += [Photo(split, _name(path, root), path, ()) for path in listing.files]
        elif not listing.folders:
            raise DataError(
                f"{folder} holds no folder of a class, only {len(loose):,} files; put photographs "
                f"into {LAYOUTS}"
            )
        else:
            outside += loose
    notes = _note("files lie in no folder of a class and are left out", outside)
    notes += _note("folders hold no file and are no classes", without_files)
    return to_raw(
        "folder",
        f"--root {root}",
        photos,
        options,
        advice=f"pass the folder of {LAYOUTS}",
        rejects=rejects,
        notes=notes,
        provenance={"root": root.resolve().name},
    )


def _find_splits(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Maps each split to its folder; the split "" if the folders are classes."""
    splits: dict[str, Path] = {}
    others: list[str] = []
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.casefold())
        if split is None:
            others.append(folder.name)
        elif split in splits:
            raise DataError(f"{splits[split]} and {folder} are both split {split!r}; keep one")
        else:
            splits[split] = folder
    if not splits or (others and set(splits) == {"train"}):  # trains are a class, too
        return {"": root}
    if others:
        raise DataError(
            f"{root} holds {name_some([*map(quote, others)])} beside the folders of splits "
            f"({', '.join(path.name for path in splits.values())}); move them into a split"
        )
    if "train" not in splits:
        held = ", ".join(path.name for path in splits.values())
        raise DataError(f"{root} holds {held} and no folder train; add it ({LAYOUTS})")
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _list_folder(folder: Path, seen: Seen) -> _Listing:
    """Lists a folder by name; its own folders count as read before a link leads to them."""
    with reading(folder, DataError), os.scandir(folder) as items:
        found = sorted(items, key=lambda item: item.name)
    found = [each for each in found if not _is_ignored(each.name)]
    listing = _Listing([], [], [])
    for item in sorted(found, key=lambda item: item.is_symlink()):
        path = folder / item.name
        try:
            is_folder = item.is_dir()
            status = item.stat()
        except OSError:  # a link that leads nowhere or to itself is rejected when it is read
            is_folder = False
        if not is_folder:
            listing.files.append(path)
        elif (status.st_dev, status.st_ino) in seen:
            listing.loops.append(path)
        else:
            seen.add((status.st_dev, status.st_ino))
            listing.folders.append(path)
    return listing


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _IGNORED


def _walk(folder: Path, seen: Seen) -> Iterator[tuple[Path, bool]]:
    """Yields the files below a folder, and with True the links to folders read before."""
    waiting = [folder]
    while waiting:
        listing = _list_folder(waiting.pop(), seen)
        yield from ((path, False) for path in listing.files)
        yield from ((path, True) for path in listing.loops)
        waiting += reversed(listing.folders)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _note(text: str, names: Sequence[str]) -> list[str]:
    return [f"{len(names):,} {text}: {name_some([*map(quote, names)])}"] if names else []
