"""Scores of people: R-CNN, R*CNN and poolings of pictures in each person's box."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from data_pipelines.config import DataConfig
from gap_jax.batch import Outputs, People
from gap_jax.config import Config
from gap_jax.model_config import ModelConfig, OverPeople, PoseConfig
from gap_jax.models.build import build
from gap_jax.models.cells import Axis, Grid
from gap_jax.models.network import Network
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.regions.people import PeopleRule, PeopleScores, grow
from gap_jax.models.regions.rcnn import RegionPooling
from gap_jax.models.saliency import UniformSaliency
from tests.support.literal_regions import Values, bin_edges, literal_person
from tests.support.small_networks import UNOPTIMISED, by_path, drawn

F, K, SIDE, ROWS, SIDE_PX = 5, 4, 2, 2, 40
GRID = Grid(Axis(6, 7.5, 16.0), Axis(7, 7.5, 16.0))
ABSENT = (0.0, 0.0, 0.0, 0.0)


def rstarcnn(*, secondary: bool = True, dropout: float = 0.0) -> RegionPooling:
    return drawn(
        lambda: RegionPooling(
            F, K, widths=(7, 6), side=SIDE, channels=3, secondary=secondary, dropout=dropout,
            rngs=nnx.Rngs(0),
        )
    )  # fmt: skip


def draw_people(seed: int = 0, *, size: tuple[int, int] = (96, 112)) -> People:
    """Three people in each image; the second is absent, the third has no secondary region."""
    rng = np.random.default_rng(seed)

    def boxes(*shape: int) -> np.ndarray:
        corners = rng.uniform(0, 1, (*shape, 2, 2)) * size[::-1]
        return np.concatenate([corners.min(-2), corners.max(-2) + 4], axis=-1)

    own, regions = boxes(ROWS, 3), boxes(ROWS, 3, 4)
    own[:, 1] = regions[:, 2] = regions[:, 0, 1] = ABSENT
    label = np.array([[1, -1, 2], [-1, -1, -1]], np.int32)
    return People(
        jnp.asarray(own, jnp.float32), jnp.asarray(regions, jnp.float32), jnp.asarray(label)
    )


def draw_map() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ROWS, 6, 7, F)).astype(np.float32)


def literal(v: Values, people: People, over: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of people and images, and winners, one person at a time."""
    boxes, regions, _ = (np.asarray(each) for each in people)
    scores, winners = np.zeros((ROWS, 3, K)), np.zeros((ROWS, 3, K), int)
    images = []
    for b in range(ROWS):
        present = []
        for j in range(3):
            scores[b, j], winners[b, j] = literal_person(
                v, v["x"][b], boxes[b, j], regions[b, j], GRID, SIDE
            )
            if boxes[b, j, 2] > boxes[b, j, 0]:
                present.append(scores[b, j])
        images.append(np.max(present, axis=0) if over == "max" else np.mean(present, axis=0))
    return scores, winners, np.stack(images)


@pytest.mark.parametrize("over", ["max", "mean"])
def test_rstarcnn_matches_literal_loop(over: OverPeople) -> None:
    """Scores, winners and maps; gradients along a direction by differences in float64."""
    graph, state = nnx.split(rstarcnn(), nnx.Param)
    people, x = draw_people(), draw_map()
    weight = np.random.default_rng(3).normal(size=(ROWS, K)).astype(np.float32)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def compute(state: nnx.State, x: Array, people: People) -> tuple[Any, ...]:
        def total(state: nnx.State, x: Array) -> tuple[Array, Any]:
            pooling = nnx.merge(graph, state)
            found = pooling(x, people, GRID, over=over, keys=None, want_maps=True)
            assert found.maps is not None
            return (found.maps.logits * weight).sum(), found

        return jax.grad(total, argnums=(0, 1), has_aux=True)(state, x)

    (parameters, dx), found = compute(state, jnp.asarray(x), people)
    values = {path: np.asarray(leaf, np.float64) for path, leaf in by_path(state).items()}
    values["x"] = x.astype(np.float64)
    scores, winners, images = literal(values, people, over)
    np.testing.assert_allclose(found.logits, scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.winner, winners)
    assert (winners[:, 2] == -1).all() and not (winners[:, 0] == 1).any()
    np.testing.assert_allclose(found.maps.logits, images, rtol=1e-4, atol=1e-5)
    product = (found.maps.bottom_up * found.maps.top_down).sum(-1)
    np.testing.assert_allclose(product, found.maps.combined, rtol=1e-4, atol=1e-4)
    given = {**by_path(parameters), "x": dx}
    assert all(np.asarray(leaf).any() for leaf in given.values())
    rng, step = np.random.default_rng(4), 1e-6
    direction = {path: rng.normal(size=value.shape) for path, value in values.items()}

    def moved(sign: float) -> float:
        there = {path: value + sign * step * direction[path] for path, value in values.items()}
        return float((literal(there, people, over)[2] * weight).sum())

    slope = (moved(1) - moved(-1)) / (2 * step)
    along = sum(float((np.float64(leaf) * direction[path]).sum()) for path, leaf in given.items())
    assert along == pytest.approx(slope, rel=1e-3)


