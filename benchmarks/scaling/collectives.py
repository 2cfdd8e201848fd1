"""Finds the collectives of a training step in the compiled program."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.manifest import Manifest
from gap_jax.batch import Batch
from gap_jax.config import Config
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.sharding import IMAGE_AXES

CALL = re.compile(
    r"= (?P<shapes>.*?) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute|collective-broadcast|ragged-all-to-all)(?:-start)?\("
)
SHAPE = re.compile(r"(?P<kind>\w+?)(?P<bits>\d+)\[(?P<sizes>[\d,]*)\]")
CLASSES = 393
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Collective(NamedTuple):
    """A collective: its name, output shapes and source.

    A collective that XLA merged has several sources.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    source: str


def find_collectives(hlo: str) -> Iterator[Collective]:
    """Yields the collectives of a compiled program, in its order."""
    for line in hlo.splitlines():
        if found := CALL.search(line):
            [source] = re.findall(r'op_name="([^"]*)"', line) or [""]
            arrays = list(SHAPE.finditer(found["shapes"]))
            shapes = tuple(
                tuple(int(size) for size in each["sizes"].split(",") if size) for each in arrays
            )
            bits = [int(each["bits"]) for each in arrays]
            size = sum(math.prod(shape) * n for shape, n in zip(shapes, bits, strict=True)) // 8
            yield Collective(found["name"], shapes, size, source)


def compile_step(cfg: Config) -> tuple[Setup, list[Collective]]:
    """Compiles the real training step for all devices from shapes, without running it."""
    data = Manifest("mpii", "single", tuple(map(str, range(CLASSES))), 1, {}, {})
    setup = assemble(cfg, data)
    lowered = setup.train_step.lower(setup.target, describe_batch(cfg, setup))
    return setup, list(find_collectives(lowered.compile(compiler_options=QUICKLY).as_text()))


def describe_batch(cfg: Config, setup: Setup) -> Batch:
    """Describes the shapes and sharding of a batch."""
    sharding = NamedSharding(setup.mesh, PartitionSpec(None, IMAGE_AXES))
    parts, rows, px = cfg.train.accumulate, cfg.train.micro_batch_size, cfg.data.image_size_px

    def of(kind: str, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((parts, rows, *shape), kind, sharding=sharding)

    return Batch(
        image=of("uint8", px, px, 3),
        keypoints=of("float32", 1, 16, 3),
        disc_radius=of("float32"),
        label=of("int32"),
        weight=of("float32"),
        id=of("int32"),
    )
