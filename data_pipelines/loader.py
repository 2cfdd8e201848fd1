"""Prepared records become batches; a training batch is a pure function of (seed, step).

Grain draws the order, and each record's random numbers, from the record's place in the endless
sequence, and batches are cut from that sequence before it is split among processes and workers:
neither can change what a batch holds.
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

from data_pipelines import faults, records
from data_pipelines.config import DataConfig
from data_pipelines.decode import decode
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.example import JOINTS, PADDING_ID, HostBatch, LabelKind
from data_pipelines.manifest import Manifest, is_labelled
from data_pipelines.transforms import View, augment, begin, evaluation_views
from data_pipelines.workers import BUFFERED_BATCHES, ImageBlocks, refuse_lost_worker, start_worker

EPOCHS = 2**32  # endless; Grain's own endlessness overflows in batches of one row
MOST_THREADS = 8  # beyond these, Python's lock eats what another decoding thread adds
SAMPLED_IMAGES = 32  # whose decoded size stands for all


class Place(NamedTuple):
    """What a row of a batch shows: a record's position, and the seed of its random crop."""

    position: int
    seed: int | None = None


class Whole(NamedTuple):
    """A decoded record before anything random happens to it."""

    view: View
    label: int | np.ndarray
    weight: float


class Batches(Iterator[HostBatch]):
    """Batches in order; close it, or use it in a `with`, to end its threads and workers."""

    def __init__(self, dataset: grain.IterDataset[Any], blocks: ImageBlocks | None = None) -> None:
        self._iterator: grain.DatasetIterator[Any] | None = iter(dataset)
        self._blocks = blocks

    def __next__(self) -> HostBatch:
        if self._iterator is None:
            raise StopIteration
        try:
            address, batch = next(self._iterator)
            if self._blocks is None or address is None:
                return batch
            return batch._replace(image=self._blocks.copy_out(address))
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
    """The endless batches of this process (index, count), from the global step `start_step` on."""
    share = _share("train.batch_size", batch_size, process)
    rows = Rows(data, manifest, data.train_split)
    if data.cache == "ram":
        rows.keep_decoded()
    sequence = grain.MapDataset.range(len(rows)).seed(seed).shuffle().repeat(EPOCHS)
    return _run(sequence.random_map(_random_place), rows, data, share, process, start_step)


