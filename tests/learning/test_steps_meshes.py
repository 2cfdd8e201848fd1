"""The training step on 1, 8 and 4 x 2 devices: its results and its communication."""

from pathlib import Path

import jax
import pytest
from jaxtyping import Array

from benchmarks.scaling.collectives import Collective, find_collectives
from gap_jax.learning.setup import Setup
from gap_jax.learning.sharding import make_mesh, replicated
from gap_jax.model_config import Colours
from gap_jax.models import network
from gap_jax.models.backbones.small import LAYERS
from gap_jax.models.network import normalise
from gap_jax.runtime.checkpoint import Checkpoints
from tests.support.step_courses import (
    Course,
    Values,
    assert_agree,
    begin,
    compile_step,
    configure,
    count_convolutions,
    distance,
    lower_step,
    take_steps,
    walk,
)

pytestmark = pytest.mark.slow

FSDP: Values = (("mesh.fsdp", 2),)
Shape = tuple[int, ...]


def is_forward(collective: Collective) -> bool:
    """Whether it belongs to the forward pass.

    Means that are reduced together with the gradients at the end cause no delay.
    """
    return "jvp(" in collective.source and "transpose(jvp(" not in collective.source


def plain(shape: Shape) -> Shape:
    """The axes longer than 1, sorted, because XLA transposes, adds and drops axes."""
    return tuple(sorted(size for size in shape if size > 1))


def shapes_of(setup: Setup) -> set[Shape]:
    """The shapes of parameters and statistics, and of their shards."""
    leaves = jax.tree.leaves(setup.target.variables)
    whole = {plain(leaf.shape) for leaf in leaves}
    return whole | {plain(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves}


def collectives(values: Values = ()) -> tuple[Setup, list[Collective]]:
    setup, step = compile_step(8, values)
    found = find_collectives(step.as_text())
    return setup, [each._replace(shapes=tuple(map(plain, each.shapes))) for each in found]


@pytest.mark.parametrize("values", [(), FSDP], ids=["data 8", "data 4 fsdp 2"])
def test_mesh_does_not_change_results(values: Values) -> None:
    """Ten steps with dropout, EMA and unlabelled images agree in every leaf."""
    alone, spread = take_steps(10, 1), take_steps(10, 8, values)
    assert int(spread.state.step) == 10
    assert_agree(alone, spread)
    assert distance(begin(compile_step(1)[0]).variables, alone.state.variables) > 1e-3


def test_state_moves_between_meshes(tmp_path: Path) -> None:
    """Runs three steps on 8 devices, three on one and four on 4 x 2, with checkpoints between."""

    def go_on(first: int, last: int, devices: int, values: Values = ()) -> Course:
        setup, _ = compile_step(devices, values)
        with Checkpoints(tmp_path, warn=pytest.fail) as checkpoints:
            restored = checkpoints.resume(setup.target)
            state = restored.state if restored else begin(setup)
            assert int(state.step) == first
            state, metrics_of_steps = walk(state, range(first, last), devices, values)
            checkpoints.save(last, state, {})
            checkpoints.finish(last)
        return Course(jax.device_get(state), metrics_of_steps)

    courses = go_on(0, 3, 8), go_on(3, 6, 1), go_on(6, 10, 8, FSDP)
    metrics_of_steps = [metrics for course in courses for metrics in course.metrics]
    assert_agree(take_steps(10, 1), Course(courses[-1].state, metrics_of_steps))


def test_data_parallel_reduces_once_outside_forward_pass() -> None:
    """With 16 images per device: one reduction of gradients and means after one of counts."""
    setup, found = collectives()
    assert {each.name for each in found} == {"all-reduce"}
    assert 1 <= len(found) <= 3
    assert not any(map(is_forward, found))
    apart = [each for each in found if "transpose(jvp(" not in each.source]
    assert all(each.shapes == ((),) for each in apart), "more than the number of labels"
    [gradients] = [each for each in found if each not in apart]
    leaves = jax.tree.leaves(setup.target.variables.params)
    assert {plain(leaf.shape) for leaf in leaves} <= set(gradients.shapes)


def test_groups_across_devices_are_detected_in_forward_pass() -> None:
    """Checks that the search can fail: norm over all images needs a mean in every layer.

    The comparison of courses can fail too: other groups give other results.
    """
    values = (("model.norm_group_size", 128),)
    _, found = collectives(values)
    assert sum(map(is_forward, found)) >= 2
    one, other = take_steps(3, 8), take_steps(3, 8, values)
    assert distance(one.state.variables, other.state.variables) > 1e-3


def test_fsdp_gathers_parameters_but_no_activations() -> None:
    setup, found = collectives(FSDP)
    split = {
        plain(leaf.shape)
        for leaf in jax.tree.leaves(setup.target.variables.params)
        if not leaf.sharding.is_fully_replicated
    }
    gathered = [each for each in found if each.name == "all-gather"]
    assert split and {shape for each in gathered for shape in each.shapes} == split
    assert not any(map(is_forward, found))
    assert {each.name for each in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert {shape for each in found for shape in each.shapes} <= shapes_of(setup) | {()}


def test_moved_activations_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that the search can fail: here every device gathers all images."""

    def gather(image: Array, mean: Colours, scale: Colours) -> Array:
        whole = replicated(make_mesh(configure(FSDP)))
        return jax.lax.with_sharding_constraint(normalise(image, mean, scale), whole)

    monkeypatch.setattr(network, "normalise", gather)
    setup, found = collectives((*FSDP, ("train.seed", 1)))
    assert {shape for each in found for shape in each.shapes} - shapes_of(setup) - {()}


def test_step_convolutions_per_3x3_and_1x1_layer() -> None:
    """Forward, gradients of data and weights; the first layer has no gradient of the data."""
    text = lower_step(1, (("model.stage", 0),))[1].as_text()
    pose_branch = 1
    assert count_convolutions(text) == 3 * (len(LAYERS) + pose_branch) - 1
