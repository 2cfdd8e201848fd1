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
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.decode import decode
from data_pipelines.example import JOINTS, PADDING_ID, HostBatch
from data_pipelines.manifest import Manifest, is_labelled
from data_pipelines.transforms import View, augment, evaluation_views, make_view

SAMPLED_IMAGES = 32  # to estimate the size of all decoded images


class RowSpec(NamedTuple):
    """Specifies a row of a batch: a record's position and the seed of its random crop."""

    position: int
    seed: int | None = None


def available_memory() -> int:
    """Returns the bytes of memory that are available without swapping."""
    try:
        table = Path("/proc/meminfo").read_text("ascii")
        return int(table.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux: total memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def blank_batch(manifest: Manifest, images: np.ndarray) -> HostBatch:
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
    )


def label_row(batch: HostBatch, row: int, position: int, label: Any) -> None:
    """Writes a record's position and label into a row; without a label its weight is 0."""
    batch.label[row] = label if batch.label.ndim == 2 or is_labelled(label) else 0
    batch.weight[row] = is_labelled(label)
    batch.id[row] = position


class Rows:
    """Decodes and crops the records of a split into rows of batches."""

    def __init__(self, data: DataConfig, manifest: Manifest, split: str, *, views: int = 1) -> None:
        self._data = data
        self._views = (views,) if views > 1 else ()
        self._manifest = manifest
        self._records = records.open_split(data.directory, split, manifest)
        self._cache: dict[int, tuple[View, Any]] | None = None

    def __len__(self) -> int:
        return len(self._records)

    def cache_decoded(self) -> None:
        """Caches decoded images from now on; refuses if they do not fit into memory."""
        self._cache = {}
        sample = np.linspace(0, len(self) - 1, SAMPLED_IMAGES).astype(int).tolist()
        needed = len(self) * float(np.mean([self.read(i)[0].image.nbytes for i in sample]))
        free = available_memory()
        if needed > free:
            raise ConfigError(
                f"data.cache=ram needs about {needed / 2**30:,.1f} GiB for {self._records.name} "
                f"and {free / 2**30:,.1f} GiB are free; use data.cache=none"
            )

    image_type = np.dtype(np.uint8)

    def image_shape(self, rows: int) -> tuple[int, ...]:
        return rows, *self._views, self._data.image_size_px, self._data.image_size_px, 3

    def batch(
        self, specs: Sequence[RowSpec], images: UInt8[np.ndarray, "b *views h w 3"]
    ) -> HostBatch:
        """Fills a batch whose images lie in the given memory."""
        batch = blank_batch(self._manifest, images)
        for row, spec in enumerate(specs):
            if spec.position == PADDING_ID:
                batch.image[row] = 0
                continue
            whole, label = self.read(spec.position)
            if spec.seed is None:
                views = evaluation_views(whole, self._data)
            else:
                views = [augment(whole, self._data, np.random.default_rng(spec.seed))]
            squares = batch.image[row].reshape(len(views), *batch.image.shape[-3:])
            np.stack([each.image for each in views], out=squares)
            view = views[0]
            batch.keypoints[row, : len(view.keypoints)] = view.keypoints
            batch.disc_radius[row] = view.disc_radius
            label_row(batch, row, spec.position, label)
        return batch

    def read(self, position: int) -> tuple[View, Any]:
        """Reads and decodes a record, or takes it from the cache; returns its view and label."""
        if self._cache is not None and position in self._cache:
            return self._cache[position]
        record = self._records[position]
        faults.point("loader.decode")
        try:
            decoded = self._decode(record)
        except DataError as error:
            raise DataError(
                f"record {position} ({record['id']!r}) of {self._records.name}: {error}; "
                "prepare the data again"
            ) from error
        if self._cache is not None:
            self._cache[position] = decoded
        return decoded

    def _decode(self, record: records.Record) -> tuple[View, Any]:
        label, people = record["label"], record["keypoints"]
        manifest, most = self._manifest, self._manifest.max_people
        fault = records.find_label_fault(label, manifest.label_kind, len(manifest.classes))
        if fault is None and len(people) > most:
            fault = f"it shows {len(people)} people and the manifest says at most {most}"
        if fault:
            raise DataError(fault)
        image = decode(record["image"], upright=manifest.exif_applied)
        return make_view(image, people, self._data), label
