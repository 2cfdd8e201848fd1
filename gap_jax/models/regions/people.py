"""Scores of each person by any pooling of pictures, and an image's scores from its people's."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from gap_jax.batch import AttentionMaps, People
from gap_jax.model_config import OverPeople
from gap_jax.models.cells import Grid
from gap_jax.models.pooling import Pooling, SaliencyInput
from gap_jax.models.regions.pool import Boxes, Cells, find_samples, has_area, pool_mean

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
    read: SaliencyInput,
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
    cells = find_samples(grow(boxes, rule.grow, *size), grid, rule.side)
    own, of_people = keys, None
    if keys is not None:
        people = 1 + boxes.shape[1]
        split = jax.vmap(lambda key: jax.random.split(key, people))(keys)
        own, of_people = split[:, 0], split[:, 1:].reshape(-1)
    inside = _cut(x, cells), None if read is None else _cut(read, cells)
    if want_maps:
        person, picture = (
            pooling.maps(*inside, keys=of_people), pooling.maps(x, read, keys=own),
        )  # fmt: skip
        logits = _add_context(person.logits, picture.logits)
        shares = share(logits, boxes, rule.over)
        return PeopleScores(logits, None, _lay_maps(person, picture, shares, cells))
    person, picture = pooling(*inside, keys=of_people), pooling(x, read, keys=own)
    return PeopleScores(_add_context(person, picture), None, None)


def _cut(values: Map, cells: Cells) -> Float[Array, "n p q c"]:
    """Pools the cells of all people of all images as one batch."""
    pooled = pool_mean(values, cells)
    return pooled.reshape(-1, *pooled.shape[2:])


def _add_context(person: Float[Array, "n k"], picture: Float[Array, "b k"]) -> Shares:
    return (person.reshape(len(picture), -1, picture.shape[1]) + picture[:, None]) / 2


def _lay_maps(
    person: AttentionMaps, picture: AttentionMaps, shares: Shares, cells: Cells
) -> AttentionMaps:
    """Adds the maps of people, by their shares in the scores, to those of the picture."""
    b, m = shares.shape[:2]
    present = shares.sum(1)[:, None, None]  # 1, or 0 in a row without people
    scale = cells.rows.shape[3] * cells.columns.shape[3] / cells.rows.shape[2] ** 2

    def lay(values: Float[Array, "n p q classes r"]) -> Float[Array, "b h w k r"]:
        """Spreads the cells of people over the picture's; the mean over cells stays."""
        each = values.reshape(b, m, *values.shape[1:]) * shares[:, :, None, None, :, None]
        return jnp.einsum("bmpqkr,bmph,bmqw->bhwkr", each, cells.rows, cells.columns) * scale

    def by_class(bottom_up: Float[Array, "..."]) -> Float[Array, "..."]:
        return bottom_up if bottom_up.ndim == 5 else bottom_up[:, :, :, None]

    around = by_class(picture.bottom_up) * present[..., None]
    return AttentionMaps(
        (lay(by_class(person.bottom_up)) + around) / 2,
        picture.top_down,
        (lay(person.combined[..., None])[..., 0] + picture.combined * present) / 2,
    )
