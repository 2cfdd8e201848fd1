"""The pose branch: hidden convolutions on the backbone's map, then a heatmap for each joint."""

import functools

import jax
from flax import nnx
from jaxtyping import Array, Float

from gap_jax.models.arguments import check_counts
from gap_jax.models.layers import SMALL, Conv, Dense


class PoseBranch(nnx.Module):
    """Returns (heatmaps, hidden): float32 heatmaps, and the last hidden layer for a saliency.

    Heatmaps are linear in the last hidden layer, or in the map if there is no hidden layer.
    """

    def __init__(
        self,
        features: int,
        hidden: tuple[int, ...],
        *,
        joints: int = 16,
        kernel_size: int = 1,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(features=features, joints=joints, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} must be odd")
        self.hidden = nnx.List()
        conv = functools.partial(Conv, size=kernel_size, bias=True, init=SMALL, rngs=rngs)
        for width in hidden:
            check_counts(hidden=width)
            self.hidden.append(conv(features, width))
            features = width
        self.joints = Dense(features, joints, rngs=rngs)
        self.features = features

    def __call__(
        self, x: Float[Array, "b h w f"]
    ) -> tuple[Float[Array, "b h w j"], Float[Array, "b h w s"]]:
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return self.joints(x, exactly=True), x
