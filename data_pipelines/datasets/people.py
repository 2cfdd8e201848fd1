"""Draws people who perform eight actions: the embedded data set, in the format of MPII.

The folder holds images/*.jpg, annotations.mat, splits/images_mpii_{train,val,test}.txt and, in
addition to MPII, masks.npz: per image 1 on the actor, 2 on the thing that the actor holds.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.core.errors import ConfigError
from data_pipelines.datasets.drawn import image_store, release
from data_pipelines.datasets.drawn.actions import ACTIONS
from data_pipelines.datasets.drawn.compositor import SceneSettings, compose_scene
from data_pipelines.datasets.drawn.scene import Scene

ANNOTATIONS, SPLITS, MASKS = "annotations.mat", "splits", "masks.npz"
SIZES = {"train": 1600, "val": 480, "test": 160}
DIFFICULTIES = {  # height, things, clutter, share of scenes with a bystander
    "easy": SceneSettings((0.62, 0.78), (1, 3), (2, 4), 0.15),
    "default": SceneSettings((0.50, 0.72), (3, 7), (4, 9), 0.35),
    "hard": SceneSettings((0.36, 0.54), (5, 10), (6, 12), 0.6),
}

_CODES = {"train": 1, "val": 2, "test": 3}
_UNLABELLED_SPLIT = "test"
_LABEL_STREAM = 1
_FRAMES_PER_VIDEO = 4


def choose_action(seed: int, split: str, index: int) -> str:
    """Chooses the actor's action; each block of eight images has every action once."""
    block, position = divmod(index, len(ACTIONS))
    order = np.random.default_rng([seed, _CODES[split], block, _LABEL_STREAM])
    return tuple(ACTIONS)[order.permutation(len(ACTIONS))[position]]


def draw_scene(seed: int, split: str, index: int, difficulty: str = "default") -> Scene:
    """Draws one scene; it depends on these arguments only, not on the number of images."""
    rng = np.random.default_rng([seed, _CODES[split], index])
    action = ACTIONS[choose_action(seed, split, index)]
    return compose_scene(rng, DIFFICULTIES[difficulty], action)


def draw(
    folder: Path,
    *,
    seed: int = 0,
    difficulty: str = "default",
    sizes: Mapping[str, int] = SIZES,
) -> None:
    """Draws the data set into a new folder, which appears only when it is complete."""
    if difficulty not in DIFFICULTIES:
        raise ConfigError(f"difficulty={difficulty!r} is not one of {', '.join(DIFFICULTIES)}")
    rows: list[release.Row] = []
    masks: dict[str, np.ndarray] = {}
    lists: dict[str, list[str]] = {}
    draw_one = functools.partial(draw_scene, difficulty=difficulty)
    with image_store.drawing(folder, seed, sizes, _CODES, draw_one) as (partial, scenes):
        for split, index, name, scene in scenes:
            masks[name] = scene.mask
            lists.setdefault(split, []).append(name)
            activity = None
            if split != _UNLABELLED_SPLIT:
                action = choose_action(seed, split, index)
                category, act_ids, *_ = ACTIONS[action]
                activity = release.Activity(category, action, act_ids[index % len(act_ids)])
            video = f"{split}{index // _FRAMES_PER_VIDEO:06d}"
            rows.append(release.Row(f"{name}.jpg", scene.people, activity, video))
        release.save(partial / ANNOTATIONS, rows)
        np.savez_compressed(partial / MASKS, allow_pickle=False, **masks)
        (partial / SPLITS).mkdir()
        for split, names in lists.items():
            text = "".join(f"{name}\n" for name in names)
            (partial / SPLITS / f"images_mpii_{split}.txt").write_bytes(text.encode())