def test_winner_changes_only_context_and_lies_in_the_maps() -> None:
    """The maps cover the box and the winning region of each class, and no other cell."""
    pooling, x = rstarcnn(), jnp.asarray(draw_map())[:1]
    regions = jnp.array([[[[0.0, 0, 40, 40], [60, 50, 112, 96]]]])
    people = People(jnp.array([[[0.0, 50, 40, 96]]]), regions, jnp.zeros((1, 1), jnp.int32))
    plain, empty = rstarcnn(secondary=False), people._replace(regions=jnp.zeros((1, 1, 0, 4)))

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def compute() -> list[PeopleScores]:
        found = pooling(x, people, GRID, keys=None, want_maps=True)
        return [found, pooling(x, empty, GRID, keys=None), plain(x, people, GRID, keys=None)]

    found, alone, without = compute()
    assert found.winner is not None and found.maps is not None
    for k in range(K):
        region = regions[0, 0, found.winner[0, 0, k]]
        covered = np.zeros((6, 7), bool)
        for left, top, right, bottom in np.asarray([region, people.boxes[0, 0]]).tolist():
            rows, columns = (
                bin_edges(*ends, axis, SIDE)
                for ends, axis in zip(((top, bottom), (left, right)), GRID, strict=True)
            )
            covered[rows[0].start : rows[-1].stop, columns[0].start : columns[-1].stop] = True
        np.testing.assert_array_equal(found.maps.bottom_up[0, :, :, k, 0] > 0, covered)
    assert without.winner is None
    np.testing.assert_allclose(alone.logits, without.logits, rtol=1e-5)
    assert (np.asarray(alone.winner) == -1).all()


def test_dropout_of_regions_needs_keys_and_follows_them() -> None:
    pooling, people, x = rstarcnn(dropout=0.5), draw_people(), jnp.asarray(draw_map())
    keys = jax.random.split(jax.random.key(0), ROWS)
    people = people._replace(boxes=people.boxes.at[:, 1].set(people.boxes[:, 0]))
    people = people._replace(regions=people.regions.at[:, 1].set(people.regions[:, 0]))

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def score(keys: Array, chosen: Array) -> tuple[Array, Array]:
        drawn, plain = (pooling(x, people, GRID, keys=each).logits for each in (keys[chosen], None))
        return drawn, plain

    order = jnp.arange(ROWS)
    (one, plain), (same, _), (turned, _) = (
        score(keys, each) for each in (order, order, order[::-1])
    )
    np.testing.assert_array_equal(one, same)
    assert (one != plain).any() and (turned != one).any()
    np.testing.assert_array_equal(plain[:, 0], plain[:, 1])
    assert (one[:, 0] != one[:, 1]).any(), "each region has its own mask"


def make(pooling: Any, **fields: Any) -> Network:
    model = ModelConfig(
        backbone="small", pooling=pooling, stage=2, norm="frozen", dropout=0.0,
        **{"region_channels": 8, "region_widths": (6, 5)} if "rc" in pooling else {},
        **({"T": 1, "widths": (6,)} if pooling == "gap" else {}), **fields,
    )  # fmt: skip
    pose = PoseConfig(branch=pooling == "pose_parts", hidden=(4,))
    data = DataConfig(regions=4 if pooling == "rstarcnn" else 0)
    cfg = Config(data=data, model=model, pose=pose)
    return drawn(lambda: build(cfg, K, 0))


def draw_images() -> Array:
    return jnp.asarray(
        np.random.default_rng(5).integers(0, 256, (ROWS, SIDE_PX, SIDE_PX, 3), np.uint8)
    )


POOLINGS = ("mean", "max", "attention", "gap", "second_order", "compact_bilinear", "pose_parts")


