"""Draws pictures of two to four people, each with an action of their own.

The folder holds images/*.jpg, masks.npz (per image 1 + 2 i on person i, 2 + 2 i on what person i
holds) and people.json, in COCO's form: the box and the action of each person. An image's label
names the actions of all its people.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.core.files import sha256
from data_pipelines.datasets.drawn import image_store
from data_pipelines.datasets.drawn.actions import ACTIONS
from data_pipelines.datasets.drawn.compositor import CROWD, SceneSettings, compose_crowd
from data_pipelines.datasets.drawn.scene import Person, Scene
from data_pipelines.datasets.joints import PERSON
from data_pipelines.example import (
    HIDDEN,
    VISIBLE,
    Entry,
    RawData,
    RawSplit,
)

MASKS, PEOPLE = "masks.npz", "people.json"
CLASSES = tuple(ACTIONS)
SIZES = {"train": 1600, "val": 480}
PEOPLE_OF_IMAGE = (2, 4)

_CODES = {"train": 7, "val": 8}
_ACTION_STREAM = 1
_SETTINGS = SceneSettings(height=(0.36, 0.44), things=(1, 4), clutter=(3, 7), bystander_share=0)


def choose_actions(seed: int, split: str, index: int) -> tuple[int, ...]:
    """Chooses the different actions of the people of a scene, by their class ids."""
    rng = np.random.default_rng([seed, _CODES[split], index, _ACTION_STREAM])
    count = rng.integers(*PEOPLE_OF_IMAGE, endpoint=True)
    return tuple(rng.permutation(len(CLASSES))[:count].tolist())


def draw_scene(seed: int, split: str, index: int) -> Scene:
    """Draws one scene; it depends on these arguments only."""
    actions = [ACTIONS[CLASSES[each]] for each in choose_actions(seed, split, index)]
    return compose_crowd(np.random.default_rng([seed, _CODES[split], index]), _SETTINGS, actions)


def draw(folder: Path, *, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> RawData:
    """Draws the data set into a new folder, which appears only when it is complete."""
    entries: dict[str, list[Entry]] = {split: [] for split in sizes}
    masks: dict[str, np.ndarray] = {}
    with image_store.drawing(folder, seed, sizes, _CODES, draw_scene) as (partial, scenes):
        for split, index, name, scene in scenes:
            masks[name] = np.maximum(scene.owner, CROWD - 1) - (CROWD - 1)
            actions = choose_actions(seed, split, index)
            label = np.zeros(len(CLASSES), np.int8)
            label[list(actions)] = 1
            owners = CROWD + 2 * np.arange(len(actions))
            entry = Entry(
                name,
                folder / image_store.IMAGES / f"{name}.jpg",
                label,
                np.stack([_keypoints(person) for person in scene.people]),
                boxes=np.array([_extent(scene.owner == each) for each in owners], np.float32),
                person_labels=actions,
            )
            entries[split].append(entry)
        listed = [each for of_split in entries.values() for each in of_split]
        (partial / PEOPLE).write_text(json.dumps(_to_coco(listed), indent=1) + "\n", "utf-8")
        np.savez_compressed(partial / MASKS, allow_pickle=False, **masks)
    splits = {split: RawSplit(size, size, size, entries[split]) for split, size in sizes.items()}
    provenance = {"people_sha256": sha256(folder / PEOPLE)}
    note = f"{folder.name}/{PEOPLE} has the box and the action of each person"
    return RawData("crowd", "multi", CLASSES, splits, [], provenance, notes=[note])


def _keypoints(person: Person) -> Float[np.ndarray, "16 3"]:
    visibility = np.where(person.visible, VISIBLE, HIDDEN)
    return np.concatenate([person.joints, visibility[:, None]], 1).astype(np.float32)


def _extent(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Returns the box of a mask; zeros for an empty one."""
    if not mask.any():
        return 0, 0, 0, 0
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _to_coco(entries: list[Entry]) -> dict[str, Any]:
    """Lists the boxes and actions of all people in COCO's form."""
    images, annotations = [], []
    for number, entry in enumerate(entries):
        images.append({"id": number, "file_name": entry.path.name})
        if entry.boxes is None or entry.person_labels is None:
            continue
        for box, action in zip(entry.boxes, entry.person_labels, strict=True):
            left, top, right, bottom = box.tolist()
            bbox = [left, top, right - left, bottom - top]
            annotations.append(
                {
                    "image_id": number,
                    "category_id": 1,
                    "bbox": bbox,
                    "action": CLASSES[action],
                }
            )
    categories = [{"id": 1, "name": PERSON}]
    return {"images": images, "annotations": annotations, "categories": categories}
