"""Small networks for tests; numpy draws their parameters, so that nothing is compiled for them."""

import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from gap_jax.models.backbones.resnet import ResNet
from gap_jax.models.backbones.small import SmallBackbone
from gap_jax.models.layers import Norm
from gap_jax.models.network import Network
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.pose import PoseBranch
from gap_jax.models.saliency import FactoredSaliency, LinearSaliency, Saliency

UNOPTIMISED = {"xla_backend_optimization_level": 0}  # a test compiles more than it computes
Module = TypeVar("Module", bound=nnx.Module)


def by_path(state: Any) -> dict[str, Array]:
    """The leaves of a state by names like "saliency/chain/0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def drawn(make: Callable[[], Module]) -> Module:
    """Builds a module with values that depend on names and shapes and are not small."""
    graph, shapes = nnx.split(nnx.eval_shape(make))

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Array:
        name = jax.tree_util.keystr(path)
        values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=leaf.shape)
        if "gamma" in name or "var" in name:
            values = 0.5 + np.abs(values)
        elif "kernel" in name:
            values /= np.sqrt(np.prod(leaf.shape[:-1]) / 2)
        return jnp.asarray(values, leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, shapes))


def small_network(saliency: str = "activation", *, residual: bool = False) -> Network:
    """Builds three layers of the small backbone, or a width-8 ResNet with one unit a block.

    A 3x3 pose branch is there for the saliency to read; batch norm is over two images.
    """

    def make() -> Network:
        rngs, norm = nnx.Rngs(0), Norm(2)
        backbone = (
            ResNet((1, 1, 1, 1), strides="slim", width=8, norm=norm, rngs=rngs)
            if residual
            else SmallBackbone(stage=3, norm=norm, rngs=rngs)
        )
        pose = PoseBranch(backbone.features, (12,), kernel_size=3, rngs=rngs)
        read: Saliency
        match saliency:
            case "linear":
                read = LinearSaliency(12, rngs=rngs)
            case "weight":
                read = FactoredSaliency(12, (8, 4), space="weight", rngs=rngs)
            case _:
                read = FactoredSaliency(12, (8, 4), rngs=rngs)
        pooling = AttentionalPooling(backbone.features, 5, saliency=read, dropout=0.5, rngs=rngs)
        return Network(backbone, pooling, pose, saliency_source="hidden")

    return drawn(make)


def pictures(*, rows: int = 4, side_px: int = 40) -> Array:
    """Draws normalised pixels."""
    values = np.random.default_rng(0).normal(size=(rows, side_px, side_px, 3))
    return jnp.asarray(values, jnp.float32)
