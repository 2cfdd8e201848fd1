"""Computes the maps of a frozen backbone on the devices of this process, and writes them.

A shard consists of whole batches, each computed by one device, so that neither a stop between two
shards nor another number of devices or processes changes a bit.
"""

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8

from data_pipelines.core.errors import ConfigError, Preempted
from data_pipelines.core.parallel import map_ahead
from data_pipelines.feature_maps import MAP_TYPES, FeatureMaps, fill_row
from data_pipelines.manifest import Shard
from data_pipelines.rows import Rows
from data_pipelines.transforms import View, evaluation_views, feature_views
from gap_jax import hardware
from gap_jax.learning.setup import Setup
from gap_jax.learning.sharding import replicated
from gap_jax.learning.state import Variables, fold_network
from gap_jax.runtime.digests import place
from gap_jax.runtime.processes.group import Processes
from gap_jax.runtime.reporting.progress import duration, number

LOGGED_EVERY_S = 10.0


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
        devices = setup.mesh.local_devices
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        side = setup.cfg.data.image_size_px
        self._image_shape = (side, side, 3)
        images = PartitionSpec("data")
        self._sharding = NamedSharding(mesh, images)
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
            setup.target.variables,
        )
        model, self._variables = fold_network(setup.model, place(host, target))
        dtype = MAP_TYPES[setup.cfg.data.feature_dtype]

        def extract(variables: Variables, image: Any) -> Any:
            return model.extract(variables, image).astype(dtype)

        self._jitted = jax.jit(  # by shard_map, as each device runs the program of one alone
            jax.shard_map(extract, mesh=mesh, in_specs=(PartitionSpec(), images), out_specs=images),
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
        own = [
            shard
            for shard in range(processes.index, count, processes.count)
            if maps.find_shard(shard) is None
        ]
        shards: list[Shard] = []
        with closing(self._compute(maps, own)) as batches:
            for first in range(0, count, processes.count):
                done = min(first + processes.count, count)
                shard, computed = first + processes.index, 0
                if shard in own:
                    maps.write_shard(shard, itertools.islice(batches, maps.batch_count(shard)))
                    computed = maps.positions(done - 1).stop - maps.positions(first).start
                meter.show(maps.positions(done - 1).stop, computed)
                written = asdict(maps.describe(shard)) if shard < count else None
                found: list[Any] = processes.gather("maps_written", [self._is_stopping(), written])
                shards += [Shard(**each) for _, each in found if each]
                processes.heartbeat(is_starting=True)
                if any(is_stopping for is_stopping, _ in found) and done < count:
                    raise Preempted(
                        f"stopped after {done} of {count} files of maps in {maps.folder}; run the "
                        "same command to continue"
                    )
        processes.broadcast("maps_complete", lambda: maps.complete(shards))

    def _compute(self, maps: FeatureMaps, shards: list[int]) -> Generator[np.ndarray, None, None]:
        """Yields the rows of each batch of these shards, in order."""
        data, split, views = self._setup.cfg.data, maps.origin["split"], maps.origin["views"]
        at_once = maps.records_per_batch * self._sharding.num_devices
        blank = np.zeros((at_once * views, *self._image_shape), np.uint8)
        is_training = maps.origin["purpose"] == "training"
        rows = Rows(data, self._setup.data, split)

        def read(position: int) -> tuple[list[View], Any]:
            view, label = rows.read(position)
            if is_training:
                return feature_views(view, data, position), label
            return evaluation_views(view, data), label

        positions = itertools.chain.from_iterable(map(maps.positions, shards))
        ready = map_ahead(read, positions, 2 * at_once)
        unread: tuple[list[tuple[list[View], Any]], jax.Array] | None = None
        while group := list(itertools.islice(ready, at_once)):
            drawn = [view.image for of_record, _ in group for view in of_record]
            computed = self.extract(np.concatenate([np.stack(drawn), blank[len(drawn) :]]))
            if unread:
                yield from _fill_batches(maps, *unread)
            unread = group, computed
            self._processes.heartbeat(is_starting=True)
        if unread:
            yield from _fill_batches(maps, *unread)


def _fill_batches(
    maps: FeatureMaps, group: list[tuple[list[View], Any]], computed: jax.Array
) -> Iterator[np.ndarray]:
    """Yields the rows of each batch of a group that was computed at once."""
    found, views, size = np.asarray(computed), maps.origin["views"], maps.records_per_batch
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
    yield from (rows[start : start + size] for start in range(0, len(group), size))


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
