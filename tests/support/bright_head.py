"""A network whose bottom-up map is the brightness of its crop, and points of planted squares."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gap_jax.learning.state import Model, Variables, split_network
from gap_jax.models.cells import Axis
from gap_jax.models.network import Network
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.pose import PoseBranch
from gap_jax.models.saliency import LinearSaliency
from tests.support.tiny_data import CLASSES

CELL_PX = 4


class Brightness(nnx.Module):
    """Returns the brightness above black at each cell's point."""

    features = 1

    def __init__(self, cell_px: int = CELL_PX) -> None:
        self.cell_px = cell_px

    def __call__(self, x: Float[Array, "b y x 3"], *, train: bool) -> Float[Array, "b h w 1"]:
        del train
        return x[:, :: self.cell_px, :: self.cell_px].mean(-1, keepdims=True) + 128

    def locate(self, axis: Axis) -> Axis:
        return Axis(-(-axis.cells // self.cell_px), 0.0, float(self.cell_px))


def bright_joints() -> PoseBranch:
    """Makes a pose branch that finds every joint where the crop is brightest."""
    branch = PoseBranch(1, (), rngs=nnx.Rngs(0))
    branch.joints.kernel[...] = jnp.full_like(branch.joints.kernel[...], 1 / 255)
    return branch


def bright_head(cell_px: int = CELL_PX) -> tuple[Model, Variables]:
    """Makes a network whose bottom-up map is the brightness of its crop."""
    reads = LinearSaliency(1, init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    pooling = AttentionalPooling(1, len(CLASSES), saliency=reads, rngs=nnx.Rngs(0))
    network = Network(Brightness(cell_px), pooling, mean=(128.0, 128.0, 128.0))
    return split_network(network)


def centre_of(mass: np.ndarray) -> tuple[float, float]:
    """Returns x and y of the centre of mass."""
    y, x = np.indices(mass.shape)
    return float((mass * x).sum() / mass.sum()), float((mass * y).sum() / mass.sum())
