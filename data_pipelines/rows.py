"""Fills the rows of batches from records: decodes, crops and labels them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from data_pipelines import records
from data_pipelines.config import DataConfig
from data_pipelines.core import faults
from data_pipelines.core.boxes import find_areas
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.core.regions import draw_regions, fix_regions
from data_pipelines.core.spread import spread_frames
from data_pipelines.decode import decode
from data_pipelines.example import (
    JOINTS,
    PADDING_ID,
    UNLABELLED,
    HostBatch,
    People,
    find_box_fault,
)
from data_pipelines.manifest import Manifest, is_labelled
from data_pipelines.transforms import View, augment, evaluation_views, make_view

SAMPLED_IMAGES = 32  # to estimate the size of all decoded images
# streams of a row's random numbers; the crop has those of its seed alone
FRAME_STREAM, REGION_STREAM = 1, 2


class RowSpec(NamedTuple):
    """Specifies a row of a batch: a record's position and the seed of its random crop.

    Without a seed, `frame` counts the evaluated frames of a video.
    """

    position: int
    seed: int | None = None
    frame: int = 0


def available_memory() -> int:
    """Returns the bytes of memory that are available without swapping."""
    try:
        table = Path("/proc/meminfo").read_text("ascii")
        return int(table.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux: total memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def blank_batch(
    manifest: Manifest, images: np.ndarray, with_people: DataConfig | None = None
) -> HostBatch:
    """Returns a batch of padding rows whose images lie in the given memory."""
    count, is_single = len(images), manifest.label_kind == "single"
    multi_labels = count, len(manifest.classes)
    return HostBatch(
        image=images,
        keypoints=np.zeros((count, manifest.max_people, len(JOINTS), 3), np.float32),
        disc_radius=np.zeros(count, np.float32),
        label=np.zeros(count, np.int32) if is_single else np.zeros(multi_labels, np.int8),
        weight=np.zeros(count, np.float32),
        id=np.full(count, PADDING_ID, np.int64),
        people=with_people and _blank_people(manifest, count, with_people),
    )


def _blank_people(manifest: Manifest, rows: int, data: DataConfig) -> People:
    """Returns rows whose one person, of unknown class, is the whole crop."""
    most = max(1, manifest.max_people)
    people = People(
        boxes=np.zeros((rows, most, 4), np.float32),
        regions=np.zeros((rows, most, data.regions, 4), np.float32),
        label=np.full((rows, most), UNLABELLED, np.int32),
    )
    people.boxes[:, 0, 2:] = data.image_size_px
    return people


def fill_people(
    people: People,
    row: int,
    boxes: np.ndarray,
    labels: np.ndarray,
    spec: RowSpec,
    data: DataConfig,
) -> None:
    """Writes the people of a crop into a row and draws their secondary regions.

    A row without a box in the crop keeps the whole crop as its person.
    """
    boxes = boxes.astype(np.float32)
    if (is_shown := find_areas(boxes) > 0).any():
        people.boxes[row, : len(boxes)] = boxes
        people.label[row, : len(boxes)] = np.where(is_shown, labels, UNLABELLED)
    if data.regions:
        drawn = people.boxes[row], data.image_size_px, data.regions, data.region_iou
        if spec.seed is None:
            people.regions[row] = fix_regions(*drawn)
        else:
            rng = np.random.default_rng([REGION_STREAM, spec.seed])
            people.regions[row] = draw_regions(*drawn, rng)


def label_row(batch: HostBatch, row: int, position: int, label: Any) -> None:
    """Writes a record's position and label into a row; without a label its weight is 0."""
    batch.label[row] = label if batch.label.ndim == 2 or is_labelled(label) else 0
    batch.weight[row] = is_labelled(label)
    batch.id[row] = position


