"""Runs two training steps of configs/gap_pose.py at full size, on drawn images of 393 classes.

`python -m tests.campaigns.full_size [VARIANT] [IMAGES] [PEOPLE]` prints losses, seconds and memory.
It fails at a value that is not finite, a parameter without gradient, and a first loss far from
ln 393, except of rcnn and rstarcnn: VGG16 without norms and with random weights has large scores.
Without VARIANT it is GAP + pose on ResNet-101 at 450 px; two images take 3 GiB.
"""

import argparse
import math
import resource
import time

import jax
import numpy as np

from data_pipelines.example import HostBatch, People
from data_pipelines.manifest import Manifest, Split
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning.optim import mask_frozen
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.sharding import globalise
from gap_jax.runtime.digests import name_leaves

CLASSES, SQUARE_PX = 393, 16


def configure(variant: str, images: int) -> Config:
    """Returns the config of the variant, with random weights."""
    fields = {
        "init.weights": "", "init.allow_random": "true", "train.accumulate": 1,
        "train.batch_size": images, "eval.batch_size": images,
    }  # fmt: skip
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    return read_config(f"configs/gap_pose.py:{variant}", words)


def set_up(cfg: Config) -> Setup:
    """Assembles the parts of the run for MPII's classes; computes nothing."""
    split = Split(CLASSES, CLASSES, CLASSES, (1,) * CLASSES, "", ())
    names = tuple(map(str, range(CLASSES)))
    data = Manifest("mpii", "single", names, 1, {"train": split}, {})
    return assemble(cfg, data, jax.devices()[:1])


def draw_batch(cfg: Config, people: int) -> HostBatch:
    """Draws images of coloured squares, with joints, and boxes where the model reads them."""
    rng, rows, side = np.random.default_rng(0), cfg.train.batch_size, cfg.data.image_size_px
    squares = rng.integers(0, 256, (rows, *2 * (-(-side // SQUARE_PX),), 3), np.uint8)
    keypoints = np.full((rows, 1, 16, 3), 2, np.float32)
    keypoints[..., :2] = rng.uniform(0, side, (rows, 1, 16, 2))
    return HostBatch(
        image=squares.repeat(SQUARE_PX, 1).repeat(SQUARE_PX, 2)[:, :side, :side],
        keypoints=keypoints,
        disc_radius=np.full(rows, side / 20, np.float32),
        label=rng.integers(0, CLASSES, rows).astype(np.int32),
        weight=np.ones(rows, np.float32),
        id=np.arange(rows),
        people=_draw_people(rng, cfg, people) if cfg.reads_boxes else None,
    )


def _draw_people(rng: np.random.Generator, cfg: Config, people: int) -> People:
    rows, side = cfg.train.batch_size, cfg.data.image_size_px
    size = rng.uniform(0.1, 0.7, (rows, people, 1 + cfg.data.regions, 2)) * side
    corner = rng.uniform(0, 1, size.shape) * (side - size)
    boxes = np.concatenate([corner, corner + size], axis=-1).astype(np.float32)
    return People(boxes[:, :, 0], boxes[:, :, 1:], np.full((rows, people), -1, np.int32))


def main() -> None:
    """Runs two steps; the first compiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", nargs="?", default="")
    parser.add_argument("images", nargs="?", type=int, default=2, help="of a batch (2)")
    parser.add_argument("people", nargs="?", type=int, default=2, help="of an image (2)")
    asked = parser.parse_args()
    cfg = configure(asked.variant, asked.images)
    setup = set_up(cfg)
    state = setup.start(setup.initial_variables())
    batch = globalise([draw_batch(cfg, asked.people)], setup.mesh)
    losses = []
    for number in range(2):
        start = time.perf_counter()
        state, metrics = setup.train_step(state, batch)
        values = jax.device_get(metrics).compute()
        losses.append(values["loss_action"])
        assert all(map(math.isfinite, values.values())) and values["finite"] == 1, values
        total = values["loss_action"] + cfg.pose.weight * values["loss_pose"]
        assert math.isclose(values["loss"], total, rel_tol=1e-5) and values["grad_norm"] > 0, values
        print(
            f"step {number + 1}: loss of the action {losses[-1]:.4f} (ln {CLASSES} = "
            f"{math.log(CLASSES):.4f}), of the joints {values['loss_pose']:.4g}, gradient norm "
            f"{values['grad_norm']:.3g}, {time.perf_counter() - start:.1f} s, peak "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB",
            flush=True,
        )
    is_near = abs(losses[0] - math.log(CLASSES)) < 0.1
    assert is_near or cfg.reads_boxes, "the first scores are far from equal"
    momenta = jax.device_get(name_leaves(state.opt_state))
    still = [name for name, values in momenta.items() if not values.any()]
    frozen = jax.tree.leaves(mask_frozen(state.variables.params, cfg.optim.frozen))
    assert len(momenta) == frozen.count(False) and not still, f"no gradient reached {still}"
    print(f"a gradient reached all {len(momenta)} arrays; {sum(frozen)} are frozen")


if __name__ == "__main__":
    main()
