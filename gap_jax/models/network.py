"""A whole model: pixels, a backbone, the pose branch, a pooling."""

from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, UInt8

from gap_jax.batch import Outputs
from gap_jax.model_config import Colours
from gap_jax.models.pooling import Pooling
from gap_jax.models.pose import PoseBranch

Reads = Literal["features", "hidden", "heatmaps"]  # the last two are the pose branch's


@runtime_checkable
class Backbone(Protocol):
    """Anything that turns pixels into a map of `features` channels."""

    features: int

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]: ...


def normalise(
    image: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], mean: Colours, scale: Colours
) -> Float[Array, "b h w 3"]:
    """(image - mean) / scale per channel."""
    shift, spread = (jnp.array(values)[None, None, None] for values in (mean, scale))
    return (image.astype(jnp.float32) - shift) / spread


class Network(nnx.Module):
    """Backbone, pooling and, where there is one, pose branch.

    The backbone sees (pixel - mean) / scale. The trunk (backbone, hidden layers of branch and
    saliency) computes in `dtype`, what it ends in (heatmaps, bottom-up map, pooled vector, logits)
    in float32.
    """

    def __init__(
        self,
        backbone: Backbone,
        pooling: Pooling,
        pose: PoseBranch | None = None,
        *,
        saliency_reads: Reads = "features",
        mean: Colours = (0.0, 0.0, 0.0),
        scale: Colours = (1.0, 1.0, 1.0),
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        if saliency_reads != "features" and pose is None:
            raise ValueError("a saliency that reads the pose branch needs one")
        self.backbone = backbone
        self.pooling = pooling
        self.pose = pose
        self.saliency_reads: Reads = saliency_reads
        self.mean = mean
        self.scale = scale
        self.dtype = dtype

    def __call__(
        self,
        image: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
        *,
        train: bool = False,
        keys: Key[Array, " b"] | None = None,
        want_maps: bool = False,
    ) -> Outputs:
        """`train` uses and moves batch statistics; `keys`, one a row, draw the dropout masks."""
        if train and keys is None and self.pooling.dropout:
            raise ValueError("training with dropout takes a key for each row")
        x = self.backbone(normalise(image, self.mean, self.scale).astype(self.dtype), train=train)
        heatmaps, hidden = (None, None) if self.pose is None else self.pose(x)
        saliency_input = {"features": None, "hidden": hidden, "heatmaps": heatmaps}[
            self.saliency_reads
        ]
        if want_maps:
            maps = self.pooling.maps(x, saliency_input, keys=keys)
            return Outputs(maps.logits, heatmaps, maps)
        return Outputs(self.pooling(x, saliency_input, keys=keys), heatmaps, None)
