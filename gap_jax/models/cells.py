"""Computes the pixel at the centre of each cell of a backbone's map."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from gap_jax.models.layers import Conv, Padding, pool_edges


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a map: cell i is centred on pixel `first + i * stride`; by default on pixel i."""

    cells: int
    first: float = 0.0
    stride: float = 1.0

    def convolve(self, conv: Conv) -> "Axis":
        """The axis after a convolution; padding by half a window keeps the centres."""
        if conv.padding == "symmetric":
            return self._slide(1, conv.stride, (0, 0))  # along both axes, whatever the window
        return self._slide(conv.kernel.shape[0], conv.stride, conv.edges(self.cells))

    def pool(self, padding: Padding, *, side: int = 3, stride: int = 2) -> "Axis":
        """The axis after `max_pool` with the same arguments."""
        before, after, _ = pool_edges(self.cells, padding, side, stride)
        return self._slide(side, stride, (before, after))

    def place(self, pixels: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Converts pixels to cells, clipped to the first and the last cell."""
        return np.clip((pixels - self.first) / self.stride, 0, self.cells - 1)

    def _slide(self, side: int, stride: int, edges: tuple[int, int]) -> "Axis":
        return Axis(
            (self.cells + sum(edges) - side) // stride + 1,
            self.first + self.stride * ((side - 1) / 2 - edges[0]),
            self.stride * stride,
        )


class Grid(NamedTuple):
    """Both axes of a map."""

    rows: Axis
    columns: Axis
