"""Reads Stanford40: ImageSplits/ACTION_{train,test}.txt, JPEGImages/, XMLAnnotations/."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.core.errors import DataError, name_some
from data_pipelines.core.files import quote
from data_pipelines.datasets.image_files import find_images
from data_pipelines.datasets.mpii_splits import digest_list
from data_pipelines.datasets.still.lists import read_rows
from data_pipelines.datasets.still.voc_xml import read_people
from data_pipelines.example import UNLABELLED, Box, Entry, RawData, RawSplit, Reject

IMAGES, LISTS, BOXES = "JPEGImages", "ImageSplits", "XMLAnnotations"
GET_STANFORD40 = (
    "get Stanford40_{JPEGImages,ImageSplits,XMLAnnotations}.zip from "
    "http://vision.stanford.edu/Datasets/40actions.html and unpack them into one folder"
)
_NO_PEOPLE = np.zeros((0, 16, 3), np.float32)


def read(root: Path, *, crop_people: bool = False) -> RawData:
    """Reads the data set; with `crop_people` a record holds the person's box, not the image.

    Without the folder of annotations whole images have no people.
    """
    lists = root / LISTS
    if not lists.is_dir():
        raise DataError(f"--root {root} has no folder {LISTS}; {GET_STANFORD40}")
    listed = {split: _read_split(lists, split) for split in ("train", "test")}
    classes = sorted({action for actions in listed.values() for action in actions.values()})
    if not classes:
        raise DataError(f"{lists} holds no list ACTION_train.txt; {GET_STANFORD40}")
    paths = find_images(root / IMAGES, [name for names in listed.values() for name in names], None)
    rejects: list[Reject] = []
    has_boxes = (root / BOXES).is_dir()
    splits = {}
    for split, actions in listed.items():
        entries = []
        for name, action in actions.items():
            if name not in paths:
                rejects.append(Reject(split, name, f"has no file in {IMAGES}"))
                continue
            entry = Entry(name, paths[name], classes.index(action), _NO_PEOPLE)
            try:
                if crop_people:
                    entry = replace(entry, box_px=_find_box(_path(root, name), action))
                elif has_boxes:
                    entry = replace(entry, **_find_people(_path(root, name), classes))
            except DataError as error:
                rejects.append(Reject(split, name, str(error)))
                continue
            entries.append(entry)
        splits[split] = RawSplit(len(actions), len(actions), len(entries), entries)
    return RawData(
        "stanford40",
        "single",
        tuple(classes),
        splits,
        rejects,
        {"root": root.resolve().name, "crop": "person" if crop_people else "none"}
        | {"list_sha256": [f"{split} {_digest(names)}" for split, names in listed.items()]},
        notes=[] if has_boxes else [f"no folder {BOXES}: the images have no boxes of people"],
    )


def _read_split(lists: Path, split: str) -> dict[str, str]:
    """Maps each image of a split to its action, in the order of SPLIT.txt or of the actions."""
    suffix = f"_{split}.txt"
    action_of: dict[str, str] = {}
    for path in sorted(lists.glob(f"*{suffix}")):
        action = path.name.removesuffix(suffix)
        for (name,) in read_rows(path, (1,), GET_STANFORD40):
            if action_of.setdefault(name, action) != action:
                raise DataError(
                    f"{path} lists {quote(name)}, which is already in the list of "
                    f"{quote(action_of[name])}; keep one"
                )
    whole = lists / f"{split}.txt"
    if not whole.exists():
        return action_of
    names = [name for (name,) in read_rows(whole, (1,), GET_STANFORD40)]
    if different := sorted(set(names) ^ set(action_of)):
        raise DataError(
            f"{whole} and the lists of its actions differ in {len(different):,} images: "
            f"{name_some([*map(quote, different)])}; {GET_STANFORD40}"
        )
    return {name: action_of[name] for name in names}


def _path(root: Path, name: str) -> Path:
    return root / BOXES / f"{Path(name).stem}.xml"


def _find_box(path: Path, action: str) -> Box:
    """Returns the box of the person who does the action; refuses none or several."""
    doing = [person for person in read_people(path) if person.texts.get("action") == action]
    if len(doing) != 1:
        raise DataError(f"{path.name} has {len(doing)} boxes of {quote(action)}, not one")
    return doing[0].box


def _find_people(path: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the fields of an entry with everybody's box and action."""
    people = read_people(path)
    number = {action: index for index, action in enumerate(classes)}
    return {
        "keypoints": np.zeros((len(people), 16, 3), np.float32),
        "boxes": np.array([each.box for each in people], np.float32).reshape(-1, 4),
        "person_labels": tuple(
            number.get(each.texts.get("action", ""), UNLABELLED) for each in people
        ),
    }


def _digest(actions: dict[str, str]) -> str:
    return digest_list([f"{name} {action}" for name, action in actions.items()])
