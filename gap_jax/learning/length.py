"""Computes the length of a run from the number of its training images."""

import dataclasses
import math

from data_pipelines.manifest import Manifest
from gap_jax.config import Config


def resolve_length(cfg: Config, data: Manifest) -> Config:
    """Returns the config with the steps that `train.epochs` means for this data.

    The steps lie between `train.min_steps` and `train.steps`. Evaluations and checkpoints are
    spread evenly, one for each epoch, but no further apart than the config says. The same data give
    the same numbers, and a resolved config does not change; without epochs no config does.
    """
    train, split = cfg.train, data.splits.get(cfg.data.train_split)
    if not train.epochs or split is None:  # opening the split refuses its absence
        return cfg
    steps = max(math.ceil(train.epochs * split.examples / train.batch_size), train.min_steps)
    steps = min(steps, train.steps)
    every = math.ceil(steps / max(round(train.epochs), 1))
    return dataclasses.replace(
        cfg,
        train=dataclasses.replace(train, steps=steps),
        eval=dataclasses.replace(cfg.eval, every_steps=min(cfg.eval.every_steps, every)),
        checkpoint=dataclasses.replace(
            cfg.checkpoint, every_steps=min(cfg.checkpoint.every_steps, every)
        ),
    ).resolved()
