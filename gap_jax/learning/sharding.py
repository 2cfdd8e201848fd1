"""The sharding of arrays: images over all devices, parameters over `fsdp`, the rest replicated."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from data_pipelines.core.errors import ConfigError
from data_pipelines.example import HostBatch
from gap_jax.batch import Batch, People
from gap_jax.config import Config, MeshConfig

SMALLEST_SHARDED = 2**12  # values; gathering a smaller array costs more than replicating it
IMAGE_AXES = ("data", "fsdp")


def make_mesh(cfg: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges all devices as (data, fsdp) in process order: each process feeds its own rows."""
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
        (count // fsdp, fsdp), IMAGE_AXES, axis_types=(AxisType.Auto,) * 2, devices=devices
    )
    processes = [device.process_index for device in mesh.devices.flat]
    if processes != sorted(processes):
        raise RuntimeError("the mesh interleaves processes; their rows would be swapped")
    return mesh


def evaluation_mesh(cfg: Config, processes: int = 1) -> Mesh:
    """Uses as many devices as divide the run's batches; several processes use all of theirs."""
    count = jax.device_count()
    if processes == 1:
        count = math.gcd(count, cfg.train.micro_batch_size, cfg.eval.batch_size)
    return make_mesh(dataclasses.replace(cfg, mesh=MeshConfig()), jax.devices()[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: PyTree, mesh: Mesh) -> PyTree:
    """Shards large arrays over `fsdp` along their longest divisible axis; replicates the rest."""
    fsdp = mesh.shape["fsdp"]

    def shard(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not axes or math.prod(leaf.shape) < SMALLEST_SHARDED:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        spec = [None] * longest + ["fsdp"]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(shard, state)


def globalise(micro_batches: Sequence[HostBatch], mesh: Mesh) -> Batch:
    """Joins the micro-batches of all processes to global arrays (micro-batches, images, ...)."""
    sharding = NamedSharding(mesh, PartitionSpec(None, IMAGE_AXES))

    def join(*rows: np.ndarray) -> jax.Array:
        local = rows[0][None] if len(rows) == 1 else np.stack(rows)
        return jax.make_array_from_process_local_data(sharding, local)

    *fields, people = jax.tree.map(join, *micro_batches)
    return Batch(*fields, people=None if people is None else People(*people))


@partial(jax.jit, static_argnums=1)
def gather_ids(batch: Batch, mesh: Mesh) -> Int[Array, " n"]:
    """Gathers the record ids of the whole batch, in order, on every process."""
    return jax.lax.with_sharding_constraint(batch.id.reshape(-1), replicated(mesh))
