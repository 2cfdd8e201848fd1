"""Makes batches of prepared records; a training batch is a pure function of (seed, step).

Grain draws the order and each record's random numbers from the record's index in the endless
sequence. The sequence is cut into batches before it is split among processes and workers, so
neither changes the content of a batch.
"""

import functools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipelines.config import DataConfig
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.example import PADDING_ID, HostBatch
from data_pipelines.feature_maps import FeatureMaps, FeatureRows
from data_pipelines.manifest import Manifest
from data_pipelines.rows import Rows, RowSpec
from data_pipelines.workers import (
    BUFFERED_BATCHES,
    MAX_THREADS,
    ImageBlocks,
    available_cores,
    refuse_lost_worker,
    start_worker,
)

AnyRows = Rows | FeatureRows
HELD_OUT_SEED = 20  # the same part of the training split for every run, whatever its seed
EPOCHS = 2**32  # endless; Grain's own infinite repeat overflows in batches of one row


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
    maps: FeatureMaps | None = None,
    clip: int = 1,
    with_people: bool = False,
) -> Batches:
    """Makes the endless batches of this process (index, count) from step `start_step` on.

    With `maps` their images are maps of the backbone, each of a view that is drawn. No batch shows
    a record that `data.held_out` holds out. A row shows one random frame of a video, or `clip` of
    them, one from each of as many parts. `with_people` fills the boxes of people and draws their
    secondary regions; records without boxes are refused.
    """
    if with_people:
        check_boxes(data, manifest)
    row_count = _rows_per_process("train.batch_size", batch_size, process[1])
    if maps:
        rows: AnyRows = FeatureRows(data, maps, manifest, with_people=with_people)
    else:
        rows = Rows(data, manifest, data.train_split, clip=clip, with_people=with_people)
        if data.cache == "ram":
            rows.cache_decoded()
    kept, _ = split_held_out(data, len(rows))
    sequence = grain.MapDataset.range(len(kept)).seed(seed).shuffle().repeat(EPOCHS)
    specs = sequence.random_map(functools.partial(_add_crop_seed, kept))
    return _make_batches(specs, rows, data, row_count, process, start_step)


def evaluation_batches(
    data: DataConfig,
    manifest: Manifest,
    *,
    batch_size: int,
    max_examples: int = 0,
    process: tuple[int, int] = (0, 1),
    maps: FeatureMaps | None = None,
    clip: int = 1,
    with_people: bool = False,
) -> Batches:
    """Makes batches with every record once, or `max_examples` spread evenly over the split.

    The split is `data.eval_split`, or with `data.held_out` that part of `data.train_split`.
    Each process gets equally many full batches; rows with id -1 and weight 0 pad the last ones. If
    `data.eval_views` is above 1, images have an axis of views after the batch axis. With `maps`
    their images are maps of the backbone. A video gives `count_frames` rows, one after the other,
    or one with a `clip` of frames. `with_people` is as in training, of one view of an image.
    """
    if with_people:
        check_boxes(data, manifest, views=data.eval_views)
    row_count = _rows_per_process("eval.batch_size", batch_size, process[1])
    rows: AnyRows
    if maps:
        rows = FeatureRows(data, maps, manifest, with_people=with_people)
    else:
        rows = Rows(
            data,
            manifest,
            data.evaluated_split,
            views=data.eval_views,
            clip=clip,
            with_people=with_people,
        )
    positions = split_held_out(data, len(rows))[1] if data.held_out else range(len(rows))
    examples = min(len(positions), max_examples or len(positions))
    frames = count_frames(data, manifest, clip)
    padded = math.ceil(examples * frames / batch_size) * batch_size
    spread = functools.partial(_spread_evenly, examples, positions, frames)
    specs = grain.MapDataset.range(padded).map(spread)
    return _make_batches(specs, rows, data, row_count, process, 0)


def check_boxes(data: DataConfig, manifest: Manifest, *, views: int = 1) -> None:
    """Refuses data without boxes of people, and images of which a batch holds several views."""
    if manifest.frames > 1:
        raise DataError(
            f"{data.directory} holds videos of data set {manifest.name}, whose records have no "
            "boxes of people; choose a model that reads none, or images"
        )
    if not manifest.has_boxes:
        raise DataError(
            f"the records of {data.directory} hold no boxes of people (format version "
            f"{manifest.format_version}); prepare them again with `gap_jax data prepare "
            f"{manifest.name} --out {data.directory} --overwrite` and the options of the first time"
        )
    if views > 1:
        shown = f"data.eval_crops={data.eval_crops} and data.eval_flip={data.eval_flip}"
        raise ConfigError(
            f"a model that reads boxes sees one view of an image, and {shown} make {views}; set "
            "data.eval_crops=center (or full) and data.eval_flip=false"
        )


def count_frames(data: DataConfig, manifest: Manifest, clip: int = 1) -> int:
    """Returns the evaluated rows of an example: of a video one for each of `data.eval_frames`."""
    return data.eval_frames if manifest.frames > 1 and clip == 1 else 1


def split_held_out(data: DataConfig, stored: int) -> tuple[Sequence[int], Sequence[int]]:
    """Splits the positions of the training split into those to train on and those held out."""
    if not data.held_out:
        return range(stored), ()
    held = data.count_held_out(stored)
    if not 0 < held < stored:
        raise ConfigError(
            f"data.held_out={data.held_out:g} of the {stored:,} images of {data.train_split} is "
            f"{held:,}; hold out one or more, and not all"
        )
    order = np.random.default_rng(HELD_OUT_SEED).permutation(stored)
    return np.sort(order[held:]).tolist(), np.sort(order[:held]).tolist()


def _rows_per_process(name: str, batch_size: int, count: int) -> int:
    if batch_size % count:
        below = batch_size // count * count
        better = f"{below} or {below + count}" if below else str(count)
        raise ConfigError(
            f"{name}={batch_size} is not divisible by {count} processes; use {better}"
        )
    return batch_size // count


def _add_crop_seed(positions: Sequence[int], index: int, rng: np.random.Generator) -> RowSpec:
    return RowSpec(positions[index], int(rng.integers(2**63)))


def _spread_evenly(examples: int, positions: Sequence[int], frames: int, index: int) -> RowSpec:
    example, frame = divmod(index, frames)
    if example >= examples:
        return RowSpec(PADDING_ID)
    return RowSpec(positions[example * len(positions) // examples], frame=frame)


def _make_batches(
    specs: grain.MapDataset[RowSpec],
    rows: AnyRows,
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
    rows: AnyRows, blocks: ImageBlocks | None, specs: Sequence[RowSpec]
) -> tuple[int | None, HostBatch]:
    """Fills a batch; returns the block of its images if they lie in shared memory, else None."""
    block = blocks.find_free() if blocks else None
    if blocks is None or block is None:
        return None, rows.batch(specs, np.empty(rows.image_shape(len(specs)), rows.image_type))
    batch = rows.batch(specs, blocks.images(block))
    return block, batch._replace(image=batch.image[:0].copy())
