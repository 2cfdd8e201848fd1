"""Which device holds what: images over all devices, parameters over `fsdp`, the rest whole."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from data_pipelines.example import HostBatch
from gap_jax.batch import Batch
from gap_jax.config import Config
from gap_jax.errors import ConfigError

SMALLEST_SHARDED = 2**12  # a smaller array costs more to gather than to hold everywhere
IMAGES = ("data", "fsdp")


def make_mesh(cfg: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices as (data, fsdp), in process order, so that each process feeds its own rows."""
    devices = list(jax.devices() if devices is None else devices)
    count, fsdp = len(devices), cfg.mesh.fsdp
    if count % fsdp:
        raise ConfigError(f"mesh.fsdp={fsdp} does not divide {count} devices; use a divisor")
    for name, size in (
        ("train.batch_size / train.accumulate", cfg.train.micro_batch_size),
        ("eval.batch_size", cfg.eval.batch_size),
    ):
        if size % count:
            below = size // count * count
            better = f"{below} or {below + count}" if below else str(count)
            raise ConfigError(f"{name}={size} is not divisible by {count} devices; use {better}")
    mesh = jax.make_mesh(
        (count // fsdp, fsdp), IMAGES, axis_types=(AxisType.Auto,) * 2, devices=devices
    )
    processes = [device.process_index for device in mesh.devices.flat]
    if processes != sorted(processes):
        raise RuntimeError("the mesh interleaves processes; their rows would change places")
    return mesh


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """Large arrays split over `fsdp` along their longest divisible axis; everything else whole."""
    fsdp = mesh.shape["fsdp"]

    def place(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not axes or math.prod(leaf.shape) < SMALLEST_SHARDED:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        spec = [None] * longest + ["fsdp"]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, state)


def globalise(parts: Sequence[HostBatch], mesh: Mesh) -> Batch:
    """Micro-batches from every process as one array each: (micro-batches, images, ...)."""
    sharding = NamedSharding(mesh, PartitionSpec(None, IMAGES))

    def join(*rows: np.ndarray) -> jax.Array:
        local = rows[0][None] if len(rows) == 1 else np.stack(rows)
        return jax.make_array_from_process_local_data(sharding, local)

    return Batch(*(join(*fields) for fields in zip(*parts, strict=True)))


def gather_ids(batch: Batch, mesh: Mesh) -> Int[Array, " n"]:
    """The record ids of the whole batch in their order, on every process."""
    return _gather(batch.id, replicated(mesh))


@partial(jax.jit, static_argnums=1)
def _gather(ids: Int[Array, "m b"], whole: NamedSharding) -> Int[Array, " n"]:
    return jax.lax.with_sharding_constraint(ids.reshape(-1), whole)
