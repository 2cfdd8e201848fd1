"""Reads the published split lists of MPII, or derives splits from the annotations."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import read_bounded
from data_pipelines.datasets.mpii_mat import Annotation

SPLITS = ("train", "val", "test")
MAX_BYTES = 16 * 2**20  # of a list
TRAIN_SHARE = 8219 / (8219 + 6988)
OFFICIAL_SHA256 = {
    "train": "9b364f8c7c4a3f306c787e2b057afcbafd44ad991cd6e31a1026a3f7ce774042",
    "val": "0b8339985f8b163868a59bdaa572a34992f524fcf024e146700ac0ec178177d9",
    "test": "b5ac700f9183c37d2ac835f50b49b0be4c1a05d16cf9634cd74d26de967ce64a",
}
SOURCE = (
    "fetch images_mpii_{train,val,test}.txt from src/data/mpii/lists of "
    "github.com/rohitgirdhar/AttentionalPoolingAction (commit 2ac917d), or derive the splits"
)


def strip_suffix(name: str) -> str:
    """Removes the suffix of a JPEG or PNG file from a name."""
    return re.sub(r"\.(jpe?g|png)\Z", "", name, flags=re.IGNORECASE)


def read_lists(folder: Path) -> dict[str, list[str]]:
    """Reads the image stems of each list in `folder`; the test list may be absent."""
    lists: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"images_mpii_{split}.txt"
        if split == "test" and not path.exists():
            continue
        lists[split] = _read_list(path)
        for name in lists[split]:
            if name in owner:
                raise DataError(
                    f"{path} lists {name!r}, which is already in the {owner[name]} list; "
                    f"remove one, or {SOURCE}"
                )
            owner[name] = split
    return lists


def _read_list(path: Path) -> list[str]:
    try:
        lines = read_bounded(path, MAX_BYTES).decode("utf-8-sig").splitlines()
    except (DataError, UnicodeDecodeError) as error:
        reason = error if isinstance(error, DataError) else "not UTF-8 text"
        raise DataError(f"{path} cannot be read ({reason}); {SOURCE}") from error
    names = [strip_suffix(line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} lists no image; {SOURCE}")
    return names


def digest_list(names: Sequence[str]) -> str:
    """Computes the SHA-256 of a list in its published form: one stem per line."""
    return hashlib.sha256(
        "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
    ).hexdigest()


def is_official(lists: Mapping[str, Sequence[str]]) -> bool:
    """Tells whether these are the lists of the published numbers."""
    return {split: digest_list(names) for split, names in lists.items()} == OFFICIAL_SHA256


def derive_lists(annotations: Sequence[Annotation], seed: int) -> dict[str, list[str]]:
    """Derives splits by MPII's own rule; `seed` decides which videos are in train and val.

    It uses images with a sufficiently separated person, and of MPII's training images only those
    with an action. Frames of one video stay together.
    """
    used = [row for row in annotations if row.single_people]
    labelled = [row for row in used if row.is_train and row.act_id > 0]
    videos: dict[str, list[Annotation]] = {}
    for row in labelled:
        videos.setdefault(f"{row.vididx}" if row.vididx else row.name, []).append(row)
    in_train: set[int] = set()
    for video in sorted(videos, key=lambda video: digest_list([f"{seed}", video])):
        if len(in_train) < TRAIN_SHARE * len(labelled):
            in_train.update(row.source_index for row in videos[video])
    lists = {
        "train": [strip_suffix(row.name) for row in labelled if row.source_index in in_train],
        "val": [strip_suffix(row.name) for row in labelled if row.source_index not in in_train],
        "test": [strip_suffix(row.name) for row in used if not row.is_train],
    }
    if not lists["train"] or not lists["val"]:
        raise DataError(
            f"no train and val splits can be derived from {len(labelled)} labelled images of "
            f"{len(videos)} videos; pass the lists instead"
        )
    return {split: names for split, names in lists.items() if names}
