"""Computes the length of a run from the number of its training images."""

import dataclasses
import math

from data_pipelines.loader import count_frames
from data_pipelines.manifest import Manifest
from gap_jax.config import Config, TrainConfig


def resolve_length(cfg: Config, data: Manifest) -> Config:
    """Returns the config with the steps that `train.epochs` means for this data.

    The steps lie between `train.min_steps` and `train.steps`. Evaluations and checkpoints are
    spread evenly, one for each epoch, but no further apart than the config says. The same data give
    the same numbers, and a resolved config does not change; without epochs no config does.
    """
    train, split = cfg.train, cfg.data.train_split
    if not train.epochs or not data.list_parts(split):  # opening the split refuses its absence
        return cfg
    images = cfg.data.count_trained(data.find_split(split).examples)
    steps = min(max(count_steps(train, images), train.min_steps), train.steps)
    every = math.ceil(steps / max(round(train.epochs), 1))
    return dataclasses.replace(
        cfg,
        train=dataclasses.replace(train, steps=steps),
        eval=dataclasses.replace(cfg.eval, every_steps=min(cfg.eval.every_steps, every)),
        checkpoint=dataclasses.replace(
            cfg.checkpoint, every_steps=min(cfg.checkpoint.every_steps, every)
        ),
    ).resolved()


def count_evaluated(cfg: Config, data: Manifest) -> int:
    """Returns the images that evaluations may score: the evaluated split, or its held-out part."""
    stored = data.find_split(cfg.data.evaluated_split).examples
    return cfg.data.count_held_out(stored) if cfg.data.held_out else stored


def count_scored(cfg: Config, data: Manifest) -> int:
    """Returns the images that each evaluation scores: `eval.max_examples` of them at most."""
    images = count_evaluated(cfg, data)
    return min(images, cfg.eval.max_examples or images)


def count_views(cfg: Config, data: Manifest) -> int:
    """Returns the views that each evaluation reads: those of all frames of the scored images."""
    frames = count_frames(cfg.data, data, cfg.model.frames)
    return count_scored(cfg, data) * frames * cfg.data.eval_views


def count_steps(train: TrainConfig, images: int) -> int:
    """Returns the steps of `train.epochs` passes over the images, without bounds."""
    return math.ceil(train.epochs * images / train.batch_size)
