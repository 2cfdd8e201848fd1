"""Stores small prepared splits for the loader's tests, with any labels, people and bytes."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import xla_bridge
from PIL import Image

from data_pipelines import manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.core import boxes
from data_pipelines.example import HostBatch, LabelKind
from data_pipelines.loader import Batches
from data_pipelines.rows import Rows, RowSpec

CLASSES = ("a", "b", "c")
MOST_PEOPLE = 3
ARGUMENTS: dict[str, Any] = {"seed": 5, "batch_size": 4}


def photo(seed: int, width: int = 24, height: int = 18) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


def people(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    joints = rng.uniform(0, 18, (count, 16, 3)).astype(np.float32)
    joints[..., 2] = rng.integers(0, 3, (count, 16))
    joints[joints[..., 2] == 0] = 0
    return joints


def store(
    folder: Path,
    count: int,
    *,
    kind: LabelKind = "single",
    labels: Mapping[int, Any] | None = None,
    images: Mapping[int, bytes] | None = None,
    shown: Mapping[int, int] | None = None,
    has_boxes: bool = True,
) -> manifest.Manifest:
    """Stores a training split of `count` records; labels, images and people can be replaced.

    Everybody's box is that around the joints; the i-th person of an image is of class i. Without
    boxes the records are of format version 1.
    """
    single = kind == "single"
    stored = [
        {
            "id": f"é {index}.jpg",
            "image": (images or {}).get(index, photo(index)),
            "width_px": 24,
            "height_px": 18,
            "label": (labels or {}).get(
                index, index % 3 if single else np.eye(3, dtype=np.int8)[0]
            ),
            "keypoints": people((shown or {}).get(index, index % 3), index),
            "source_index": index + 1,
        }
        for index in range(count)
    ]
    for each in stored if has_boxes else []:
        each["boxes"] = boxes.clip(boxes.around_joints(each["keypoints"]), 24, 18)
        each["person_labels"] = np.arange(len(each["keypoints"]))
    shards = records.write(folder, kind, len(CLASSES), {"train": stored}, has_boxes=has_boxes)
    split = manifest.Split(count, count, count, (count, 0, 0), "", tuple(shards["train"]))
    described = manifest.Manifest(
        "people", kind, CLASSES, MOST_PEOPLE, {"train": split}, {}, format_version=1 + has_boxes
    )
    manifest.save(described, folder)
    return described


def config(folder: Path, **fields: Any) -> DataConfig:
    """Makes a config with crops of 12 pixels from the training split, also for evaluation."""
    small = {"root": str(folder), "image_size_px": 12, "short_side_px": 14, "eval_split": "train"}
    return DataConfig(**{**small, **fields}).resolved()


def take(batches: Batches, count: int) -> list[HostBatch]:
    """Takes the next batches and ends all threads and workers."""
    with batches:
        return [next(batches) for _ in range(count)]


def assert_same(ours: Sequence[HostBatch], theirs: Sequence[HostBatch]) -> None:
    """Asserts that batches have equal bits, types and shapes."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        arrays, twins = jax.tree.leaves_with_path(one), jax.tree.leaves(other)
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for (name, array), twin in zip(arrays, twins, strict=True):
            assert (array.dtype, array.shape) == (twin.dtype, twin.shape), name
            assert array.tobytes() == twin.tobytes(), name


def digest(batches: Sequence[HostBatch]) -> str:
    """Computes a digest of the batches' bytes."""
    state = hashlib.sha256()
    for batch in batches:
        for array in jax.tree.leaves(batch):
            state.update(array.tobytes())
    return state.hexdigest()


class WatchedRows(Rows):
    """Raises an error in a process that has initialised a backend of JAX."""

    def batch(self, specs: Sequence[RowSpec], images: np.ndarray) -> HostBatch:
        if xla_bridge.backends_are_initialized():
            raise RuntimeError("a decoding process has initialised a backend")
        return super().batch(specs, images)
