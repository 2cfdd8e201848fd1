"""Advises on data of one's own: few images, few of a class, uneven classes, a small evaluation."""

import math
from collections.abc import Iterator

from data_pipelines.core.errors import name_some
from data_pipelines.core.files import quote
from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.learning.length import count_evaluated, count_steps

FEW_OF_CLASS = 5  # images; with fewer a class is hardly learned
FEW_PER_CLASS = 20  # images on average
FEW_EVALUATED = 200  # images; with fewer the accuracy is uncertain by more than 7 points
UNEVEN = 3  # times as many images of a class as of another


def advise(cfg: Config, data: Manifest) -> Iterator[str]:
    """Yields a line for each weakness of the data, with what to do about it."""
    train, settings = data.find_split(cfg.data.train_split), cfg.data
    images = settings.count_trained(train.examples)
    evaluated = count_evaluated(cfg, data)
    shown = "held-out images" if settings.held_out else f"images in {settings.eval_split}"
    counts = dict(zip(data.classes, train.class_counts, strict=True))
    rare = [f"{quote(name)} ({n:,})" for name, n in counts.items() if 0 < n < FEW_OF_CLASS]
    if rare:
        yield (
            f"fewer than {FEW_OF_CLASS} training images of {name_some(rare)}: add photographs, or "
            "join the class with another"
        )
    seen = [n for n in counts.values() if n]
    if images < FEW_PER_CLASS * len(data.classes):
        less = (
            "" if cfg.optim.freezes_backbone else ", and a frozen backbone (:frozen) overfits less"
        )
        yield (
            f"{images:,} training images of {len(data.classes):,} classes are few: more "
            f"photographs, {FEW_PER_CLASS} of a class or more, gain more than any setting{less}"
        )
    if seen and max(seen) >= UNEVEN * min(seen) and cfg.train.class_weights == "none":
        yield (
            f"classes have from {min(seen):,} to {max(seen):,} training images; "
            "train.class_weights=balanced weights all classes equally"
        )
    if 0 < evaluated < FEW_EVALUATED:
        yield (
            f"{evaluated:,} {shown}: one is {100 / evaluated:.1f} points of accuracy, and "
            f"accuracies of 50 % are uncertain by {98 / math.sqrt(evaluated):.0f} points; smaller "
            "differences between runs are noise"
        )


def describe_length(cfg: Config, data: Manifest) -> str:
    """Describes the resolved steps, and which field of `train` decided them."""
    train, images = cfg.train, data.find_split(cfg.data.train_split).examples
    wanted = count_steps(train, cfg.data.count_trained(images))
    made = f"train.epochs={train.epochs:g} would make {wanted:,}"
    why = f"train.epochs={train.epochs:g}"
    if train.steps != wanted:
        least = train.steps == max(wanted, train.min_steps)
        why = f"{'train.min_steps' if least else 'train.steps'}, as {made}"
    stop = train.early_stop_evals
    return (
        f"{train.steps:,} steps of {train.batch_size:,} images ({why}); evaluated every "
        f"{cfg.eval.every_steps:,} steps"
        + (f", ends early after {stop} evaluations without gain" if stop else "")
    )
