"""The parts of the state that a step keeps, and the values of its counters and metrics."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from data_pipelines.example import HostBatch
from data_pipelines.manifest import Split
from gap_jax.learning import optim, steps
from gap_jax.learning.losses import balanced_class_weights
from gap_jax.learning.setup import assemble
from gap_jax.learning.sharding import globalise
from gap_jax.learning.state import TrainState
from gap_jax.runtime.digests import describe, name_leaves
from tests.support.step_courses import (
    CLASSES,
    PEOPLE,
    Numbers,
    Values,
    begin,
    compile_step,
    configure,
    count_convolutions,
    distance,
    draw_batch,
    lower_step,
    take_steps,
)

SMALLEST: Values = (
    ("model.stage", 1), ("train.batch_size", 8), ("eval.batch_size", 8), ("optim.warmup_steps", 0),
)  # fmt: skip
MOVING = ("variables", "opt_state", "ema")


def poison(batch: HostBatch) -> HostBatch:
    """Replaces the weight of a label by NaN."""
    weight = batch.weight.copy()
    weight[0] = np.nan
    return batch._replace(weight=weight)


def visit(*poisoned: bool) -> tuple[list[TrainState], list[Numbers]]:
    """Returns the states before and after each batch, and the metrics of each step."""
    setup, step = compile_step(1, SMALLEST)
    state, metrics_of_steps = begin(setup), []
    states = [jax.device_get(state)]
    for number, is_poisoned in enumerate(poisoned):
        [part] = draw_batch(number, setup.cfg)
        batch = globalise([poison(part) if is_poisoned else part], setup.mesh)
        state, metrics = step(state, batch)
        states.append(jax.device_get(state))
        metrics_of_steps.append(jax.device_get(metrics).compute())
    return states, metrics_of_steps


def digests(tree: Any) -> dict[str, str]:
    arrays = {name: np.asarray(leaf) for name, leaf in name_leaves(tree).items()}
    return {name: leaf.sha256 for name, leaf in describe(arrays).items()}


@pytest.mark.slow
def test_nonfinite_step_changes_only_counters() -> None:
    course = (False, True, True, False)
    states, metrics_of_steps = visit(*course)
    counts = [
        tuple(int(each[name]) for name in ("finite", "skipped_in_row", "skipped"))
        for each in metrics_of_steps
    ]
    assert counts == [(1, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 2)]
    for before, after, is_skipped in zip(states[:-1], states[1:], course, strict=True):
        assert after.step == before.step + 1
        for field in MOVING:
            same = digests(getattr(before, field)) == digests(getattr(after, field))
            assert same == is_skipped, field
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[-1]))


def test_schedule_advances_over_skipped_step() -> None:
    rates = [float(each["learning_rate"]) for each in visit(True, False)[1]]
    cfg = compile_step(1, SMALLEST)[0].cfg
    expected = [float(optim.learning_rate(cfg.optim, cfg.train.steps, step)) for step in (0, 1)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert expected[1] < expected[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "still"),
    [
        ("optim.frozen", "('backbone',)", ("params/backbone/", "stats/backbone/")),
        ("model.norm", "frozen", ("stats/",)),
    ],
)
def test_frozen_parameters_stay_equal(field: str, value: str, still: tuple[str, ...]) -> None:
    values = (*SMALLEST, (field, value))
    before = begin(compile_step(1, values)[0]).variables
    state = take_steps(2, 1, values).state
    old = digests(before)
    for after in (state.variables, state.ema):
        new = digests(after)
        stayed = {name for name in old if old[name] == new[name]}
        assert stayed == {name for name in name_leaves(before) if name.startswith(still)}
    if field == "model.norm":
        assert not any("gamma" in name or "beta" in name for name in stayed)


def test_frozen_backbone_has_no_gradient() -> None:
    """Each convolution of the backbone is there once, in the forward pass; the head has none."""
    values = (*SMALLEST, ("pose.branch", False), ("model.saliency_input", "features"))
    frozen = (*values, ("optim.frozen", "('backbone',)"))
    moving, still = (count_convolutions(lower_step(1, v)[1].as_text()) for v in (values, frozen))
    assert still == configure(values).model.stage < moving


def step_from(number: int, **fields: Any) -> tuple[TrainState, Numbers]:
    """Runs one step with this number on the first batch, with some fields replaced."""
    setup, step = compile_step(1, SMALLEST)
    [part] = draw_batch(0, setup.cfg)
    state = begin(setup)
    state = state._replace(step=jax.device_put(np.int32(number), state.step.sharding))
    after = step(state, globalise([part._replace(**fields)], setup.mesh))
    state, metrics = jax.device_get(after)
    return state, metrics.compute()


def test_average_decays_towards_new_parameters() -> None:
    before = jax.device_get(begin(compile_step(1, SMALLEST)[0]).variables)
    after = step_from(0)[0]
    expected = jax.tree.map(lambda old, new: 0.1 * (new - old), before, after.variables)
    moved = jax.tree.map(lambda old, new: new - old, before, after.ema)
    assert distance(expected, moved) < 1e-2


def test_dropout_differs_between_steps_and_repeats_within() -> None:
    losses = [float(step_from(number)[1]["loss_action"]) for number in (0, 1, 1)]
    assert losses[0] != losses[1] == losses[2]


def test_unlabelled_images_count_only_in_pose_loss() -> None:
    weight = np.tile(np.array([1, 0], np.float32), 4)
    metrics_of_steps = []
    for label in range(CLASSES):
        labels = np.where(weight > 0, label, -1).astype(np.int32)
        metrics_of_steps.append(step_from(0, weight=weight, label=labels)[1])
    assert (
        sum(each["accuracy"] for each in metrics_of_steps) == 1
    )  # each labelled image hits one class
    labelled = step_from(0, weight=np.ones(8, np.float32))[1]
    assert metrics_of_steps[0]["loss_pose"] == labelled["loss_pose"] > 0
    assert metrics_of_steps[0]["loss_action"] != labelled["loss_action"]


def test_class_weights_come_from_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(steps, "build_train_step", lambda *words: given.append(words[-1]) or print)
    counts = {"train": tuple(range(1, 9)), "val": tuple(range(8, 0, -1))}
    splits = {name: Split(36, 36, 36, each, "", ()) for name, each in counts.items()}
    cfg = configure((*SMALLEST, ("train.class_weights", "balanced")))
    assemble(cfg, dataclasses.replace(PEOPLE, splits=splits), jax.devices()[:1])
    np.testing.assert_allclose(given[0], balanced_class_weights(counts["train"]))
