"""A whole model: pixels, a backbone, the pose branch, a pooling."""

from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, UInt8

from gap_jax.batch import AttentionMaps, Outputs
from gap_jax.model_config import Colours
from gap_jax.models.cells import Axis
from gap_jax.models.pooling import Pooling
from gap_jax.models.pose import PoseBranch
from gap_jax.models.saliency import Saliency

Image = UInt8[Array, "b *frames h w 3"] | Float[Array, "b *frames h w 3"]
Reads = Literal["features", "hidden", "heatmaps"]  # the last two are the pose branch's


@runtime_checkable
class Backbone(Protocol):
    """Anything that turns pixels into a map of `features` channels."""

    features: int

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]: ...

    def locate(self, axis: Axis) -> Axis:
        """Where the map's cells stand along an axis of the image."""
        ...


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
        over_frames: Saliency | None = None,
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
        self.over_frames = over_frames
        self.mean = mean
        self.scale = scale
        self.dtype = dtype

    def __call__(
        self,
        image: Image,
        *,
        train: bool = False,
        keys: Key[Array, " b"] | None = None,
        want_maps: bool = False,
    ) -> Outputs:
        """`train` uses and moves batch statistics; `keys`, one a row, draw the dropout masks.

        With `over_frames` an image is a clip, and heatmaps and maps have its axis of frames.
        """
        if (image.ndim == 5) != (self.over_frames is not None):
            raise ValueError(
                f"clips go to a network over frames and pictures to one without: {image.shape}"
            )
        if self.over_frames is None:
            return self._see(image, train, keys, want_maps)
        b, t = image.shape[:2]
        apart = None if keys is None else jax.vmap(lambda key: jax.random.split(key, t))(keys)
        frames = self._see(
            image.reshape(b * t, *image.shape[2:]),
            train,
            None if apart is None else apart.reshape(-1),
            want_maps,
        )
        frames = jax.tree.map(lambda part: part.reshape(b, t, *part.shape[1:]), frames)
        return _join(frames, self.over_frames(frames.logits))

    def _see(
        self,
        image: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
        train: bool,
        keys: Key[Array, " b"] | None,
        want_maps: bool,
    ) -> Outputs:
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


def _join(frames: Any, g: Float[Array, "b t 1"]) -> Outputs:
    """A clip's logits mean_t(L_t g_t) and maps, of those of its frames."""
    if frames.maps is None:
        return Outputs((frames.logits * g).mean(1), frames.pose, None)
    bottom_up, combined = (
        part * g.reshape(*g.shape[:2], *[1] * (part.ndim - 2))
        for part in (frames.maps.bottom_up, frames.maps.combined)
    )
    maps = AttentionMaps(bottom_up, frames.maps.top_down, combined)
    return Outputs(maps.logits, frames.pose, maps)
