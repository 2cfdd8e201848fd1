"""Forecasts how long a run takes, with its evaluations, from the pace of its first steps."""

import math

from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.learning.length import count_scored, count_views
from gap_jax.runtime.reporting.progress import duration

FORWARD_SHARE = 1 / 3  # of a training step; the backward pass costs two forward passes


def forecast(cfg: Config, data: Manifest, step: int, step_s: float) -> str:
    """Describes the time from step `step` to the end at `step_s` seconds a step.

    An image costs as much in evaluation as in training if the backbone is frozen, else a third.
    """
    left, every = cfg.train.steps - step, cfg.eval.every_steps or cfg.train.steps
    images = count_scored(cfg, data)
    evals = math.ceil(cfg.train.steps / every) - step // every
    share = 1.0 if cfg.optim.freezes_backbone else FORWARD_SHARE
    batches = evals * count_views(cfg, data) / cfg.train.batch_size
    evaluating_s = batches * share * step_s
    return (
        f"about {duration(left * step_s + evaluating_s)} to the end: {left:,} steps of "
        f"{step_s:.3g} s, and {duration(evaluating_s)} of evaluation ({evals:,} x {images:,} "
        "images); after Ctrl-C the same command goes on"
    )
