"""The training step: the same on any mesh and in any number of parts, deaf to what is no number."""

import functools
import re
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from data_pipelines.example import HostBatch
from data_pipelines.manifest import Manifest, Split
from gap_jax.config import Config
from gap_jax.errors import ConfigError
from gap_jax.flags import read_config
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.sharding import globalise, make_mesh
from gap_jax.learning.state import TrainState
from gap_jax.learning.steps import Metrics

CLASSES, SIDE_PX, IMAGES = 8, 32, 128
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Course(NamedTuple):
    """Where some steps led."""

    state: TrainState
    metrics: list[Metrics]
    hlo: str


def configure(*words: str) -> Config:
    return read_config(
        "configs/gap_pose.py:demo",
        [
            f"--config.data.image_size_px={SIDE_PX}", f"--config.data.short_side_px={SIDE_PX}",
            f"--config.train.batch_size={IMAGES}", f"--config.eval.batch_size={IMAGES}",
            "--config.model.dropout=0.5", "--config.train.ema_decay=0.9", *words,
        ],
    )  # fmt: skip


def people() -> Manifest:
    counts = (10,) * CLASSES
    split = Split(80, 80, 80, counts, "", ())
    return Manifest("people", "single", tuple("abcdefgh"), 2, {"train": split}, {})


def draw_batch(seed: int) -> HostBatch:
    rng = np.random.default_rng(seed)
    keypoints = np.zeros((IMAGES, 2, 16, 3), np.float32)
    keypoints[..., :2] = rng.uniform(0, SIDE_PX, (IMAGES, 2, 16, 2))
    keypoints[..., 2] = rng.integers(0, 3, (IMAGES, 2, 16))
    return HostBatch(
        image=rng.integers(0, 256, (IMAGES, SIDE_PX, SIDE_PX, 3), dtype=np.uint8),
        keypoints=keypoints,
        disc_radius=np.full(IMAGES, 2, np.float32),
        label=rng.integers(0, CLASSES, IMAGES).astype(np.int32),
        weight=(rng.random(IMAGES) < 0.9).astype(np.float32),
        id=np.arange(IMAGES, dtype=np.int64),
    )


def cut(batch: HostBatch, parts: int) -> list[HostBatch]:
    pieces = [np.split(field, parts) for field in batch]
    return [HostBatch(*fields) for fields in zip(*pieces, strict=True)]


def begin(setup: Setup) -> TrainState:
    return setup.start(setup.initial_variables())


@functools.cache
def compile_step(devices: int, *words: str) -> tuple[Setup, Any]:
    cfg = configure(*words)
    setup = assemble(cfg, people(), jax.devices()[:devices])
    batch = globalise(cut(draw_batch(0), cfg.train.accumulate), setup.mesh)
    return setup, setup.train_step.lower(begin(setup), batch).compile()


@functools.cache
def run_steps(steps: int, devices: int, *words: str) -> Course:
    setup, compiled = compile_step(devices, *words)
    state, told = begin(setup), []
    for step in range(steps):
        parts = cut(draw_batch(step), setup.cfg.train.accumulate)
        state, metrics = compiled(state, globalise(parts, setup.mesh))
        told.append(jax.device_get(metrics))
    return Course(jax.device_get(state), told, compiled.as_text())


def distance(a: Any, b: Any) -> float:
    """Relative L2 distance between two trees."""
    one, two = (
        np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (a, b)
    )
    return float(np.linalg.norm(one - two) / np.linalg.norm(one))


def count_ops(hlo: str, names: tuple[str, ...]) -> dict[str, int]:
    return {name: len(re.findall(rf"= \S+(?: \S+)* {name}(?:-start)?\(", hlo)) for name in names}


@pytest.mark.parametrize("words", [(), ("--config.mesh.fsdp=2",)], ids=["data 8", "data 4 fsdp 2"])
def test_the_mesh_changes_nothing(words: tuple[str, ...]) -> None:
    alone = run_steps(10, 1)
    spread = run_steps(10, 8, *words)
    for field in ("variables", "opt_state", "ema"):
        assert distance(getattr(alone.state, field), getattr(spread.state, field)) < 1e-5
    assert int(spread.state.step) == 10
    assert np.allclose([m.loss for m in alone.metrics], [m.loss for m in spread.metrics], rtol=1e-5)
    assert distance(begin(assemble(configure(), people())).variables, alone.state.variables) > 1e-3


def test_data_parallel_reduces_once_and_never_on_the_way_forward() -> None:
    counts = count_ops(run_steps(10, 8).hlo, COLLECTIVES)
    assert 1 <= counts.pop("all-reduce") <= 3
    assert not any(counts.values()), counts


def test_fsdp_gathers_parameters_and_moves_no_activation() -> None:
    hlo = run_steps(10, 8, "--config.mesh.fsdp=2").hlo
    counts = count_ops(hlo, COLLECTIVES)
    assert counts["all-gather"] >= 1
    assert not counts["all-to-all"]
    assert not counts["collective-permute"]
    shapes = {leaf.shape for leaf in jax.tree.leaves(run_steps(10, 1).state.variables.params)}
    for found in re.finditer(r"= (.*?) all-gather(?:-start)?\(", hlo):
        for dimensions in re.findall(r"f32\[([\d,]+)\]", found.group(1)):
            gathered = tuple(map(int, dimensions.split(",")))
            sizes = {int(np.prod(shape)) for shape in shapes}
            assert int(np.prod(gathered)) in sizes | {size // 2 for size in sizes}, gathered


def test_four_parts_make_one_batch() -> None:
    whole, cut_up = run_steps(3, 1), run_steps(3, 1, "--config.train.accumulate=4")
    assert distance(whole.state.variables, cut_up.state.variables) < 1e-5
    assert distance(whole.state.ema, cut_up.state.ema) < 1e-5
    for one, other in zip(whole.metrics, cut_up.metrics, strict=True):
        assert np.allclose(one, other, rtol=1e-4)


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="accumulate=44 is not divisible by 8 devices; use 40 or 48"
    ):
        make_mesh(configure("--config.train.batch_size=44", "--config.model.norm_group_size=4"))
    with pytest.raises(ConfigError, match=r"mesh\.fsdp=3 does not divide 8 devices"):
        make_mesh(configure("--config.mesh.fsdp=3"))
