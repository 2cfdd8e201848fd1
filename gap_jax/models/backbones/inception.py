"""The parts of Inception networks: rectified convolutions, pools, and branches of both."""

import dataclasses
import itertools
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from gap_jax.models.cells import Axis
from gap_jax.models.layers import ConvNorm, Norm, Padding, max_pool


@dataclasses.dataclass(frozen=True)
class Conv:
    """relu(norm(convolution)), with arguments of `ConvNorm`."""

    features: int
    size: int | tuple[int, int] = 1
    stride: int = 1
    padding: Padding = "symmetric"


@dataclasses.dataclass(frozen=True)
class Pool:
    """A 3x3 pool; a mean has stride 1 and does not count padding, a "mean of nine" does."""

    of: Literal["max", "mean", "mean of nine"]
    stride: int = 1
    padding: Padding = "same"


@dataclasses.dataclass(frozen=True)
class Fork:
    """Branches that read the same map; their outputs are concatenated."""

    branches: tuple["Steps", ...]


Step: TypeAlias = Conv | Pool | Fork
Steps: TypeAlias = tuple[Step, ...]
Stages: TypeAlias = tuple[tuple[Steps, ...], ...]  # stages of blocks


def fork(*branches: Steps) -> Steps:
    """Makes a fork the only step of a block."""
    return (Fork(branches),)


class Block(nnx.Module):
    """A sequence of steps."""

    def __init__(
        self, features: int, steps: Steps, *, bias: bool, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        self.steps = steps
        self.layers = nnx.List()  # of the steps with parameters; a fork is a list of blocks
        for step in steps:
            match step:
                case Conv():
                    arguments = vars(step) | {"bias": bias, "norm": norm, "rngs": rngs}
                    self.layers.append(ConvNorm(features, **arguments))
                    features = step.features
                case Fork(branches):
                    built = nnx.List(
                        Block(features, each, bias=bias, norm=norm, rngs=rngs) for each in branches
                    )
                    self.layers.append(built)
                    features = sum(block.features for block in built)
        self.features = features

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        layers = iter(self.layers)
        for step in self.steps:
            match step:
                case Conv():
                    x = jax.nn.relu(next(layers)(x, train=train))
                case Fork():
                    x = jnp.concatenate([block(x, train=train) for block in next(layers)], axis=-1)
                case Pool("max", stride, padding):
                    x = max_pool(x, padding, stride=stride)
                case Pool(of):
                    counts_padding = of == "mean of nine"
                    x = nnx.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=counts_padding)
        return x

    def locate(self, axis: Axis) -> Axis:
        """If a fork's branches differ in their centres, their mean counts, weighted by channels."""
        layers = iter(self.layers)
        for step in self.steps:
            match step:
                case Conv():
                    axis = axis.convolve(next(layers).conv)
                case Fork():
                    blocks = next(layers)
                    found = [(block.locate(axis), block.features) for block in blocks]
                    first = sum(each.first * features for each, features in found)
                    total = sum(features for _, features in found)
                    axis = dataclasses.replace(found[0][0], first=first / total)
                case Pool("max", stride, padding):
                    axis = axis.pool(padding, stride=stride)
        return axis


class Inception(nnx.Module):
    """The map after the first `stage` stages (0: after all), each a tuple of blocks.

    With `bias` the convolutions have a bias before the norm. Every block's output is named "unit"
    for `jax.checkpoint`.
    """

    def __init__(
        self, stages: Stages, *, stage: int = 0, bias: bool, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        self.stages = nnx.List()
        self.features = 3
        for blocks in stages[: stage or None]:
            built = nnx.List()
            for steps in blocks:
                built.append(Block(self.features, steps, bias=bias, norm=norm, rngs=rngs))
                self.features = built[-1].features
            self.stages.append(built)

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        for block in itertools.chain(*self.stages):
            x = checkpoint_name(block(x, train=train), "unit")
        return x

    def locate(self, axis: Axis) -> Axis:
        for block in itertools.chain(*self.stages):
            axis = block.locate(axis)
        return axis
