"""ResNet-50/101/152 with bottleneck units and the strides of TF-slim, Caffe or torchvision."""

import functools
import itertools

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from gap_jax.model_config import Strides
from gap_jax.models.cells import Axis
from gap_jax.models.layers import ConvNorm, Norm, Padding, max_pool, subsample

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}


class Bottleneck(nnx.Module):
    """relu(shortcut + 1x1 · 3x3 · 1x1), the stride in the 3x3, or, `early`, in the first 1x1.

    The shortcut is a convolution if the number of channels changes, else every `stride`-th
    position of the input.
    """

    def __init__(
        self, features_in: int, width: int, stride: int, *, early: bool, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        features = 4 * width
        self.stride = stride
        self.shortcut = (
            ConvNorm(features_in, features, stride=stride, norm=norm, rngs=rngs)
            if features_in != features
            else None
        )
        first, second = (stride, 1) if early else (1, stride)
        self.conv1 = ConvNorm(features_in, width, stride=first, norm=norm, rngs=rngs)
        self.conv2 = ConvNorm(width, width, size=3, stride=second, norm=norm, rngs=rngs)
        self.conv3 = ConvNorm(width, features, norm=norm, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        if self.shortcut is None:
            shortcut = subsample(x, self.stride)
        else:
            shortcut = self.shortcut(x, train=train)
        y = jax.nn.relu(self.conv1(x, train=train))
        y = jax.nn.relu(self.conv2(y, train=train))
        return jax.nn.relu(shortcut + self.conv3(y, train=train))


class ResNet(nnx.Module):
    """The map after the first `stage` blocks (0: after all of them).

    `slim` halves the map in the 3x3 of the last unit of every block but the fourth, `caffe` in the
    first 1x1 of the next unit. The same positions remain, so with running statistics the two are
    one network; their batch statistics are over different positions. `v1_5` halves the map in the
    3x3 of the first unit of every block but the first: weights of the others fit its shapes, but
    give wrong outputs. `stem_padding` is the max-pool's; by default TensorFlow's for `slim`,
    Caffe's and torch's for the others.
    Every unit's output is named "unit" for `jax.checkpoint`, which can store these only.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        *,
        strides: Strides,
        stem_padding: Padding | None = None,
        stage: int = 0,
        width: int = 64,
        norm: Norm,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem_padding: Padding = stem_padding or own_stem_padding(strides)
        self.conv1 = ConvNorm(3, width, size=7, stride=2, norm=norm, rngs=rngs)
        self.stages = nnx.List()
        channels = width
        build = functools.partial(Bottleneck, early=strides == "caffe", norm=norm, rngs=rngs)
        for index, units in enumerate(blocks[: stage or None]):
            if strides == "slim":
                strided = units - 1 if index < len(blocks) - 1 else None
            else:
                strided = 0 if index > 0 else None
            built = nnx.List()
            for unit in range(units):
                built.append(build(channels, width << index, 2 if unit == strided else 1))
                channels = 4 * (width << index)
            self.stages.append(built)
        self.features = channels

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        x = max_pool(jax.nn.relu(self.conv1(x, train=train)), self.stem_padding)
        for unit in itertools.chain(*self.stages):
            x = checkpoint_name(unit(x, train=train), "unit")
        return x

    def locate(self, axis: Axis) -> Axis:
        axis = axis.convolve(self.conv1.conv).pool(self.stem_padding)
        for unit in itertools.chain(*self.stages):
            axis = axis.convolve(unit.conv1.conv).convolve(unit.conv2.conv)
        return axis


def own_stem_padding(strides: str) -> Padding:
    """The max-pool's padding in the library that the strides come from."""
    return "same" if strides == "slim" else "symmetric"
