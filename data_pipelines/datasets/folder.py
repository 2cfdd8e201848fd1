"""Reads a folder of photographs: ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/*.

A class is the name of a folder, in Unicode's composed form. The content of a file decides whether
it is an image, so every other file is a reject with its reason. Folders in a class belong to it.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.core.errors import DataError, name_some
from data_pipelines.core.files import quote
from data_pipelines.core.listing import Listing, Seen, list_folder, walk
from data_pipelines.datasets.own_photos import SPLIT_NAMES, Options, Photo, to_raw
from data_pipelines.example import RawData, Reject

LAYOUTS = "ROOT/CLASS/* or ROOT/{train,val,test}/CLASS/*"
_READ_ALREADY = "it is a link to a folder that is read already"


def read(root: Path, options: Options) -> RawData:
    """Reads the folder; a split `val` is derived from `train` unless there is a folder for it."""
    if not root.is_dir():
        raise DataError(f"--root {root} is no folder; pass the folder of {LAYOUTS}")
    reader = _Reader(root)
    top = list_folder(root, reader.seen)
    splits = _find_splits(root, top.folders)
    if splits:
        reader.leave_out("train", top)
        for split, folder in splits.items():
            reader.read_split(split, folder, list_folder(folder, reader.seen))
    else:
        reader.read_split("train", root, top)
    return to_raw(
        "folder",
        f"--root {root}",
        reader.photos,
        options,
        advice=f"pass the folder of {LAYOUTS}",
        rejects=reader.rejects,
        notes=[
            *_note("files lie in no folder of a class and are left out", reader.outside),
            *_note("folders hold no file and are no classes", reader.without_files),
        ],
        provenance={"root": root.resolve().name},
    )


class _Reader:
    """Collects the photographs of splits, and what is left out."""

    def __init__(self, root: Path) -> None:
        self.seen: Seen = set()
        self.photos: list[Photo] = []
        self.rejects: list[Reject] = []
        self.outside: list[str] = []
        self.without_files: list[str] = []
        self._root = root

    def read_split(self, split: str, folder: Path, listing: Listing) -> None:
        """Reads the folders of classes; a test split without them has images without labels."""
        if split == "test" and not listing.folders:
            self.photos += [Photo(split, self._name(path), path, ()) for path in listing.files]
            return
        if not listing.folders:
            raise DataError(
                f"{folder} holds no folder of a class, only {len(listing.files):,} files; put "
                f"photographs into {LAYOUTS}, or list them in a CSV file (data prepare csv)"
            )
        self.leave_out(split, listing)
        for class_folder in listing.folders:
            label = unicodedata.normalize("NFC", class_folder.name)
            found = [self._add(split, label, inner) for inner in walk(class_folder, self.seen)]
            if not any(found):
                self.without_files.append(self._name(class_folder))

    def leave_out(self, split: str, listing: Listing) -> None:
        """Notes the files beside the folders of classes, and rejects links that are loops."""
        self.outside += map(self._name, listing.files)
        self._reject(split, listing)

    def _add(self, split: str, label: str, listing: Listing) -> int:
        self._reject(split, listing)
        self.photos += [Photo(split, self._name(path), path, (label,)) for path in listing.files]
        return len(listing.files)

    def _reject(self, split: str, listing: Listing) -> None:
        self.rejects += [Reject(split, self._name(path), _READ_ALREADY) for path in listing.loops]

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _find_splits(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Maps each split to its folder; empty if the folders are classes."""
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
        return {}
    if others:
        raise DataError(
            f"{root} holds {name_some([*map(quote, others)])} beside the folders of splits "
            f"({', '.join(path.name for path in splits.values())}); move them into a split"
        )
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _note(text: str, names: Sequence[str]) -> list[str]:
    return [f"{len(names):,} {text}: {name_some([*map(quote, names)])}"] if names else []
