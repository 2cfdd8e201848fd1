"""Compares the cell centres of every backbone with the centres of mass of gradients."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.gap_pose import get_config
from gap_jax.learning.state import describe_model
from gap_jax.model_config import Strides
from gap_jax.models.backbones import bn_inception, inception_v3
from gap_jax.models.backbones.efficientnet_lite import STAGES, EfficientNetLite
from gap_jax.models.backbones.inception import Conv, Fork, Inception, Stages, Step, Steps
from gap_jax.models.backbones.resnet import ResNet
from gap_jax.models.backbones.small import SmallBackbone
from gap_jax.models.backbones.vgg import VGG16
from gap_jax.models.cells import Axis
from gap_jax.models.layers import Norm
from gap_jax.models.network import Backbone
from tests.support.small_networks import UNOPTIMISED

NARROW = 32  # divides the channels of an Inception
SIDES = (448, 417)  # even and odd at every pool


def shorten(stages: Stages) -> Stages:
    """Keeps the first and the last block of each stage, with fewer channels."""
    return tuple(
        tuple(_narrow(steps) for steps in dict.fromkeys((blocks[0], blocks[-1])))
        for blocks in stages
    )


def _narrow(steps: Steps) -> Steps:
    made: list[Step] = []
    for step in steps:
        if isinstance(step, Conv):
            step = dataclasses.replace(step, features=max(1, step.features // NARROW))
        elif isinstance(step, Fork):
            step = Fork(tuple(map(_narrow, step.branches)))
        made.append(step)
    return tuple(made)


def inception(stages: Stages) -> Backbone:
    return Inception(shorten(stages), bias=True, norm=Norm(), rngs=nnx.Rngs(0))


def resnet(strides: Strides, stage: int = 0) -> Backbone:
    return ResNet(
        (1, 2, 1, 1), strides=strides, stage=stage, width=1, norm=Norm(), rngs=nnx.Rngs(0)
    )


def efficientnet_lite() -> Backbone:
    """One block of each stage, with few channels."""
    stages = tuple(
        stage._replace(depth=1, width=1, expansion=min(stage.expansion, 2))
        for stage in STAGES["efficientnet_lite0"]
    )
    return EfficientNetLite(stages, stem=1, head=1, norm=Norm(), rngs=nnx.Rngs(0))


MAKERS: dict[str, Callable[[], Backbone]] = {
    "resnet slim": lambda: resnet("slim"),
    "resnet slim, stage 2": lambda: resnet("slim", 2),
    "resnet caffe": lambda: resnet("caffe"),
    "resnet v1_5": lambda: resnet("v1_5"),
    "small": lambda: SmallBackbone(norm=Norm(), rngs=nnx.Rngs(0)),
    "vgg16, stage 7": lambda: VGG16(stage=7, width=1, rngs=nnx.Rngs(0)),
    "bn_inception": lambda: inception(bn_inception.STAGES),
    "inception_v3": lambda: inception(inception_v3.STAGES),
    "efficientnet_lite": efficientnet_lite,
}


def averaging(make: Callable[[], Backbone]) -> Backbone:
    """Builds a backbone whose convolutions average their windows and whose norms do nothing."""
    graph, shapes = nnx.split(nnx.eval_shape(make))

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            return jnp.full(leaf.shape, 1 / np.prod(leaf.shape[:-1]), leaf.dtype)
        return jnp.full(leaf.shape, float("gamma" in name or "var" in name), leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, shapes))


def measure_centres(backbone: Backbone) -> list[np.ndarray]:
    """Measures the centres of mass of cells' gradients, along a middle column and row.

    A network of means is linear but for its max-pools, so its response to a ramp is the centre of
    mass of its gradient. A max-pool takes the far end of its window in a rising ramp and the near
    end in a falling one; the centre is between the two.
    """
    rising = np.moveaxis(np.indices(SIDES), 0, -1)
    images = np.stack([np.ones((*SIDES, 2)), rising, rising[::-1, ::-1]])
    graph, state = nnx.split(backbone)

    def respond(state: nnx.State, image: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(image, train=False).mean(-1)

    images = images / 1000  # below relu6's 6
    channels = [np.repeat(images[..., axis, None], 3, -1) for axis in (0, 1)]
    cells = jax.jit(respond, compiler_options=UNOPTIMISED)(
        state, np.concatenate(channels).astype(np.float32)
    )
    one, y, y_falling, _, x, x_falling = np.asarray(cells, np.float64)
    rows, columns = (
        (up / one + side - 1 - down / one) / 2
        for up, down, side in zip((y, x), (y_falling, x_falling), SIDES, strict=True)
    )
    return [rows[:, rows.shape[1] // 2], columns[columns.shape[0] // 2]]


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_cell_centres_match_gradient_centres(name: str) -> None:
    backbone = averaging(MAKERS[name])
    for side, found in zip(SIDES, measure_centres(backbone), strict=True):
        axis = backbone.locate(Axis(side))
        assert axis.cells == len(found)
        middle = slice(axis.cells // 2 - 1, axis.cells // 2 + 2)  # a border would cut windows
        due = axis.first + axis.stride * np.arange(axis.cells)
        np.testing.assert_allclose(found[middle], due[middle], atol=0.5)


@pytest.mark.slow
def test_centres_at_published_sizes() -> None:
    """At 450 px a ResNet's 15 cells are 32 pixels apart."""

    def locate(name: str, px: int) -> tuple[float, float]:
        axis = nnx.eval_shape(MAKERS[name]).locate(Axis(px))
        return axis.first, axis.stride

    assert locate("resnet slim", 450) == locate("resnet caffe", 450) == (0, 32)
    assert locate("resnet slim", 448) == (2, 32)
    assert locate("resnet v1_5", 448) == (0, 32)
    assert locate("small", 96) == (0, 8)
    ours, theirs = (
        nnx.eval_shape(lambda stages=stages: inception(stages)).locate(Axis(299))
        for stages in (inception_v3.STAGES, inception_v3.TORCH_STAGES)
    )
    assert ours == theirs


def test_grid_rows_follow_height_and_columns_follow_width() -> None:
    model, variables = describe_model(get_config("demo").resolved(), classes=3)
    grid = model.locate_cells(variables, 64, 32)
    assert grid.rows.cells == 2 * grid.columns.cells
