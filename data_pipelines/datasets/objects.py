"""Draws scenes labelled with their objects; the demo's backbone is pre-trained on them.

The folder holds images/*.jpg and labels.json: the classes and, per split, the names of the objects
in each picture.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.core.files import sha256
from data_pipelines.datasets.drawn import image_store
from data_pipelines.datasets.drawn.compositor import SceneSettings, compose_scene
from data_pipelines.datasets.drawn.scene import PERSON, Scene
from data_pipelines.datasets.drawn.things import KINDS
from data_pipelines.example import NO_PEOPLE, Entry, RawData, RawSplit

LABELS = "labels.json"
CLASSES = (*KINDS, PERSON)
SIZES = {"train": 1920, "val": 240}

_CODES = {"train": 5, "val": 6}
_SETTINGS = SceneSettings(height=(0.5, 0.8), things=(1, 6), clutter=(2, 7), bystander_share=0.5)
_MIN_VISIBLE_SHARE = 0.4


def draw_scene(seed: int, split: str, index: int) -> Scene:
    """Draws one scene; it depends on these arguments only."""
    return compose_scene(np.random.default_rng([seed, _CODES[split], index]), _SETTINGS)


def draw(folder: Path, *, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> RawData:
    """Draws the data set into a new folder, which appears only when it is complete."""
    objects: dict[str, dict[str, list[str]]] = {split: {} for split in sizes}
    entries: dict[str, list[Entry]] = {split: [] for split in sizes}
    with image_store.drawing(folder, seed, sizes, _CODES, draw_scene) as (partial, scenes):
        for split, _, name, scene in scenes:
            visible = {kind for kind, share in scene.items if share >= _MIN_VISIBLE_SHARE}
            objects[split][f"{name}.jpg"] = sorted(visible)
            label = tuple(int(each in visible) for each in CLASSES)
            image = folder / image_store.IMAGES / f"{name}.jpg"
            entries[split].append(Entry(name, image, label, NO_PEOPLE))
        text = json.dumps({"classes": CLASSES, "splits": objects}, indent=1)
        (partial / LABELS).write_text(text + "\n", "utf-8")
    splits = {split: RawSplit(size, size, size, entries[split]) for split, size in sizes.items()}
    provenance = {"labels_sha256": sha256(folder / LABELS)}
    return RawData("objects", "multi", CLASSES, splits, [], provenance)
