"""Scores of each person by any pooling of pictures, and an image's scores from its people's."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from gap_jax.batch import AttentionMaps, People
from gap_jax.model_config import OverPeople
from gap_jax.models.cells import Grid
from gap_jax.models.pooling import Pooling
from gap_jax.models.regions.pool import Boxes, find_samples, has_area, pool_mean

Map = Float[Array, "b h w c"]
Keys = Key[Array, " b"] | None
Shares = Float[Array, "b m k"]


@dataclasses.dataclass(frozen=True)
class PeopleRule:
    """How people are scored: `over` them an image has the largest score, or the mean.

    `grow` and `side` are those of the regions in which a pooling of pictures scores people.
    """

    over: OverPeople = "max"
    grow: float = 1.5
    side: int = 7


class PeopleScores(NamedTuple):
    """The scores of m people, the winning region of each class, and maps if they are wanted."""

    logits: Float[Array, "b m k"]
    winner: Int[Array, "b m k"] | None
    maps: AttentionMaps | None


def whole_picture(rows: int, height: int, width: int) -> People:
    """Returns one person in each picture, whose box is the picture."""
    box = jnp.array([0, 0, width, height], jnp.float32)
    return People(
        jnp.broadcast_to(box[None, None], (rows, 1, 4)),
        jnp.zeros((rows, 1, 0, 4)),
        jnp.full((rows, 1), -1, jnp.int32),
    )


def grow(boxes: Boxes, factor: float, height: int, width: int) -> Boxes:
    """Scales the sides of boxes about their centres, and clips them to the picture."""
    low, high = boxes[..., :2], boxes[..., 2:]
    middle, half = (low + high) / 2, (high - low) / 2 * factor
    ends = jnp.array([width, height], boxes.dtype)[None, None]
    grown = (jnp.clip(each, 0, ends) for each in (middle - half, middle + half))
    return jnp.concatenate([*grown], axis=-1)


def find_first_maximum(
    values: Float[Array, "..."], is_present: Bool[Array, "..."], axis: int
) -> Bool[Array, "..."]:
    """Marks the first of the largest present values along an axis; none if none is present."""
    if not values.shape[axis]:
        return jnp.zeros(values.shape, bool)
    first = jnp.where(is_present, values, -jnp.inf).argmax(axis, keepdims=True)
    return (jax.lax.broadcasted_iota(first.dtype, values.shape, axis) == first) & is_present


def share(person_logits: Float[Array, "b m k"], boxes: Boxes, over: OverPeople) -> Shares:
    """Returns the share of each person in each score of the image; absent people have none."""
    is_present = has_area(boxes)[..., None]
    if over == "max":
        return find_first_maximum(person_logits, is_present, 1).astype(jnp.float32)
    count = jnp.maximum(is_present.sum(1, keepdims=True), 1)
    return jnp.broadcast_to(is_present / count, person_logits.shape)


def score_people(
    pooling: Pooling,
    x: Map,
    read: Map | None,
    boxes: Boxes,
    grid: Grid,
    size: tuple[int, int],
    rule: PeopleRule,
    *,
    keys: Keys,
    want_maps: bool,
) -> PeopleScores:
    """Scores people by a pooling of pictures: mean of the scores of the person and the picture.

    The person is the map in the box, grown by `rule.grow`, as RoIAlign of side x side cells; the
    picture is the context. Both have the same parameters, so they are those of the pooling.

    Of the maps `combined` has the image's scores as its mean, with each person's cells laid on the
    cells of the picture; `bottom_up` is laid likewise and `top_down` is the picture's alone.
    """
    b, m = boxes.shape[:2]
    cells = find_samples(grow(boxes, rule.grow, *size), grid, rule.side)

    def cut(values: Map | None) -> Map | None:
        if values is None:
            return None
        return pool_mean(values, cells).reshape(b * m, rule.side, rule.side, -1)

    own, of_people = keys, None
    if keys is not None:
        split = jax.vmap(lambda key: jax.random.split(key, 1 + m))(keys)
        own, of_people = split[:, 0], split[:, 1:].reshape(b * m)
    parts: list[Any] = []
    compute = pooling.maps if want_maps else pooling
    for values, hidden, drawn in ((cut(x), cut(read), of_people), (x, read, own)):
        parts.append(compute(values, hidden, keys=drawn))
    person, picture = (each.logits if want_maps else each for each in parts)
    logits = (person.reshape(b, m, -1) + picture[:, None]) / 2
    if not want_maps:
        return PeopleScores(logits, None, None)
    shares = share(logits, boxes, rule.over)
    rows, columns = cells.rows, cells.columns

    def lay(values: Float[Array, "bm p q k r"]) -> Float[Array, "b h w k r"]:
        """Spreads the cells of people over the picture's; the mean over cells stays."""
        k = shares.shape[2]
        values = jnp.broadcast_to(values, (*values.shape[:3], k, values.shape[4]))
        values = values.reshape(b, m, *values.shape[1:]) * shares[:, :, None, None, :, None]
        spread = jnp.einsum("bmpqkr,bmph,bmqw->bhwkr", values, rows, columns)
        return spread * (rows.shape[3] * columns.shape[3] / rule.side**2)

    def by_class(bottom_up: Float[Array, "..."]) -> Float[Array, "n h w k r"]:
        return bottom_up if bottom_up.ndim == 5 else bottom_up[:, :, :, None]

    maps, around = parts
    present = shares.sum(1)[:, None, None]  # 1, or 0 in a row without people
    maps = AttentionMaps(
        (lay(by_class(maps.bottom_up)) + by_class(around.bottom_up) * present[..., None]) / 2,
        around.top_down,
        (lay(maps.combined[..., None])[..., 0] + around.combined * present) / 2,
    )
    return PeopleScores(logits, None, maps)
