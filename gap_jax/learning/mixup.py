"""Mixes the images of a batch in pairs; the loss has the same shares of both labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from data_pipelines.core.errors import ConfigError
from data_pipelines.manifest import Manifest
from gap_jax.batch import Batch
from gap_jax.config import Config


class Mixed(NamedTuple):
    """The labels of the images that were added to those of a batch, and the shares of its own."""

    label: Int[Array, "*micro b"]
    share: Float[Array, "*micro b"]


def check_mixup(cfg: Config, data: Manifest) -> None:
    """Refuses mixup where an image has no single label, or joints to predict."""
    if not cfg.train.mixup:
        return
    if data.label_kind == "multi":
        raise ConfigError(
            f"train.mixup={cfg.train.mixup:g} mixes single labels, and {data.name} has several "
            "for an image; set train.mixup=0"
        )
    if cfg.pose.branch:
        raise ConfigError(
            f"train.mixup={cfg.train.mixup:g} cannot mix the joints of pose.branch=true; "
            "set train.mixup=0 or pose.branch=false"
        )


def mix(batch: Batch, key: Key[Array, ""], strength: float) -> tuple[Batch, Mixed]:
    """Replaces each image by share * image + (1 - share) * next image, rounded to whole levels.

    Each row draws its share from Beta(strength, strength). The next row is that of the whole batch
    and the last row's is the first, so neither micro-batches nor devices change a pair. An image
    without a label is not mixed, and is mixed into no other.
    """
    rows = batch.id.size
    drawn = jax.random.beta(key, strength, strength, (rows,))
    is_labelled = batch.weight.reshape(-1) > 0
    share = jnp.where(is_labelled & jnp.roll(is_labelled, -1), drawn, 1)
    image = batch.image.reshape(rows, *batch.image.shape[2:]).astype(jnp.float32)
    label = jnp.roll(batch.label.reshape(-1), -1)
    of_image = share.reshape(-1, *[1] * (image.ndim - 1))
    mixed = of_image * image + (1 - of_image) * jnp.roll(image, -1, axis=0)
    restore = batch.id.shape
    pixels = jnp.round(mixed).astype(batch.image.dtype).reshape(batch.image.shape)
    return batch._replace(image=pixels), Mixed(label.reshape(restore), share.reshape(restore))
