"""The demo's backbone: five 3x3 convolutions, 96 px to a 12x12 map of 96 channels."""

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from gap_jax.models.cells import Axis
from gap_jax.models.layers import ConvNorm, Norm

LAYERS = ((24, 2), (48, 2), (64, 2), (96, 1), (96, 1))  # channels and stride


class SmallBackbone(nnx.Module):
    """The map after the first `stage` layers (0: after all of them), 177,560 parameters in all."""

    def __init__(self, *, stage: int = 0, norm: Norm, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List()
        self.features = 3
        for features, stride in LAYERS[: stage or None]:
            self.layers.append(
                ConvNorm(self.features, features, size=3, stride=stride, norm=norm, rngs=rngs)
            )
            self.features = features

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        for layer in self.layers:
            x = checkpoint_name(jax.nn.relu(layer(x, train=train)), "unit")
        return x

    def locate(self, axis: Axis) -> Axis:
        """Computes the map's axis from the image's."""
        for layer in self.layers:
            axis = axis.convolve(layer.conv)
        return axis