@pytest.mark.parametrize("over", ["max", "mean"])
@pytest.mark.parametrize("pooling", [*POOLINGS, "rcnn", "rstarcnn"])
def test_images_take_scores_and_maps_from_present_people(pooling: str, over: str) -> None:
    if over == "mean" and pooling not in ("attention", "rstarcnn"):
        return
    regions = "image" if pooling in ("rcnn", "rstarcnn") else "people"
    network = make(pooling, regions=regions, over_people=over)
    people = draw_people(size=(SIDE_PX, SIDE_PX))

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def compute(image: Array, people: People) -> Any:
        turned = jax.tree.map(lambda leaf: leaf[:, ::-1], people)
        return [
            network(image, people=people),
            network(image, people=people, want_maps=True),
            network(image, people=turned),
        ]

    plain, mapped, turned = compute(draw_images(), people)
    each = np.asarray(plain.person_logits)
    expected = each[:, [0, 2]].max(1) if over == "max" else each[:, [0, 2]].mean(1)
    scale = np.abs(each).max()
    np.testing.assert_allclose(plain.logits, expected, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(mapped.logits, expected, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(mapped.maps.logits, expected, rtol=1e-4, atol=1e-4 * scale)
    assert mapped.maps.combined.shape == (ROWS, 10, 10, K)
    assert mapped.maps.bottom_up.shape[:4] == (ROWS, 10, 10, K)
    np.testing.assert_allclose(turned.person_logits[:, ::-1], each, rtol=1e-4, atol=1e-5 * scale)
    assert (plain.winner is not None) == (pooling == "rstarcnn")


@pytest.mark.parametrize("pooling", ["attention", "gap", "rcnn", "rstarcnn"])
def test_image_without_people_is_one_person(pooling: str) -> None:
    fields = {} if "rc" in pooling else {"regions": "people", "region_grow": 1.0}
    network, images = make(pooling, **fields), draw_images()
    box = jnp.broadcast_to(jnp.array([0.0, 0, SIDE_PX, SIDE_PX])[None, None], (ROWS, 1, 4))
    people = People(box, jnp.zeros((ROWS, 1, 0, 4)), jnp.zeros((ROWS, 1), jnp.int32))

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def score() -> list[Outputs]:
        return [network(images, people=people), network(images), network(images, want_maps=True)]

    given, default, mapped = score()
    assert mapped.maps is not None
    scale = float(jnp.abs(default.logits).max())
    np.testing.assert_allclose(mapped.maps.logits, default.logits, rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_array_equal(given.logits, default.logits)
    np.testing.assert_array_equal(given.logits, given.person_logits[:, 0])


def test_pooling_in_a_box_is_that_of_the_part_and_of_the_picture() -> None:
    """Half of the score is the mean over the box, by interpolation, half that over the picture."""
    network, images = make("mean", regions="people", region_grow=1.0, region_side=5), draw_images()
    x = jax.jit(network.extract)(images)  # 10 x 10 cells of 4 px, centred on pixel 4 i
    boxes = jnp.broadcast_to(jnp.array([4.5, 4.5, 24.5, 24.5])[None, None], (ROWS, 1, 4))
    people = People(boxes, jnp.zeros((ROWS, 1, 0, 4)), jnp.zeros((ROWS, 1), jnp.int32))
    assert isinstance(network.pooling, AttentionalPooling)
    kernel, bias = network.pooling.kernel[...][0], network.pooling.bias[...][0]
    found = jax.jit(lambda image: network(image, people=people).logits)(images)
    grid = Grid(network.backbone.locate(Axis(SIDE_PX)), network.backbone.locate(Axis(SIDE_PX)))
    cells = np.arange(10) * grid.rows.stride + grid.rows.first
    at = np.interp(4 + (np.arange(10) + 0.5) * 2, cells, np.arange(10))
    hat = np.maximum(1 - np.abs(at[:, None] - np.arange(10)), 0).mean(0)
    inside = np.einsum("h,w,bhwc->bc", hat, hat, np.asarray(x, np.float64))
    expected = (inside + np.asarray(x, np.float64).mean((1, 2))) / 2 @ kernel + bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_boxes_grow_about_their_centre_inside_the_picture() -> None:
    boxes = jnp.array([[[10.0, 20, 20, 40], [0, 0, 8, 8], [5, 5, 5, 5]]])
    grown = grow(boxes, 2.0, 30, 100)
    np.testing.assert_array_equal(grown[0], [[5, 10, 25, 30], [0, 0, 12, 12], [5, 5, 5, 5]])


def test_networks_without_rule_refuse_people_and_region_poolings() -> None:
    network = make("mean")
    with pytest.raises(ValueError, match="reads no boxes"):
        network(draw_images(), people=draw_people())
    network.pooling = rstarcnn()
    with pytest.raises(ValueError, match="needs a people_rule"):
        network(draw_images())
    with pytest.raises(ValueError, match="pass one"):
        Network(
            network.backbone, rstarcnn(), people_rule=PeopleRule(), over_frames=UniformSaliency()
        )
