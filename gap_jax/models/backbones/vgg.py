"""VGG16: five blocks of 3x3 convolutions, and its two hidden dense layers as convolutions."""

import functools

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from gap_jax.models.cells import Axis
from gap_jax.models.layers import Conv, Padding, max_pool

STAGES = (  # side of the windows, channels divided by `width`, convolutions; the last are fc6, fc7
    (3, 1, 2), (3, 2, 2), (3, 4, 3), (3, 8, 3), (3, 8, 3), (7, 64, 1), (1, 64, 1),
)  # fmt: skip
POOLED = range(1, 6)  # stages that begin with a pool


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
        for side, factor, depth in STAGES[: stage or 5]:
            padding: Padding = "symmetric" if side == 3 else "valid"
            conv = functools.partial(Conv, size=side, padding=padding, bias=True, rngs=rngs)
            block = nnx.List()
            for _ in range(depth):
                block.append(conv(self.features, factor * width))
                self.features = factor * width
            self.stages.append(block)

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        del train  # there is no batch norm
        last = self.stages[-1][-1]
        for index, stage in enumerate(self.stages):
            if index in POOLED:
                x = max_pool(x, "valid", side=2)
            for conv in stage:
                x = conv(x)
                if self.final_relu or conv is not last:
                    x = jax.nn.relu(x)
            x = checkpoint_name(x, "unit")
        return x

    def locate(self, axis: Axis) -> Axis:
        for index, stage in enumerate(self.stages):
            if index in POOLED:
                axis = axis.pool("valid", side=2)
            for conv in stage:
                axis = axis.convolve(conv)
        return axis
