"""Hard attention: R-CNN's scores of people's boxes, and R*CNN's with a second region.

phi(r)   = relu(fc7(relu(fc6(pool(r)))))                  with dropout after each relu
score_jk = w_k . phi(box_j) + b_k                         R-CNN
         + max over s of w'_k . phi(region_js) + b'_k     R*CNN
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from gap_jax.batch import AttentionMaps, People
from gap_jax.model_config import OverPeople, RegionPool
from gap_jax.models.arguments import check_channels, check_choice, check_counts, check_dropout
from gap_jax.models.cells import Grid
from gap_jax.models.layers import Conv, Dense
from gap_jax.models.pooling import drop
from gap_jax.models.regions.people import Keys, Map, PeopleScores, find_first_maximum, share
from gap_jax.models.regions.pool import (
    Boxes,
    Cells,
    cover,
    find_bins,
    find_samples,
    has_area,
    pool_max,
    pool_mean,
)

CLASSIFIER = nnx.initializers.normal(0.01)


class RegionPooling(nnx.Module):
    """Scores people by regions of side x side cells; with `secondary` it is R*CNN.

    A map of more than `channels` first goes through a 1x1 convolution to so many. `hidden` are the
    dense layers, fc6 and fc7 of VGG16, which all regions share; they compute in the type of the
    map, the scores in float32. A person without secondary regions has the first term only.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        widths: tuple[int, ...] = (4096, 4096),
        side: int = 7,
        pool: RegionPool = "max",
        channels: int = 512,
        secondary: bool = False,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(features=features, classes=classes, side=side, channels=channels)
        for width in widths:
            check_counts(widths=width)
        check_choice("pool", pool, RegionPool)
        check_dropout(dropout)
        self.features, self.side = features, side
        self.pool: RegionPool = pool
        self.dropout = dropout
        wide = features > channels
        self.reduce = Conv(features, channels, bias=True, rngs=rngs) if wide else None
        sizes = (side * side * min(features, channels), *widths)
        self.hidden = nnx.List(Dense(*pair, rngs=rngs) for pair in pairwise(sizes))
        scored: Any = {"init": CLASSIFIER, "rngs": rngs}
        self.primary = Dense(sizes[-1], classes, **scored)
        self.secondary = Dense(sizes[-1], classes, **scored) if secondary else None

    def __call__(
        self,
        x: Map,
        people: People,
        grid: Grid,
        *,
        over: OverPeople = "max",
        keys: Keys,
        want_maps: bool = False,
    ) -> PeopleScores:
        """Scores people; the mean of the maps' `combined` over cells is the image's score.

        The maps lay each term over the cells of its region, the box and the winning one:
        `bottom_up` adds the shares that regions have in a cell, times the number of cells;
        `top_down` is the mean of their terms there.
        """
        check_channels(x, self.features)
        b, m, r = people.regions.shape[:3]
        boxes = people.boxes[:, :, None]
        if self.secondary is not None:
            boxes = jnp.concatenate([boxes, people.regions], axis=2)
        cells = self._find_cells(boxes.reshape(b, -1, 4), grid)
        phi = self._describe(x, cells, keys).reshape(*boxes.shape[:3], -1)
        primary = self.primary(phi[:, :, 0], exactly=True)
        if self.secondary is None:
            shares = share(primary, people.boxes, over)
            maps = lay_terms([Term(shares, primary, cells)]) if want_maps else None
            return PeopleScores(primary, None, maps)
        secondary = self.secondary(phi[:, :, 1:], exactly=True)
        is_winner = find_winners(secondary, people.regions)
        logits = primary + jnp.where(is_winner, secondary, 0).sum(2)
        winner = jnp.where(is_winner.any(2), is_winner.argmax(2) if r else 0, -1)
        if not want_maps:
            return PeopleScores(logits, winner, None)
        shares = share(logits, people.boxes, over)
        of_regions = jnp.where(is_winner, shares[:, :, None], 0)
        ours, theirs = _split(cells, m)
        flat = b, m * r, logits.shape[2]  # -1 would be ambiguous without regions
        terms = [
            Term(of_regions.reshape(flat), secondary.reshape(flat), theirs),
            Term(shares, primary, ours),
        ]
        return PeopleScores(logits, winner, lay_terms(terms))

    def _find_cells(self, boxes: Boxes, grid: Grid) -> Cells:
        return (find_bins if self.pool == "max" else find_samples)(boxes, grid, self.side)

    def _describe(self, x: Map, cells: Cells, keys: Keys) -> Float[Array, "b n f"]:
        """Computes phi of all regions; each has dropout of its own."""
        if self.reduce is not None:
            x = jax.nn.relu(self.reduce(x))
        pooled = pool_max(x, cells) if self.pool == "max" else pool_mean(x, cells)
        values = pooled.reshape(*pooled.shape[:2], -1)
        drawn = None
        if keys is not None:
            drawn = jax.vmap(lambda key: jax.random.split(key, len(self.hidden)))(keys)
        for number, layer in enumerate(self.hidden):
            of_layer = None if drawn is None else drawn[:, number]
            values = jax.nn.relu(layer(values))
            values = drop(values, of_layer, self.dropout, channels=False)
        return values


class Term(NamedTuple):
    """A term of scores of n regions, and the shares of the regions in the image's scores."""

    shares: Float[Array, "b n k"]
    scores: Float[Array, "b n k"]
    cells: Cells


def find_winners(
    scores: Float[Array, "b m r k"], regions: Float[Array, "b m r 4"]
) -> Bool[Array, "b m r k"]:
    """Marks the region with the highest score of each class, the first of equals."""
    is_present = jnp.broadcast_to(has_area(regions)[..., None], scores.shape)
    return find_first_maximum(scores, is_present, 2)


def lay_terms(terms: list[Term]) -> AttentionMaps:
    """Lays the terms of the image's scores over the cells of their regions."""
    bottom_up = combined = jnp.zeros(())
    for shares, scores, cells in terms:
        rows, columns = cover(cells)
        count = rows.shape[-1] * columns.shape[-1]
        inside, weighted = (
            jnp.einsum("bnk,bnh,bnw->bhwk", each, rows, columns) * count
            for each in (shares, shares * scores)
        )
        bottom_up, combined = bottom_up + inside, combined + weighted
    is_inside = bottom_up > 0
    top_down = jnp.where(is_inside, combined / jnp.where(is_inside, bottom_up, 1), 0)
    return AttentionMaps(bottom_up[..., None], top_down[..., None], combined)


def _split(cells: Cells, people: int) -> tuple[Cells, Cells]:
    """Splits the cells of the boxes from those of the secondary regions."""
    each = [bins.reshape(len(bins), people, -1, *bins.shape[2:]) for bins in cells]
    ours = Cells(*(bins[:, :, 0] for bins in each))
    rest = [bins[:, :, 1:] for bins in each]
    return ours, Cells(
        *(bins.reshape(len(bins), math.prod(bins.shape[1:3]), *bins.shape[3:]) for bins in rest)
    )
