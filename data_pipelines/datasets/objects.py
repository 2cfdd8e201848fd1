"""Draws scenes labelled with their objects; the demo's backbone is pre-trained on them.

The folder holds images/*.jpg and labels.json: the classes and, per split, the names of the objects
in each picture.
"""

import functools
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.drawn import image_store
from data_pipelines.datasets.drawn.compositor import SceneSettings, compose_scene
from data_pipelines.datasets.drawn.scene import PERSON, Scene
from data_pipelines.datasets.drawn.things import KINDS
from data_pipelines.errors import DataError
from data_pipelines.example import Entry, RawData, RawSplit, Reject
from data_pipelines.files import sha256

LABELS = "labels.json"
CLASSES = (*KINDS, PERSON)
SIZES = {"train": 1920, "val": 240}

_CODES = {"train": 5, "val": 6}
_SETTINGS = SceneSettings(height=(0.5, 0.8), things=(1, 6), clutter=(2, 7), bystander_share=0.5)
_MIN_VISIBLE_SHARE = 0.4
_NO_PEOPLE = np.zeros((0, 16, 3), np.float32)


def draw_scene(seed: int, split: str, index: int) -> Scene:
    """Draws one scene; it depends on these arguments only."""
    return compose_scene(np.random.default_rng([seed, _CODES[split], index]), _SETTINGS)


def draw(
    folder: Path,
    *,
    seed: int = 0,
    sizes: Mapping[str, int] = SIZES,
    progress: image_store.Progress | None = None,
) -> None:
    """Draws the data set into a new folder, which appears only when it is complete."""
    image_store.check_request(seed, sizes, _CODES)
    splits: dict[str, dict[str, list[str]]] = {split: {} for split in sizes}
    draw_one = functools.partial(draw_scene, seed)
    with image_store.new_folder(folder) as partial:
        scenes = image_store.save_scenes(partial, _CODES, sizes, draw_one, progress)
        for split, _, name, scene in scenes:
            splits[split][f"{name}.jpg"] = _name_objects(scene)
        text = json.dumps({"classes": CLASSES, "splits": splits}, indent=1)
        (partial / LABELS).write_text(text + "\n", "utf-8")


def _name_objects(scene: Scene) -> list[str]:
    """Names the kinds of things that are visible enough."""
    return sorted({kind for kind, share in scene.items if share >= _MIN_VISIBLE_SHARE})


def read(folder: Path) -> RawData:
    """Reads the data set's description; an absent image is a reject."""
    path = folder / LABELS
    content = _parse(path)
    classes = tuple(content["classes"])
    splits, rejects = {}, []
    for split, pictures in content["splits"].items():
        entries = []
        for name, objects in pictures.items():
            image = folder / image_store.IMAGES / name
            if image.is_file():
                label = tuple(int(each in objects) for each in classes)
                entries.append(Entry(image.stem, image, label, _NO_PEOPLE))
            else:
                reason = f"has no file {name!r} among the images"
                rejects.append(Reject(split, image.stem, reason))
        splits[split] = RawSplit(len(pictures), len(pictures), len(entries), entries)
    provenance = {"labels_sha256": sha256(path)}
    return RawData("objects", "multi", classes, splits, rejects, provenance)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} is no objects data set: it holds no {LABELS}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); draw the data set again") from error
    fault = _find_fault(content)
    if fault:
        raise DataError(f"{path} is no list of objects: {fault}; draw the data set again")
    return content


def _find_fault(content: Any) -> str:
    """Returns the first fault of the labels, or an empty text."""
    if not isinstance(content, dict) or set(content) != {"classes", "splits"}:
        return "it does not hold exactly classes and splits"
    classes, splits = content["classes"], content["splits"]
    if not _are_names(classes) or not classes:
        return f"classes={reprlib.repr(classes)} are not different names"
    if not isinstance(splits, dict) or not splits:
        return f"splits={reprlib.repr(splits)} holds no split"
    seen: set[str] = set()
    for split, pictures in splits.items():
        if not isinstance(pictures, dict):
            return f"split {split!r} holds no pictures"
        for name, objects in pictures.items():
            if name != Path(name).name or not name.endswith(".jpg") or "\0" in name:
                return f"picture {name!r} of split {split!r} is no file name of a JPEG"
            if name in seen:
                return f"picture {name!r} is in two splits"
            seen.add(name)
            if not _are_names(objects) or not set(objects) <= set(classes):
                return f"picture {name!r} shows {reprlib.repr(objects)}, not different classes"
    return ""


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(each, str) for each in value)
        and len(set(value)) == len(value)
    )