def draw_frames(count: int, stored: int, seed: int) -> list[int]:
    """Draws one stored frame from each of `count` equal parts."""
    rng = np.random.default_rng([FRAME_STREAM, seed])
    ends = [part * stored // count for part in range(count + 1)]
    return rng.integers(ends[:-1], ends[1:]).tolist()


class Rows:
    """Decodes and crops the records of a split into rows of batches.

    With a `clip` above 1 an image is so many frames of a video, on an axis after that of views.
    `with_people` fills the boxes of people and their secondary regions, of the one view.
    """

    def __init__(
        self,
        data: DataConfig,
        manifest: Manifest,
        split: str,
        *,
        views: int = 1,
        clip: int = 1,
        with_people: bool = False,
    ) -> None:
        self._data = data
        self._with_people = with_people
        self._clip = clip
        self._axes = (*((views,) if views > 1 else ()), *((clip,) if clip > 1 else ()))
        self._manifest = manifest
        self._records = records.open_split(data.directory, split, manifest)
        self._cache: dict[tuple[int, int], tuple[View, Any]] | None = None

    def __len__(self) -> int:
        return len(self._records)

    def cache_decoded(self) -> None:
        """Caches decoded images from now on; refuses if they do not fit into memory."""
        self._cache = {}
        sample = np.linspace(0, len(self) - 1, SAMPLED_IMAGES).astype(int).tolist()
        each = float(np.mean([self.read(i)[0].image.nbytes for i in sample]))
        needed = len(self) * self._manifest.frames * each
        free = available_memory()
        if needed > free:
            raise ConfigError(
                f"data.cache=ram needs about {needed / 2**30:,.1f} GiB for {self._records.name} "
                f"and {free / 2**30:,.1f} GiB are free; use data.cache=none"
            )

    image_type = np.dtype(np.uint8)

    def image_shape(self, rows: int) -> tuple[int, ...]:
        return rows, *self._axes, self._data.image_size_px, self._data.image_size_px, 3

    def batch(
        self, specs: Sequence[RowSpec], images: UInt8[np.ndarray, "b *views h w 3"]
    ) -> HostBatch:
        """Fills a batch whose images lie in the given memory."""
        data, manifest = self._data, self._manifest
        batch = blank_batch(manifest, images, data if self._with_people else None)
        for row, spec in enumerate(specs):
            if spec.position == PADDING_ID:
                batch.image[row] = 0
                continue
            frames, label = self.read_frames(spec.position, self._choose_frames(spec))
            views = list(zip(*(self._crop(each, spec.seed) for each in frames), strict=True))
            crops = [each.image for of_view in views for each in of_view]
            np.stack(crops, out=batch.image[row].reshape(len(crops), *batch.image.shape[-3:]))
            view = views[0][len(frames) // 2]
            batch.keypoints[row, : len(view.keypoints)] = view.keypoints
            batch.disc_radius[row] = view.disc_radius
            if batch.people:
                fill_people(batch.people, row, view.boxes, view.person_labels, spec, data)
            label_row(batch, row, spec.position, label)
        return batch

    def _choose_frames(self, spec: RowSpec) -> list[int]:
        """Chooses the frames of a row: drawn from its seed, or for evaluation spread evenly."""
        stored = self._manifest.frames
        if stored == 1:
            return [0]
        if spec.seed is not None:
            return draw_frames(self._clip, stored, spec.seed)
        if self._clip > 1:
            return spread_frames(self._clip, stored)
        return [spread_frames(self._data.eval_frames, stored)[spec.frame]]

    def _crop(self, whole: View, seed: int | None) -> list[View]:
        """Makes the views of a frame; all frames of a clip are cropped and mirrored alike."""
        if seed is None:
            return evaluation_views(whole, self._data)
        return [augment(whole, self._data, np.random.default_rng(seed))]

    def read(self, position: int) -> tuple[View, Any]:
        """Reads a record; returns the view of its image, or of its first frame, and its label."""
        views, label = self.read_frames(position, [0])
        return views[0], label

    def read_frames(self, position: int, frames: Sequence[int]) -> tuple[list[View], Any]:
        """Reads and decodes frames of a record, or takes them from the cache; returns the label."""
        cache, keys = self._cache, [(position, frame) for frame in frames]
        if cache is not None and all(key in cache for key in keys):
            found = [cache[key] for key in keys]
            return [view for view, _ in found], found[0][1]
        record = self._records[position]
        faults.point("loader.decode")
        try:
            decoded = [self._decode(record, frame) for frame in frames]
        except DataError as error:
            raise DataError(
                f"record {position} ({record['id']!r}) of {self._records.name}: {error}; "
                "prepare the data again"
            ) from error
        if cache is not None:
            cache.update(zip(keys, decoded, strict=True))
        return [view for view, _ in decoded], record["label"]

    def _decode(self, record: records.Record, frame: int) -> tuple[View, Any]:
        label, people = record["label"], record["frame_keypoints"][frame]
        boxes, person_labels = record["boxes"], record["person_labels"]
        manifest, most = self._manifest, self._manifest.max_people
        fault = records.find_label_fault(label, manifest.label_kind, len(manifest.classes))
        if fault is None and len(people) > most:
            fault = f"it shows {len(people)} people and the manifest says at most {most}"
        if fault is None and manifest.has_boxes:
            fault = find_box_fault(boxes, person_labels, len(people), len(manifest.classes))
        if fault:
            raise DataError(fault)
        image = decode(record["frames"][frame], upright=manifest.exif_applied)
        return make_view(image, people, self._data, boxes, person_labels), label
