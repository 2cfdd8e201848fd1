"""EfficientNet-Lite0, 1 and 2: inverted residuals without squeeze-and-excitation, with relu6."""

import itertools
from typing import NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from gap_jax.models.cells import Axis
from gap_jax.models.layers import ConvNorm, Norm


class Stage(NamedTuple):
    """Blocks in a row: the first has the stride; `expansion` multiplies a block's channels."""

    size: int  # of the depthwise window
    stride: int
    expansion: int
    depth: int
    width: int


def _scale(depths: tuple[int, ...], widths: tuple[int, ...]) -> tuple[Stage, ...]:
    shared = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
    return tuple(
        Stage(*rest, depth, width)
        for rest, depth, width in zip(shared, depths, widths, strict=True)
    )


WIDTHS = (16, 24, 40, 80, 112, 192, 320)
STAGES: dict[str, tuple[Stage, ...]] = {
    "efficientnet_lite0": _scale((1, 2, 2, 3, 3, 4, 1), WIDTHS),
    "efficientnet_lite1": _scale((1, 3, 3, 4, 4, 5, 1), WIDTHS),
    "efficientnet_lite2": _scale((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


class InvertedResidual(nnx.Module):
    """1x1 to more channels, depthwise, 1x1 to few channels, plus the input if the shapes are equal.

    relu6 follows the first two; the sum has none. With an expansion of 1 there is no first 1x1.
    """

    def __init__(
        self, features_in: int, stage: Stage, stride: int, *, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        inner = features_in * stage.expansion
        self.expand = (
            ConvNorm(features_in, inner, norm=norm, rngs=rngs) if stage.expansion > 1 else None
        )
        self.depthwise = ConvNorm(
            inner, inner, size=stage.size, stride=stride, padding="same", depthwise=True,
            norm=norm, rngs=rngs,
        )  # fmt: skip
        self.project = ConvNorm(inner, stage.width, norm=norm, rngs=rngs)
        self.is_residual = stride == 1 and features_in == stage.width

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        y = x if self.expand is None else jax.nn.relu6(self.expand(x, train=train))
        y = jax.nn.relu6(self.depthwise(y, train=train))
        y = self.project(y, train=train)
        return x + y if self.is_residual else y


class EfficientNetLite(nnx.Module):
    """The map after the first `stage` stages (0: after all).

    The first stage begins with the stem, the last ends with the 1x1 convolution to `head` channels,
    whose mean is the input of ImageNet's classifier. Paddings are TensorFlow's. Every block's
    output is named "unit" for `jax.checkpoint`.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        *,
        stage: int = 0,
        stem: int = 32,
        head: int = 1280,
        norm: Norm,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = ConvNorm(3, stem, size=3, stride=2, padding="same", norm=norm, rngs=rngs)
        self.stages = nnx.List()
        self.features = stem
        for each in stages[: stage or None]:
            blocks = nnx.List()
            for index in range(each.depth):
                stride = each.stride if index == 0 else 1
                blocks.append(InvertedResidual(self.features, each, stride, norm=norm, rngs=rngs))
                self.features = each.width
            self.stages.append(blocks)
        self.head: ConvNorm | None = None
        if len(self.stages) == len(stages):
            self.head = nnx.data(ConvNorm(self.features, head, norm=norm, rngs=rngs))
            self.features = head

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        x = jax.nn.relu6(self.stem(x, train=train))
        for block in itertools.chain(*self.stages):
            x = checkpoint_name(block(x, train=train), "unit")
        return x if self.head is None else jax.nn.relu6(self.head(x, train=train))

    def locate(self, axis: Axis) -> Axis:
        axis = axis.convolve(self.stem.conv)
        for block in itertools.chain(*self.stages):
            axis = axis.convolve(block.depthwise.conv)
        return axis
