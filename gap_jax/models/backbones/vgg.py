"""VGG16: five blocks of 3x3 convolutions, and its two hidden dense layers as convolutions."""

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from gap_jax.models.cells import Axis
from gap_jax.models.layers import Conv, max_pool

BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # channels divided by `width`, convolutions
CLASSIFIER = (7, 1)  # windows of fc6 and fc7


class VGG16(nnx.Module):
    """The map after block `stage` (0: after the fifth, conv5_3), before the pool that follows it.

    Stage 6 is fc6, a 7x7 convolution of the fifth pool without padding; stage 7 is fc7, a 1x1
    convolution; both as in TF-slim, without dropout. The mean over stage 7 is the input of
    ImageNet's classifier. `final_relu` is the ReLU of the last convolution. Every stage's output
    is named "unit" for `jax.checkpoint`.
    """

    def __init__(
        self, *, stage: int = 0, final_relu: bool = True, width: int = 64, rngs: nnx.Rngs
    ) -> None:
        self.final_relu = final_relu
        self.stages = nnx.List()
        self.features = 3
        stage = stage or len(BLOCKS)
        for factor, depth in BLOCKS[:stage]:
            block = nnx.List()
            for _ in range(depth):
                block.append(Conv(self.features, factor * width, size=3, bias=True, rngs=rngs))
                self.features = factor * width
            self.stages.append(block)
        for side in CLASSIFIER[: max(stage - len(BLOCKS), 0)]:
            dense = Conv(self.features, 64 * width, size=side, padded=False, bias=True, rngs=rngs)
            self.stages.append(nnx.List([dense]))
            self.features = 64 * width

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        del train  # there is no batch norm
        last = self.stages[-1][-1]
        for index, stage in enumerate(self.stages):
            if 0 < index <= len(BLOCKS):
                x = max_pool(x, "valid", side=2)
            for conv in stage:
                x = conv(x)
                if self.final_relu or conv is not last:
                    x = jax.nn.relu(x)
            x = checkpoint_name(x, "unit")
        return x

    def locate(self, axis: Axis) -> Axis:
        """Computes the map's axis from the image's."""
        for index, stage in enumerate(self.stages):
            if 0 < index <= len(BLOCKS):
                axis = axis.pool("valid", side=2)
            for conv in stage:
                axis = axis.convolve(conv)
        return axis
