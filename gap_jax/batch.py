"""The types that a training step passes between modules, and the names of their axes.

    b  images                         k  classes
    h  w  rows and columns of a map   p  rank: pairs of a bottom-up and a top-down map
    n  positions of a map, h * w      j  joints of a body
    c  channels of any map            s  channels of the saliency's input
    f  channels of the pooled map     r  width of a layer in a factored saliency
    m  people of an image

`*spatial` stands for any number of map axes: every pooling takes sequences, pictures and volumes.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8


class People(NamedTuple):
    """`data_pipelines.example.People` on the device, with the same fields."""

    boxes: Float[Array, "b people 4"]
    regions: Float[Array, "b people regions 4"]
    label: Int[Array, "b people"]

    @classmethod
    def of(cls, host: tuple[np.ndarray, ...] | None) -> "People | None":
        """Puts the host's people on the default device; None stays None."""
        return None if host is None else cls(*map(jnp.asarray, host))


class Batch(NamedTuple):
    """`data_pipelines.example.HostBatch` on the device, with the same fields."""

    image: UInt8[Array, "b *views h w 3"] | Float[Array, "b *views h w f"]
    keypoints: Float[Array, "b people 16 3"]
    disc_radius: Float[Array, " b"]
    label: Int[Array, " b"] | Int[Array, "b k"]
    weight: Float[Array, " b"]
    id: Int[Array, " b"]
    people: People | None = None


class AttentionMaps(NamedTuple):
    """The attention maps of a pooling: `combined` is sum_p(top_down * bottom_up).

    `bottom_up` has the axis k if every class has its own bottom-up map.
    """

    bottom_up: Float[Array, "b *spatial p"] | Float[Array, "b *spatial k p"]
    top_down: Float[Array, "b *spatial k p"]
    combined: Float[Array, "b *spatial k"]

    @property
    def logits(self) -> Float[Array, "b k"]:
        """The scores of the classes: the mean of `combined` over positions."""
        return self.combined.mean(tuple(range(1, self.combined.ndim - 1)))


class Outputs(NamedTuple):
    """The outputs of a network; `pose` is None without a branch, `maps` without `want_maps`.

    A network that reads boxes has scores of each person, which mean nothing for absent people, and
    R*CNN the index of the winning region of each person and class, -1 for a person without one.
    """

    logits: Float[Array, "b k"]
    pose: Float[Array, "b *frames h w j"] | None
    maps: AttentionMaps | None
    person_logits: Float[Array, "b m k"] | None = None
    winner: Int[Array, "b m k"] | None = None
