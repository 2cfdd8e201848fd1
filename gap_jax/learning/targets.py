"""Draws joint heatmaps on the device from the keypoints of a batch."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gap_jax.model_config import PoseConfig


class PoseTargets(NamedTuple):
    """The targets of the pose branch; only `valid` joints have a loss."""

    heatmaps: Float[Array, "b h w 16"]
    valid: Bool[Array, "b 16"]


def draw_heatmaps(
    keypoints: Float[Array, "b people 16 3"],
    disc_radius: Float[Array, " b"],
    image_size_px: tuple[int, ...],
    map_size: tuple[int, ...],
    cfg: PoseConfig,
) -> PoseTargets:
    """Draws heatmaps of an H x W image on h x w cells, the maximum over people.

    Cell (i, j) represents the point (i*H/h, j*W/w), where the reference's resizing samples. The
    backbone's cell centres (`models/cells.py`) differ from it if the stride is not H/h: at 450 px
    a ResNet's cell i is centred on pixel 32 i, and its target is that of the point 30 i.

    With d the distance from that point to a joint: `disc` is 1 where d <= disc_radius, both in
    pixels; `gaussian` is exp(-d^2 / (2 sigma^2)), both in cells. A joint is valid if it is
    annotated for at least one person, visible or not, inside the crop or not.
    """
    x, y, visibility = jnp.moveaxis(keypoints.astype(jnp.float32), -1, 0)
    annotated = (visibility > 0) & jnp.isfinite(x) & jnp.isfinite(y)
    (height, width), (rows, columns) = image_size_px, map_size
    dy = _offsets(y, height, rows)[..., :, None]
    dx = _offsets(x, width, columns)[..., None, :]
    if cfg.target == "disc":
        drawn = dy**2 + dx**2 <= disc_radius[:, None, None, None, None] ** 2
    else:
        squared_cells = (dy * (rows / height)) ** 2 + (dx * (columns / width)) ** 2
        drawn = jnp.exp(-squared_cells / (2 * cfg.sigma_cells**2))
    per_person = jnp.where(annotated[..., None, None], drawn, 0).astype(jnp.float32)
    heatmaps = jnp.moveaxis(per_person.max(axis=1, initial=0), 1, -1)
    return PoseTargets(heatmaps, annotated.any(axis=1))


def _offsets(
    position: Float[Array, "b people 16"], side_px: int, cells: int
) -> Float[Array, "b people 16 {cells}"]:
    corners = jnp.asarray(np.arange(cells) * side_px / cells, jnp.float32)
    return corners[None, None, None, :] - position[..., None]
