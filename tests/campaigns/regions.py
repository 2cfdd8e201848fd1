"""Runs a training step of R-CNN or R*CNN at full size: VGG16, 600 px, fc6 and fc7 of 4096.

`python -m tests.campaigns.regions [rcnn|rstarcnn] [people]` prints the loss, seconds and memory. It
needs about 8 GB.
"""

import resource
import sys
import time

import jax
import numpy as np

from data_pipelines.example import HostBatch, People
from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.sharding import globalise

CLASSES = 393


def configure(method: str) -> Config:
    """Returns the config of the variant, with random weights."""
    words = ["--config.init.weights=", "--config.init.allow_random=true"]
    return read_config(f"configs/gap_pose.py:{method}", words)


def set_up(method: str) -> Setup:
    """Assembles the parts of the run for MPII's 393 classes; computes nothing."""
    data = Manifest("mpii", "single", tuple(map(str, range(CLASSES))), 1, {}, {})
    return assemble(configure(method), data, jax.devices()[:1])


def draw_batch(cfg: Config, people: int) -> HostBatch:
    """Draws images of coloured squares, with boxes of people and secondary regions."""
    rng, rows, side = np.random.default_rng(0), cfg.train.batch_size, cfg.data.image_size_px
    size = rng.uniform(0.1, 0.7, (rows, people, 1 + cfg.data.regions, 2)) * side
    corner = rng.uniform(0, 1, size.shape) * (side - size)
    boxes = np.concatenate([corner, corner + size], axis=-1).astype(np.float32)
    label = np.full((rows, people), -1, np.int32)
    squares = rng.integers(0, 256, (rows, -(-side // 16), -(-side // 16), 3), np.uint8)
    return HostBatch(
        image=squares.repeat(16, 1).repeat(16, 2)[:, :side, :side],
        keypoints=np.zeros((rows, 1, 16, 3), np.float32),
        disc_radius=np.ones(rows, np.float32),
        label=rng.integers(0, CLASSES, rows).astype(np.int32),
        weight=np.ones(rows, np.float32),
        id=np.arange(rows),
        people=People(boxes[:, :, 0], boxes[:, :, 1:], label),
    )


def main(method: str = "rstarcnn", people: str = "2") -> None:
    """Runs two steps; the first compiles."""
    setup = set_up(method)
    state = setup.start(setup.initial_variables())
    batch = globalise([draw_batch(setup.cfg, int(people))], setup.mesh)
    for number in range(2):
        start = time.perf_counter()
        state, metrics = setup.train_step(state, batch)
        values = jax.device_get(metrics).compute()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{method}, {people} people, step {number + 1}: loss {values['loss']:.4f} (ln "
            f"{CLASSES} = {np.log(CLASSES):.4f}), finite {values['finite']:g}, gradient norm "
            f"{values['grad_norm']:.3g}, {time.perf_counter() - start:.1f} s, peak {peak:.1f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
