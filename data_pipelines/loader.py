"""Makes batches of prepared records; a training batch is a pure function of (seed, step).

Grain draws the order and each record's random numbers from the record's index in the endless
sequence. The sequence is cut into batches before it is split among processes and workers, so
neither changes the content of a batch.
"""

import functools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from data_pipelines import records
from data_pipelines.config import DataConfig
from data_pipelines.core import faults
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.decode import decode
from data_pipelines.example import JOINTS, PADDING_ID, HostBatch
from data_pipelines.manifest import Manifest, is_labelled
from data_pipelines.transforms import View, augment, evaluation_views, make_view
from data_pipelines.workers import (
    BUFFERED_BATCHES,
    MAX_THREADS,
    ImageBlocks,
    available_cores,
    refuse_lost_worker,
    start_worker,
)

EPOCHS = 2**32  # endless; Grain's own infinite repeat overflows in batches of one row
SAMPLED_IMAGES = 32  # to estimate the size of all decoded images


class RowSpec(NamedTuple):
    """Specifies a row of a batch: a record's position and the seed of its random crop."""

    position: int
    seed: int | None = None


class Batches(Iterator[HostBatch]):
    """Iterates over batches; `close` or a `with` block ends its threads and workers."""

    def __init__(self, dataset: grain.IterDataset[Any], blocks: ImageBlocks | None = None) -> None:
        self._iterator: grain.DatasetIterator[Any] | None = iter(dataset)
        self._blocks = blocks

    def __next__(self) -> HostBatch:
        if self._iterator is None:
            raise StopIteration
        try:
            block, batch = next(self._iterator)
            if self._blocks is None or block is None:
                return batch
            return batch._replace(image=self._blocks.copy_out(block))
        except BaseException as error:
            self.close()
            refuse_lost_worker(error)
            raise

    def close(self) -> None:
        """Ends the threads and workers; closing twice does nothing."""
        if self._iterator is None:
            return
        self._iterator.close()
        self._iterator = None
        if self._blocks is not None:
            self._blocks.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def training_batches(
    data: DataConfig,
    manifest: Manifest,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Batches:
    """Makes the endless batches of this process (index, count) from step `start_step` on."""
    row_count = _rows_per_process("train.batch_size", batch_size, process[1])
    rows = Rows(data, manifest, data.train_split)
    if data.cache == "ram":
        rows.cache_decoded()
    sequence = grain.MapDataset.range(len(rows)).seed(seed).shuffle().repeat(EPOCHS)
    specs = sequence.random_map(_add_crop_seed)
    return _make_batches(specs, rows, data, row_count, process, start_step)


def evaluation_batches(
    data: DataConfig,
    manifest: Manifest,
    *,
    batch_size: int,
    max_examples: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Batches:
    """Makes batches with every record once, or `max_examples` spread evenly over the split.

    Each process gets equally many full batches; rows with id -1 and weight 0 pad the last ones. If
    `data.eval_views` is above 1, images have an axis of views after the batch axis.
    """
    row_count = _rows_per_process("eval.batch_size", batch_size, process[1])
    rows = Rows(data, manifest, data.eval_split, views=data.eval_views)
    examples = min(len(rows), max_examples or len(rows))
    padded = math.ceil(examples / batch_size) * batch_size
    spread = functools.partial(_spread_evenly, examples, len(rows))
    specs = grain.MapDataset.range(padded).map(spread)
    return _make_batches(specs, rows, data, row_count, process, 0)


def _rows_per_process(name: str, batch_size: int, count: int) -> int:
    if batch_size % count:
        below = batch_size // count * count
        better = f"{below} or {below + count}" if below else str(count)
        raise ConfigError(
            f"{name}={batch_size} is not divisible by {count} processes; use {better}"
        )
    return batch_size // count


def _add_crop_seed(position: int, rng: np.random.Generator) -> RowSpec:
    return RowSpec(position, int(rng.integers(2**63)))


def _spread_evenly(examples: int, stored: int, index: int) -> RowSpec:
    return RowSpec(index * stored // examples if index < examples else PADDING_ID)


def _make_batches(
    specs: grain.MapDataset[RowSpec],
    rows: "Rows",
    data: DataConfig,
    row_count: int,
    process: tuple[int, int],
    start_step: int,
) -> Batches:
    """Cuts the sequence into batches, selects those of this process and prefetches them."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads flags, which a library's caller may not parse
    index, count = process
    blocks = ImageBlocks(data.workers, rows.image_shape(row_count)) if data.workers else None
    batch_fn = functools.partial(fill_batch, rows, blocks)
    of_process = slice(index + start_step * count, None, count)
    batches = specs.batch(row_count, batch_fn=batch_fn)[of_process]
    if blocks is None:
        cores = available_cores()
        threads = min(MAX_THREADS, cores) if cores > 1 else 0
        return Batches(batches.to_iter_dataset(grain.ReadOptions(threads, threads)))
    options = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)  # through pipes
    dataset = grain.experimental.WithOptionsIterDataset(
        batches.to_iter_dataset(grain.ReadOptions(0, 0)), options
    )
    parallel = grain.MultiprocessingOptions(data.workers, BUFFERED_BATCHES)
    return Batches(dataset.mp_prefetch(parallel, start_worker), blocks)


def fill_batch(
    rows: "Rows", blocks: ImageBlocks | None, specs: Sequence[RowSpec]
) -> tuple[int | None, HostBatch]:
    """Fills a batch; returns the block of its images if they lie in shared memory, else None."""
    block = blocks.find_free() if blocks else None
    if blocks is None or block is None:
        return None, rows.batch(specs, np.empty(rows.image_shape(len(specs)), np.uint8))
    batch = rows.batch(specs, blocks.images(block))
    return block, batch._replace(image=batch.image[:0].copy())


def available_memory() -> int:
    """Returns the bytes of memory that are available without swapping."""
    try:
        table = Path("/proc/meminfo").read_text("ascii")
        return int(table.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux: total memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
        needed = len(self) * float(np.mean([self._read(i)[0].image.nbytes for i in sample]))
        free = available_memory()
        if needed > free:
            raise ConfigError(
                f"data.cache=ram needs about {needed / 2**30:,.1f} GiB for {self._records.name} "
                f"and {free / 2**30:,.1f} GiB are free; use data.cache=none"
            )

    def image_shape(self, rows: int) -> tuple[int, ...]:
        return rows, *self._views, self._data.image_size_px, self._data.image_size_px, 3

    def batch(
        self, specs: Sequence[RowSpec], images: UInt8[np.ndarray, "b *views h w 3"]
    ) -> HostBatch:
        """Fills a batch whose images lie in the given memory."""
        count, manifest = len(images), self._manifest
        single = manifest.label_kind == "single"
        multi_labels = count, len(manifest.classes)
        batch = HostBatch(
            image=images,
            keypoints=np.zeros((count, manifest.max_people, len(JOINTS), 3), np.float32),
            disc_radius=np.zeros(count, np.float32),
            label=np.zeros(count, np.int32) if single else np.zeros(multi_labels, np.int8),
            weight=np.zeros(count, np.float32),
            id=np.full(count, PADDING_ID, np.int64),
        )
        for row, spec in enumerate(specs):
            if spec.position == PADDING_ID:
                batch.image[row] = 0
                continue
            whole, label = self._read(spec.position)
            if spec.seed is None:
                views = evaluation_views(whole, self._data)
            else:
                views = [augment(whole, self._data, np.random.default_rng(spec.seed))]
            squares = batch.image[row].reshape(len(views), *batch.image.shape[-3:])
            np.stack([each.image for each in views], out=squares)
            view = views[0]
            batch.keypoints[row, : len(view.keypoints)] = view.keypoints
            batch.disc_radius[row] = view.disc_radius
            batch.label[row] = label if is_labelled(label) else 0
            batch.weight[row] = is_labelled(label)
            batch.id[row] = spec.position
        return batch

    def _read(self, position: int) -> tuple[View, Any]:
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
