"""The demo's backbone: five 3x3 convolutions, 96 px to a 12x12 map of 96 channels."""

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from gap_jax.models.backbones.inception import Block, Conv
from gap_jax.models.layers import Norm

LAYERS = (Conv(24, 3, 2), Conv(48, 3, 2), Conv(64, 3, 2), Conv(96, 3), Conv(96, 3))


class SmallBackbone(Block):
    """The map after the first `stage` layers (0: after all of them), 177,560 parameters in all."""

    def __init__(self, *, stage: int = 0, norm: Norm, rngs: nnx.Rngs) -> None:
        super().__init__(3, LAYERS[: stage or None], bias=False, norm=norm, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        for layer in self.layers:
            x = checkpoint_name(jax.nn.relu(layer(x, train=train)), "unit")
        return x
