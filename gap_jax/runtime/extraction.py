"""Computes the maps of a frozen backbone once for each view of each record, and stores them.

Each process computes its share of the shards on its own devices. A shard is computed alone, in
batches of a fixed size, so neither a stop between two shards nor another process changes it.
"""

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, ConfigError, Preempted
from data_pipelines.feature_maps import MAP_TYPES, FeatureMaps, fill_row, make_row_type
from data_pipelines.parallel import map_ahead
from data_pipelines.rows import Rows
from data_pipelines.transforms import View, evaluation_views, feature_views
from gap_jax import hardware
from gap_jax.learning.setup import Setup
from gap_jax.learning.sharding import replicated
from gap_jax.learning.state import Variables, fold_network
from gap_jax.models.build import backbone_dtype
from gap_jax.runtime.digests import copy_to_host, describe, place
from gap_jax.runtime.processes.group import ALONE, Processes
from gap_jax.runtime.reporting.progress import duration, number

IMAGE_FIELDS = (
    "preprocessing", "image_size_px", "limit_width_px", "short_side_px", "resize",
)  # fmt: skip
TRAINING_FIELDS = (
    "flip", "swap_on_flip", "area_range", "aspect_range", "brightness", "contrast", "saturation",
    "erasing",
)  # fmt: skip
EVALUATION_FIELDS = ("eval_crops", "eval_flip")
NETWORK_FIELDS = (
    "backbone", "strides", "stem_padding", "final_relu", "input", "stage", "norm_eps",
)  # fmt: skip
LOGGED_EVERY_S = 10.0
IN_USE_ADVICE = "wait until it has computed these maps, and run the same command again"


class StoredMaps(NamedTuple):
    """The maps of a run: those of its training and of its evaluated images."""

    training: FeatureMaps
    evaluation: FeatureMaps


def find_maps(
    setup: Setup,
    variables: Variables,
    processes: Processes,
    log: Callable[[str], None],
    is_stopping: Callable[[], bool],
) -> StoredMaps | None:
    """Returns the maps of a run with data.cache=features, computed if need be; else None."""
    if setup.cfg.data.cache != "features":
        return None
    return store_maps(setup, variables, processes, log, is_stopping)


def store_maps(
    setup: Setup,
    variables: Variables,
    processes: Processes = ALONE,
    log: Callable[[str], None] = print,
    is_stopping: Callable[[], bool] = lambda: False,
    *,
    repair: bool = False,
) -> StoredMaps:
    """Computes the maps of a run that are not stored yet, and checks those that are."""
    host = copy_to_host(variables)
    stored = _describe_maps(setup, host)
    distinct = [stored.training]
    if stored.evaluation is not stored.training:
        distinct.append(stored.evaluation)
    if repair and processes.is_first:
        for maps in distinct:
            maps.repair()
    absent = processes.broadcast("maps", lambda: [not each.is_complete() for each in distinct])
    unfinished = [each for each, is_absent in zip(distinct, absent, strict=True) if is_absent]
    with ExitStack() as held:

        def enter() -> None:
            for maps in unfinished:
                held.enter_context(files.locked(maps.folder, advice=IN_USE_ADVICE))
            _check_room(unfinished)

        processes.broadcast("maps_entered", enter)
        if unfinished:
            extractor = Extractor(setup, host, processes, log, is_stopping)
            for maps in unfinished:
                extractor.store(maps)
    for maps, is_absent in zip(distinct, absent, strict=True):
        if not is_absent:
            maps.check(processes.index_and_count)
    return stored


def _describe_maps(setup: Setup, host: dict[str, np.ndarray]) -> StoredMaps:
    """Describes the maps of a run; those of held-out images are among those of training."""
    data = setup.cfg.data
    training = _describe(setup, host, data.train_split, is_training=True)
    if data.held_out and data.eval_views == 1 and data.eval_crops == "center":
        return StoredMaps(training, training)  # its first view is the centre crop
    return StoredMaps(training, _describe(setup, host, data.evaluated_split, is_training=False))


def _describe(
    setup: Setup, host: dict[str, np.ndarray], split: str, *, is_training: bool
) -> FeatureMaps:
    """Names everything that determines the maps of a split."""
    cfg, data = setup.cfg.data, setup.data
    fields = (*IMAGE_FIELDS, *(TRAINING_FIELDS if is_training else EVALUATION_FIELDS))
    views = cfg.feature_views if is_training else cfg.eval_views
    origin = {
        "split": split,
        "purpose": "training" if is_training else "evaluation",
        "data": data.fingerprint,
        "weights": _digest_backbone(host),
        "network": {name: getattr(setup.cfg.model, name) for name in NETWORK_FIELDS}
        | {"dtype": str(np.dtype(backbone_dtype(setup.cfg.model)))},
        "images": {name: getattr(cfg, name) for name in fields},
        "views": views,
        "dtype": cfg.feature_dtype,
    }
    side = cfg.image_size_px
    image = jax.ShapeDtypeStruct((1, side, side, 3), "uint8")
    shape = jax.eval_shape(setup.model.extract, setup.target.variables, image).shape[1:]
    row_type = make_row_type(data, views, shape, cfg.feature_dtype)
    rows = data.splits[split].examples
    return FeatureMaps(cfg.directory, json.loads(json.dumps(origin)), row_type, rows)


