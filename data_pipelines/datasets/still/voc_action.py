"""Reads Pascal VOC's action task: each person is an example with several labels.

ImageSets/Action/ACTION_{train,val}.txt has lines of image, number of the person in the image's XML
and 1, -1 or 0 (ambiguous); test.txt lists people without labels.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int8

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import quote, sha256
from data_pipelines.datasets.image_files import find_images
from data_pipelines.datasets.still.voc_xml import Person, read_people
from data_pipelines.datasets.text_lists import read_rows
from data_pipelines.example import (
    AMBIGUOUS,
    NEGATIVE,
    NO_PEOPLE,
    POSITIVE,
    UNKNOWN,
    Entry,
    RawData,
    RawSplit,
    Reject,
)

LISTS, IMAGES, BOXES = "ImageSets/Action", "JPEGImages", "Annotations"
GET_VOC = (
    "get VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, unpack "
    "it and pass its folder VOCdevkit/VOC2012"
)
VALUES = {"1": POSITIVE, "-1": NEGATIVE, "0": AMBIGUOUS}
LEFT_OUT = "other"  # not among the ten actions that are scored

PersonId = tuple[str, int]
Labels = dict[PersonId, Int8[np.ndarray, " k"]]


def read(root: Path) -> RawData:
    """Reads the people of the splits train, val and, where it is listed, test."""
    lists = root / LISTS
    if not lists.is_dir():
        raise DataError(f"--root {root} has no folder {LISTS}; {GET_VOC}")
    found = (path.name.removesuffix("_train.txt") for path in lists.glob("*_train.txt"))
    classes = tuple(sorted(name for name in found if name != LEFT_OUT))
    if not classes:
        raise DataError(f"{lists} holds no list ACTION_train.txt; {GET_VOC}")
    labels = {split: _read_labels(lists, split, classes) for split in ("train", "val")}
    if (lists / "test.txt").exists():
        unknown = np.full(len(classes), UNKNOWN, np.int8)
        rows = read_rows(lists / "test.txt", 2, GET_VOC)
        labels["test"] = {_person_id(lists / "test.txt", *row): unknown for row in rows}
    names = {f"{image}.jpg" for people in labels.values() for image, _ in people}
    paths = find_images(root / IMAGES, names, None)
    splits, rejects = {}, []
    annotations: dict[str, list[Person] | str] = {}
    for split, people in labels.items():
        entries = []
        for (image, number), label in people.items():
            if image not in annotations:
                annotations[image] = _read_annotation(root / BOXES / f"{image}.xml")
            objects, path = annotations[image], paths.get(f"{image}.jpg")
            name = f"{image}-{number}"
            if path is None:
                rejects.append(Reject(split, name, f"has no file in {IMAGES}"))
            elif isinstance(objects, str):
                rejects.append(Reject(split, name, objects))
            elif number > len(objects):
                fault = f"{image}.xml has {len(objects)} objects and no person {number}"
                rejects.append(Reject(split, name, fault))
            else:
                box = objects[number - 1].box
                entries.append(Entry(name, path, label, NO_PEOPLE, number, box_px=box))
        splits[split] = RawSplit(len(people), len(people), len(entries), entries)
    digests = [
        f"{path.name} {sha256(path)}"
        for path in sorted(lists.glob("*_train.txt")) + sorted(lists.glob("*_val.txt"))
    ]
    provenance = {"root": root.resolve().name, "crop": "person", "lists_sha256": digests}
    return RawData("voc_action", "multi", classes, splits, rejects, provenance)


def _read_labels(lists: Path, split: str, classes: tuple[str, ...]) -> Labels:
    """Reads the lists of all actions; a person whom a list lacks has an unknown label there."""
    labels: Labels = {}
    for index, action in enumerate(classes):
        path = lists / f"{action}_{split}.txt"
        for image, number, value in read_rows(path, 3, GET_VOC):
            person = _person_id(path, image, number)
            if value not in VALUES:
                raise DataError(f"{path} gives {image} {number} the label {quote(value)}, not ±1")
            label = labels.setdefault(person, np.full(len(classes), UNKNOWN, np.int8))
            if label[index] != UNKNOWN:
                raise DataError(f"{path} lists {image} {number} twice; keep one line")
            label[index] = VALUES[value]
    return labels


def _person_id(path: Path, image: str, number: str) -> PersonId:
    if not (number.isascii() and number.isdigit() and int(number[:9]) > 0):
        raise DataError(f"{path} gives {image} the person {quote(number)}, not 1, 2, ...")
    if Path(image).name != image:
        raise DataError(f"{path} lists {quote(image)}, which is no name of an image")
    return image, int(number[:9])


def _read_annotation(path: Path) -> list[Person] | str:
    """Returns the objects of an image, or what is wrong."""
    try:
        return read_people(path)
    except DataError as error:
        return str(error)
