"""Reads Stanford40: ImageSplits/ACTION_{train,test}.txt, JPEGImages/, XMLAnnotations/."""

from pathlib import Path

from data_pipelines.core.errors import DataError, name_some
from data_pipelines.core.files import quote
from data_pipelines.datasets.image_files import find_images
from data_pipelines.datasets.mpii_splits import digest_list
from data_pipelines.datasets.still.voc_xml import read_people
from data_pipelines.datasets.text_lists import read_rows
from data_pipelines.example import NO_PEOPLE, Box, Entry, RawData, RawSplit, Reject

IMAGES, LISTS, BOXES = "JPEGImages", "ImageSplits", "XMLAnnotations"
GET_STANFORD40 = (
    "get Stanford40_{JPEGImages,ImageSplits,XMLAnnotations}.zip from "
    "http://vision.stanford.edu/Datasets/40actions.html and unpack them into one folder"
)


def read(root: Path, *, crop_people: bool = False) -> RawData:
    """Reads the data set; with `crop_people` a record holds the person's box, not the image."""
    lists = root / LISTS
    if not lists.is_dir():
        raise DataError(f"--root {root} has no folder {LISTS}; {GET_STANFORD40}")
    listed = {split: _read_split(lists, split) for split in ("train", "test")}
    classes = sorted({action for actions in listed.values() for action in actions.values()})
    if not classes:
        raise DataError(f"{lists} holds no list ACTION_train.txt; {GET_STANFORD40}")
    paths = find_images(root / IMAGES, [name for names in listed.values() for name in names], None)
    rejects: list[Reject] = []
    splits = {}
    for split, actions in listed.items():
        entries = []
        for name, action in actions.items():
            box, fault = None, None if name in paths else f"has no file in {IMAGES}"
            if crop_people and fault is None:
                box, fault = _read_box(root / BOXES / f"{Path(name).stem}.xml", action)
            if fault is None:
                label = classes.index(action)
                entries.append(Entry(name, paths[name], label, NO_PEOPLE, box_px=box))
            else:
                rejects.append(Reject(split, name, fault))
        splits[split] = RawSplit(len(actions), len(actions), len(entries), entries)
    return RawData(
        "stanford40",
        "single",
        tuple(classes),
        splits,
        rejects,
        {"root": root.resolve().name, "crop": "person" if crop_people else "none"}
        | {"list_sha256": [f"{split} {_digest(names)}" for split, names in listed.items()]},
    )


def _read_split(lists: Path, split: str) -> dict[str, str]:
    """Maps each image of a split to its action, in the order of SPLIT.txt or of the actions."""
    suffix = f"_{split}.txt"
    action_of: dict[str, str] = {}
    for path in sorted(lists.glob(f"*{suffix}")):
        action = path.name.removesuffix(suffix)
        for (name,) in read_rows(path, 1, GET_STANFORD40):
            if action_of.setdefault(name, action) != action:
                raise DataError(
                    f"{path} lists {quote(name)}, which is already in the list of "
                    f"{quote(action_of[name])}; keep one"
                )
    whole = lists / f"{split}.txt"
    if not whole.exists():
        return action_of
    names = [name for (name,) in read_rows(whole, 1, GET_STANFORD40)]
    if different := sorted(set(names) ^ set(action_of)):
        raise DataError(
            f"{whole} and the lists of its actions differ in {len(different):,} images: "
            f"{name_some([*map(quote, different)])}; {GET_STANFORD40}"
        )
    return {name: action_of[name] for name in names}


def _read_box(path: Path, action: str) -> tuple[Box | None, str | None]:
    """Returns the box of the person who does the action, or what is wrong."""
    try:
        people = read_people(path)
    except DataError as error:
        return None, str(error)
    doing = [person for person in people if person.texts.get("action") == action]
    if len(doing) != 1:
        return None, f"{path.name} has {len(doing)} boxes of {quote(action)}, not one"
    return doing[0].box, None


def _digest(actions: dict[str, str]) -> str:
    return digest_list([f"{name} {action}" for name, action in actions.items()])