def evaluation_batches(
    data: DataConfig,
    manifest: Manifest,
    *,
    batch_size: int,
    max_examples: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Batches:
    """The views of every record once, or of `max_examples` spread evenly over the split.

    Each process gets equally many full batches; rows with id -1 and weight 0 fill the last ones. An
    image has an axis of views before its own where `data.eval_views` are several.
    """
    share = _share("eval.batch_size", batch_size, process)
    rows = Rows(data, manifest, data.eval_split, views=data.eval_views)
    examples = min(len(rows), max_examples or len(rows))
    padded = math.ceil(examples / batch_size) * batch_size
    central = functools.partial(_central_place, examples, len(rows))
    sequence = grain.MapDataset.range(padded).map(central)
    return _run(sequence, rows, data, share, process, 0)


def _share(name: str, batch_size: int, process: tuple[int, int]) -> int:
    """The rows of each batch that one process makes."""
    _, count = process
    if batch_size % count:
        below = batch_size // count * count
        better = f"{below} or {below + count}" if below else str(count)
        raise ConfigError(
            f"{name}={batch_size} is not divisible by {count} processes; use {better}"
        )
    return batch_size // count


def _random_place(position: int, rng: np.random.Generator) -> Place:
    return Place(position, int(rng.integers(2**63)))


def _central_place(examples: int, stored: int, index: int) -> Place:
    return Place(index * stored // examples if index < examples else PADDING_ID)


def _run(
    places: grain.MapDataset[Place],
    rows: "Rows",
    data: DataConfig,
    share: int,
    process: tuple[int, int],
    start_step: int,
) -> Batches:
    """Cuts the sequence into batches, picks this process's, and fills them ahead of need."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads flags, and a library's caller may have none
    index, count = process
    blocks = ImageBlocks(data.workers, rows.image_shape(share)) if data.workers else None
    batch_fn = functools.partial(fill, rows, blocks)
    mine = slice(index + start_step * count, None, count)
    batches = places.batch(share, batch_fn=batch_fn)[mine]
    if blocks is None:
        cores = available_cores()
        threads = min(MOST_THREADS, cores) if cores > 1 else 0  # a single core: no detour
        return Batches(batches.to_iter_dataset(grain.ReadOptions(threads, threads)))
    options = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)  # small: through a pipe
    ahead = grain.experimental.WithOptionsIterDataset(
        batches.to_iter_dataset(grain.ReadOptions(0, 0)), options
    )
    parallel = grain.MultiprocessingOptions(data.workers, BUFFERED_BATCHES)
    return Batches(ahead.mp_prefetch(parallel, start_worker), blocks)


def fill(
    rows: "Rows", blocks: ImageBlocks | None, places: Sequence[Place]
) -> tuple[tuple[int, int] | None, HostBatch]:
    """A batch, and the address of its images where they stay behind in shared memory."""
    address = blocks.find_free() if blocks else None
    if blocks is None or address is None:
        return None, rows.batch(places, np.empty(rows.image_shape(len(places)), np.uint8))
    batch = rows.batch(places, blocks.images(address))
    return address, batch._replace(image=batch.image[:0].copy())


def available_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """The bytes that could be used without making the machine swap."""
    try:
        table = Path("/proc/meminfo").read_text("ascii")
        return int(table.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux: all that is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Rows:
    """The records of a split, decoded and cropped into the rows of batches."""

    def __init__(self, data: DataConfig, manifest: Manifest, split: str, *, views: int = 1) -> None:
        self._data = data
        self._views = (views,) if views > 1 else ()
        self._split = split
        self._label_kind: LabelKind = manifest.label_kind
        self._classes = len(manifest.classes)
        self._people = manifest.max_people
        self._records = records.open_split(data.directory, split, manifest)
        self._kept: dict[int, Whole] | None = None

    def __len__(self) -> int:
        return len(self._records)

    def keep_decoded(self) -> None:
        """From now on decodes each image once, if memory will hold them all."""
        self._kept = {}
        sample = np.linspace(0, len(self) - 1, SAMPLED_IMAGES).astype(int).tolist()
        needed = len(self) * float(np.mean([self._whole(i).view.image.nbytes for i in sample]))
        free = available_memory()
        if needed > free:
            raise ConfigError(
                f"data.cache=ram needs about {needed / 2**30:,.1f} GiB for split {self._split!r} "
                f"and {free / 2**30:,.1f} GiB are free; use data.cache=none"
            )

    def image_shape(self, rows: int) -> tuple[int, ...]:
        """The shape of a batch's images."""
        return rows, *self._views, self._data.image_size_px, self._data.image_size_px, 3

    def batch(
        self, places: Sequence[Place], images: UInt8[np.ndarray, "b *views h w 3"]
    ) -> HostBatch:
        """A batch in the memory given; each crop is copied there once, while it is hot."""
        batch = self._empty(images)
        for row, place in enumerate(places):
            if place.position == PADDING_ID:
                batch.image[row] = 0
                continue
            whole = self._whole(place.position)
            if place.seed is None:
                views = evaluation_views(whole.view, self._data)
            else:
                views = [augment(whole.view, self._data, np.random.default_rng(place.seed))]
            squares = batch.image[row].reshape(len(views), *batch.image.shape[-3:])
            for square, each in zip(squares, views, strict=True):
                square[:] = each.image
            view = views[0]
            batch.keypoints[row, : len(view.keypoints)] = view.keypoints
            batch.disc_radius[row] = view.disc_radius
            batch.label[row] = whole.label
            batch.weight[row] = whole.weight
            batch.id[row] = place.position
        return batch

    def _empty(self, images: UInt8[np.ndarray, "b *views h w 3"]) -> HostBatch:
        rows, single = len(images), self._label_kind == "single"
        return HostBatch(
            image=images,
            keypoints=np.zeros((rows, self._people, len(JOINTS), 3), np.float32),
            disc_radius=np.zeros(rows, np.float32),
            label=np.zeros(rows, np.int32) if single else np.zeros((rows, self._classes), np.int8),
            weight=np.zeros(rows, np.float32),
            id=np.full(rows, PADDING_ID, np.int64),
        )

    def _whole(self, position: int) -> Whole:
        if self._kept is not None and position in self._kept:
            return self._kept[position]
        record = self._records[position]
        faults.point("loader.decode")
        try:
            whole = self._decoded(record)
        except DataError as error:
            raise DataError(
                f"record {position} ({record['id']!r}) of split {self._split!r} in "
                f"{self._data.directory}: {error}; prepare the data again"
            ) from error
        if self._kept is not None:
            self._kept[position] = whole
        return whole

    def _decoded(self, record: records.Record) -> Whole:
        label, people = record["label"], record["keypoints"]
        fault = records.label_fault(label, self._label_kind, self._classes)
        if fault is None and len(people) > self._people:
            fault = f"it shows {len(people)} people and the manifest says at most {self._people}"
        if fault is not None:
            raise DataError(fault)
        view = begin(decode(record["image"]), people, self._data)
        if is_labelled(label):
            return Whole(view, label, 1.0)
        return Whole(view, 0, 0.0)