def _digest_backbone(host: dict[str, np.ndarray]) -> str:
    leaves = {name: leaf for name, leaf in host.items() if name.split("/")[1] == "backbone"}
    digests = {name: each.sha256 for name, each in describe(leaves).items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _check_room(unfinished: list[FeatureMaps]) -> None:
    """Refuses maps that do not fit on the disk, before anything is written."""
    if not unfinished:
        return
    needed = sum(each.missing_bytes() for each in unfinished)
    folder = unfinished[0].data
    free = shutil.disk_usage(files.existing_ancestor(folder)).free
    if needed > free:
        raise CannotWrite(
            f"data.cache=features needs {needed / 2**30:,.1f} GiB in {folder} and "
            f"{free / 2**30:,.1f} GiB are free; free some, or use fewer data.feature_views or "
            "data.cache=none"
        )


class Extractor:
    """Computes maps with a folded backbone on the devices of this process."""

    def __init__(
        self,
        setup: Setup,
        host: dict[str, np.ndarray],
        processes: Processes,
        log: Callable[[str], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._setup, self._processes = setup, processes
        self._log, self._is_stopping = log, is_stopping
        devices = jax.local_devices()
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        side = setup.cfg.data.image_size_px
        self._image_shape = (side, side, 3)
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
            setup.target.variables,
        )
        model, self._variables = fold_network(setup.model, place(host, target))
        dtype = MAP_TYPES[setup.cfg.data.feature_dtype]
        self._jitted = jax.jit(
            lambda variables, image: model.extract(variables, image).astype(dtype),
            compiler_options=hardware.list_eval_options(),
        )

    def extract(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[jax.Array, "b h2 w2 f"]:
        """Computes the maps of images, whose number the local devices divide."""
        return self._jitted(self._variables, jax.device_put(images, self._sharding))

    def store(self, maps: FeatureMaps) -> None:
        """Computes and stores the shards that are absent."""
        processes, count = self._processes, maps.shard_count
        if processes.is_first:
            self._log(
                f"computing the maps of {maps.rows:,} images of {maps.origin['split']} x "
                f"{maps.origin['views']} views into {maps.folder}: "
                f"{maps.rows * maps.row_type.itemsize / 2**20:,.0f} MiB in {count:,} files"
            )
        meter = Meter(maps.rows, self._log if processes.is_first else lambda _: None)
        for first in range(0, count, processes.count):
            done = min(first + processes.count, count)
            shard, computed = first + processes.index, 0
            if shard < count and maps.find_shard(shard) is None:
                maps.write_shard(shard, self._compute(maps, maps.positions(shard)))
                computed = maps.positions(done - 1).stop - maps.positions(first).start
            meter.show(maps.positions(done - 1).stop, computed)
            if any(processes.gather("maps_stop", self._is_stopping())) and done < count:
                raise Preempted(
                    f"stopped after {done} of {count} files of maps in {maps.folder}; run the same "
                    "command to continue"
                )
        processes.broadcast("maps_complete", maps.complete)

    def _compute(self, maps: FeatureMaps, positions: range) -> Iterator[np.ndarray]:
        """Yields rows with the maps of the records at `positions`."""
        data, split, views = self._setup.cfg.data, maps.origin["split"], maps.origin["views"]
        records = maps.records_per_batch
        devices = self._sharding.num_devices
        images = np.zeros((-(-records * views // devices) * devices, *self._image_shape), np.uint8)
        is_training = maps.origin["purpose"] == "training"
        rows = Rows(data, self._setup.data, split)

        def read(position: int) -> tuple[list[View], Any]:
            view, label = rows.read(position)
            if is_training:
                return feature_views(view, data, position), label
            return evaluation_views(view, data), label

        ready = map_ahead(read, positions, 2 * records)
        unread: tuple[list[tuple[list[View], Any]], jax.Array] | None = None
        while group := list(itertools.islice(ready, records)):
            drawn = [view.image for of_record, _ in group for view in of_record]
            batch = np.concatenate([np.stack(drawn), images[len(drawn) :]])
            computed = self.extract(batch)
            if unread:
                yield _fill_rows(maps, *unread)
            unread = group, computed
            self._processes.heartbeat()
        if unread:
            yield _fill_rows(maps, *unread)


def _fill_rows(
    maps: FeatureMaps, group: list[tuple[list[View], Any]], computed: jax.Array
) -> np.ndarray:
    found, views = np.asarray(computed), maps.origin["views"]
    if not np.isfinite(found).all():
        wider = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(maps.origin["dtype"])
        fix = f"set data.feature_dtype={wider}, or " if wider else ""
        raise ConfigError(
            f"a value of the backbone's map is not finite as {maps.origin['dtype']}; {fix}use "
            "other weights"
        )
    rows = np.zeros(len(group), maps.row_type)
    for index, (of_record, label) in enumerate(group):
        fill_row(rows[index], of_record, label, found[index * views : (index + 1) * views])
    return rows


class Meter:
    """Logs how many images are done, how fast, and the remaining time."""

    def __init__(self, images: int, log: Callable[[str], None]) -> None:
        self._images, self._log = images, log
        self._start = self._shown = time.monotonic()
        self._computed = 0

    def show(self, done: int, computed: int) -> None:
        """Logs at most one line in `LOGGED_EVERY_S`; `computed` images were not stored before."""
        now = time.monotonic()
        self._computed += computed
        if (now - self._shown < LOGGED_EVERY_S and done < self._images) or not self._computed:
            return
        pace = self._computed / (now - self._start)
        self._shown = now
        eta = duration((self._images - done) / pace)
        self._log(f"maps={done}/{self._images} images_per_s={number(pace)} eta={eta}")
