"""ResNets and the small backbone: sizes at full scale, small ones compared with numpy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gap_jax.model_config import Strides
from gap_jax.models.backbones.resnet import BLOCKS, ResNet
from gap_jax.models.backbones.small import SmallBackbone
from gap_jax.models.layers import Norm, Padding
from tests.support import oracles
from tests.support.small_networks import UNOPTIMISED, drawn


def sizes(make: Any, px: int) -> tuple[tuple[int, ...], int]:
    """The map's shape for one picture and the number of parameters, without computing values."""
    network = nnx.eval_shape(lambda: make(norm=Norm(), rngs=nnx.Rngs(0)))
    image = jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32)
    graph, state = nnx.split(network)
    map_ = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x, train=False), state, image)
    parameters = jax.tree.leaves(nnx.state(network, nnx.Param))
    assert map_.shape[-1] == network.features
    return map_.shape[1:], sum(leaf.size for leaf in parameters)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet50", 23_508_032), ("resnet101", 42_500_160), ("resnet152", 58_143_808)],
)
def test_resnet_has_published_size(name: str, parameters: int) -> None:
    make = functools.partial(ResNet, BLOCKS[name], strides="slim")
    assert sizes(make, 450) == ((15, 15, 2048), parameters)


@pytest.mark.parametrize(
    ("strides", "sides"),
    [("slim", (57, 29, 15, 15)), ("caffe", (113, 57, 29, 15)), ("v1_5", (113, 57, 29, 15))],
)
def test_stage_map_shapes(strides: Strides, sides: tuple[int, ...]) -> None:
    for stage, side in enumerate(sides, start=1):
        make = functools.partial(ResNet, (1, 1, 1, 1), strides=strides, stage=stage)
        assert sizes(make, 450)[0] == (side, side, 128 << stage)


def test_small_backbone_has_documented_size() -> None:
    assert sizes(SmallBackbone, 96) == ((12, 12, 96), 177_560)
    for stage, shape in enumerate(((48, 48, 24), (24, 24, 48), (12, 12, 64)), start=1):
        assert sizes(functools.partial(SmallBackbone, stage=stage), 96)[0] == shape


def random_resnet(strides: Strides, stage: int = 0, stem_padding: Padding | None = None) -> ResNet:
    return drawn(
        lambda: ResNet(
            (2, 1, 2, 1),
            strides=strides,
            stem_padding=stem_padding,
            stage=stage,
            width=4,
            norm=Norm(),
            rngs=nnx.Rngs(0),
        )
    )


@pytest.mark.slow
def test_resnet_matches_numpy_for_each_stride_placement() -> None:
    """Rows are even and columns odd, because paddings differ on even sizes only."""
    image = np.random.default_rng(0).normal(size=(2, 40, 57, 3)).astype(np.float32)
    maps = []
    for strides in ("slim", "caffe", "v1_5"):
        graph, parameters, statistics = nnx.split(random_resnet(strides), nnx.Param, nnx.BatchStat)
        expected = oracles.resnet(
            in_float64(parameters), in_float64(statistics), np.asarray(image, np.float64), strides
        )
        network = nnx.merge(graph, parameters, statistics)
        ours = jax.jit(functools.partial(network, train=False))(image)
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
        maps.append(ours)
    slim, _, v1_5 = maps
    assert np.abs(slim - v1_5).max() > 0.1 * np.abs(slim).max()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 40, 57, 3), (2, 45, 64, 3)])
def test_slim_and_caffe_differ_only_with_batch_statistics(shape: tuple[int, ...]) -> None:
    image = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    networks = [
        nnx.split(random_resnet(strides, stem_padding="symmetric"))
        for strides in ("slim", "caffe", "v1_5")
    ]

    def run(count: int, *, train: bool) -> list[jax.Array]:
        def apply(graph: nnx.GraphDef, state: nnx.State) -> jax.Array:
            return nnx.merge(graph, state, copy=True)(image, train=train)

        compiled = jax.jit(apply, static_argnums=0, compiler_options=UNOPTIMISED)
        return [compiled(graph, state) for graph, state in networks[:count]]

    fixed, batch = run(3, train=False), run(2, train=True)
    scale = np.abs(fixed[0]).max()
    np.testing.assert_allclose(fixed[0], fixed[1], atol=1e-6 * scale)
    assert np.abs(fixed[0] - fixed[2]).max() > 0.1 * scale
    assert np.abs(batch[0] - batch[1]).max() > 0.01 * np.abs(batch[0]).max()


def in_float64(state: nnx.State) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nnx.to_pure_dict(state))


def test_early_stage_equals_start_of_whole_network() -> None:
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 40, 40, 3)), jnp.float32)
    whole, early = random_resnet("slim"), random_resnet("slim", stage=2)
    del whole.stages[2:]
    both = jax.jit(lambda x: [network(x, train=False) for network in (whole, early)])
    np.testing.assert_array_equal(*both(image))
