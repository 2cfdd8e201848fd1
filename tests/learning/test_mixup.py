"""Mixup against NumPy in float64: pixels, loss, gradient; pairs do not depend on micro-batches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.core.errors import ConfigError
from data_pipelines.manifest import Manifest, Split
from gap_jax.batch import Batch
from gap_jax.learning import steps
from gap_jax.learning.mixup import check_mixup, mix
from gap_jax.learning.setup import assemble
from gap_jax.learning.sharding import globalise
from tests.support.small_networks import UNOPTIMISED
from tests.support.step_courses import (
    PEOPLE,
    assert_agree,
    begin,
    configure,
    draw_batch,
    take_steps,
)

PLAIN = (
    ("pose.branch", False), ("model.saliency_input", "features"), ("model.pooling", "mean"),
    ("model.dropout", 0), ("model.T", 3), ("model.widths", ()), ("model.stage", 1),
    ("train.batch_size", 16), ("model.norm_group_size", 4),
)  # fmt: skip
MIXED = (*PLAIN, ("train.mixup", 0.4))


def batch_of(micro: int, rows: int, *, unlabelled: tuple[int, ...] = ()) -> Batch:
    rng = np.random.default_rng(3)
    shape = (micro, rows // micro)
    weight = np.ones(rows, np.float32)
    weight[list(unlabelled)] = 0
    return Batch(
        jnp.asarray(rng.integers(0, 256, (*shape, 4, 4, 3), dtype=np.uint8)),
        jnp.zeros((*shape, 1, 16, 3)),
        jnp.ones(shape),
        jnp.asarray(rng.integers(0, 8, shape)),
        jnp.asarray(weight.reshape(shape)),
        jnp.arange(rows).reshape(shape),
    )


def test_images_are_mixed_with_the_next_by_the_drawn_shares() -> None:
    batch = batch_of(2, 12, unlabelled=(4, 11))
    mixed, (label, share) = mix(batch, jax.random.key(1), 0.4)
    shares = np.asarray(share, np.float64).ravel()
    assert (shares[[3, 4, 10, 11]] == 1).all()  # an unlabelled image, and the one before it
    others = np.delete(shares, [3, 4, 10, 11])
    assert ((others > 0) & (others < 1)).all() and len(set(others)) == 8
    image = np.asarray(batch.image, np.float64).reshape(12, 4, 4, 3)
    weights = shares[:, None, None, None]
    expected = weights * image + (1 - weights) * np.roll(image, -1, 0)
    found = np.asarray(mixed.image).reshape(12, 4, 4, 3)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(np.ravel(label), np.roll(np.ravel(batch.label), -1))
    for name in ("keypoints", "disc_radius", "label", "weight", "id"):
        assert getattr(mixed, name) is getattr(batch, name)


@pytest.mark.parametrize("strength", [1e-3, 0.2, 1.0, 100.0])
def test_shares_have_the_moments_of_beta(strength: float) -> None:
    share = np.asarray(mix(batch_of(1, 4096), jax.random.key(0), strength)[1].share, np.float64)
    assert np.isfinite(share).all() and share.min() >= 0 and share.max() <= 1
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(0.25 / (2 * strength + 1), rel=0.1)


def test_neither_micro_batches_nor_their_number_change_a_pair() -> None:
    one, four = (mix(batch_of(parts, 16), jax.random.key(5), 0.4) for parts in (1, 4))
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_array_equal(mine.reshape(16, -1), theirs.reshape(16, -1))


def test_loss_has_the_shares_of_both_labels() -> None:
    """In float64: sum_i w_i (s_i c(y_i) L(y_i) + (1 - s_i) c(y'_i) L(y'_i)) / sum_i w_i."""
    values = (*MIXED, ("train.label_smoothing", 0.1), ("train.class_weights", "balanced"))
    split = Split(80, 80, 80, (5, 10, 15, 20, 10, 10, 5, 5), "", ())
    uneven = dataclasses.replace(PEOPLE, splits={"train": split})
    setup = assemble(configure(values), uneven, jax.devices()[:1])
    batch, state = globalise(draw_batch(0, setup.cfg), setup.mesh), begin(setup)
    root = jax.random.fold_in(jax.random.key(setup.cfg.train.seed), 0)
    mixed, (other, share) = mix(batch, jax.random.fold_in(root, steps.MIXUP_STREAM), 0.4)
    logits = setup.model.apply(state.variables, mixed.image[0], train=True)[0].logits
    scores = np.asarray(logits, np.float64)
    log_p = scores - np.log(np.exp(scores - scores.max()).sum(-1, keepdims=True)) - scores.max()
    class_weights = 80 / (8 * np.array(split.class_counts))

    def loss_of(labels: Any) -> Any:
        own = log_p[np.arange(16), np.ravel(labels)]
        return class_weights[np.ravel(labels)] * -(0.9 * own + 0.1 * log_p.mean(-1))

    def hits_of(labels: Any) -> Any:
        return scores.argmax(-1) == np.ravel(labels)

    shares, weight = (np.asarray(each, np.float64).ravel() for each in (share, batch.weight))
    assert 0 < weight.sum() < 16
    step = setup.train_step.lower(state, batch).compile(compiler_options=UNOPTIMISED)
    metrics = jax.device_get(step(state, batch)[1]).compute()
    for name, of in (("loss_action", loss_of), ("accuracy", hits_of)):
        each = shares * of(batch.label) + (1 - shares) * of(other)
        expected = (weight * each).sum() / weight.sum()
        np.testing.assert_allclose(metrics[name], expected, rtol=2e-5, err_msg=name)


@pytest.mark.slow
def test_micro_batches_equal_one_batch_with_mixup() -> None:
    plain, mixed = take_steps(1, 1, PLAIN), take_steps(1, 1, MIXED)
    assert plain.metrics[0]["loss"] != mixed.metrics[0]["loss"]
    assert_agree(mixed, take_steps(1, 1, (*MIXED, ("train.accumulate", 2))))


def test_several_labels_and_joints_are_refused() -> None:
    multi = Manifest("objects", "multi", PEOPLE.classes, 0, PEOPLE.splits, {})
    cfg = configure(MIXED)
    check_mixup(cfg, PEOPLE)
    check_mixup(configure(), multi)
    with pytest.raises(ConfigError, match="mixes single labels, and objects has several"):
        check_mixup(cfg, multi)
    with pytest.raises(ConfigError, match=r"cannot mix the joints .* set train\.mixup=0 or pose"):
        check_mixup(configure((("train.mixup", 0.4),)), PEOPLE)
