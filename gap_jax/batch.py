"""What passes between the rooms of a training step, and the glossary of its axes.

    b  images                         k  classes
    h  w  rows and columns of a map   p  rank: pairs of a bottom-up and a top-down map
    n  positions of a map, h * w      j  joints of a body
    c  channels of any map            s  channels of what the saliency reads
    f  channels of the pooled map     r  width of a layer in a factored saliency

`*spatial` stands for any number of map axes: none of the poolings minds whether a map is a
sequence, a picture or a volume.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int, UInt8


class Batch(NamedTuple):
    """The device twin of `data_pipelines.example.HostBatch`, field by field."""

    image: UInt8[Array, "b *views h w 3"]
    keypoints: Float[Array, "b people 16 3"]
    disc_radius: Float[Array, " b"]
    label: Int[Array, " b"] | Int[Array, "b k"]
    weight: Float[Array, " b"]
    id: Int[Array, " b"]


class AttentionMaps(NamedTuple):
    """Where a model looks: `combined` is sum_p(top_down * bottom_up).

    A bottom-up map has the axis k where every class has one of its own.
    """

    bottom_up: Float[Array, "b *spatial p"] | Float[Array, "b *spatial k p"]
    top_down: Float[Array, "b *spatial k p"]
    combined: Float[Array, "b *spatial k"]

    @property
    def logits(self) -> Float[Array, "b k"]:
        """The classes' scores: the mean of `combined` over its positions."""
        return self.combined.mean(tuple(range(1, self.combined.ndim - 1)))


class Outputs(NamedTuple):
    """A network's answer; `pose` is None without a branch, `maps` unless they were asked for."""

    logits: Float[Array, "b k"]
    pose: Float[Array, "b *frames h w j"] | None
    maps: AttentionMaps | None
