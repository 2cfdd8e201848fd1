"""The options of a step that follow the released code: running statistics, unlabelled images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.learning import losses, steps
from gap_jax.learning.sharding import globalise
from gap_jax.models.layers import BatchNorm, Norm
from gap_jax.runtime.digests import name_leaves
from tests.support.small_networks import UNOPTIMISED
from tests.support.step_courses import begin, draw_batch, lower_step

REFERENCE = (
    ("train.batch_size", 16), ("train.accumulate", 2), ("model.norm_group_size", 4),
    ("model.norm_running", "first"), ("train.unlabelled", "reference"), ("model.dropout", 0.0),
    ("pose.branch", False), ("model.saliency_input", "features"), ("train.ema_decay", 0.0),
)  # fmt: skip


def test_unlabelled_cross_entropy_lowers_every_class() -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(4, 7))
    value, pull = jax.value_and_grad(lambda z: losses.unlabelled_cross_entropy(z).sum())(
        jnp.asarray(logits, jnp.float32)
    )
    powers = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(pull, powers / powers.sum(1, keepdims=True), rtol=1e-5, atol=1e-7)
    assert value == 0


@pytest.mark.slow
def test_running_statistics_can_follow_first_group() -> None:
    x = np.random.default_rng(0).normal(2, 3, (6, 5, 5, 3)).astype(np.float32)
    norm = BatchNorm(3, Norm(2, 0.75, follows_first=True))
    mean_of_all = BatchNorm(3, Norm(2, 0.75))
    np.testing.assert_array_equal(
        norm(jnp.asarray(x), train=True), mean_of_all(jnp.asarray(x), train=True)
    )
    first = x[:2].astype(np.float64)
    np.testing.assert_allclose(norm.mean[...], 0.25 * first.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.75 + 0.25 * first.var((0, 1, 2)), rtol=1e-5)
    assert np.abs(norm.mean[...] - mean_of_all.mean[...]).max() > 0.01


@pytest.mark.slow
def test_step_matches_released_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is (softmax - one hot) / B, with zeros as the one hot of an unlabelled image."""
    setup, lowered = lower_step(1, REFERENCE)
    monkeypatch.setattr(steps, "MOST_UNROLLED", 1)
    _, scanned = lower_step(1, REFERENCE)
    state, parts = begin(setup), draw_batch(0, setup.cfg)
    before = jax.tree.map(jnp.copy, state.variables)  # a step donates its state
    whole = [np.concatenate(fields) for fields in zip(*(part[:-1] for part in parts), strict=True)]
    image, label, weight = jnp.asarray(whole[0]), whole[3], whole[4]
    assert 0 < weight.sum() < 16

    def logits(params: Any) -> jax.Array:
        return setup.model.apply(before._replace(params=params), image, train=True)[0].logits

    @jax.jit
    def literal(params: Any) -> tuple[jax.Array, Any]:
        scores, pull_back = jax.vjp(logits, params)
        one_hot = jax.nn.one_hot(label, scores.shape[1]) * weight[:, None]
        return scores, pull_back((jax.nn.softmax(scores) - one_hot) / 16)[0]

    scores, gradient = literal(before.params)
    norm = np.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(gradient)))
    each = -np.asarray(jax.nn.log_softmax(scores))[np.arange(16), label] * weight
    group = image[8:12]  # the first group of the last micro-batch
    _, due = jax.jit(lambda images: setup.model.apply(before, images, train=True))(group)
    expected, old = name_leaves(due), name_leaves(before.stats)

    for program, start in ((lowered, state), (scanned, begin(setup))):
        step = program.compile(compiler_options=UNOPTIMISED)
        after, metrics = step(start, globalise(parts, setup.mesh))
        values = metrics.compute()
        assert values["grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert values["loss_action"] == pytest.approx(each.sum() / 16, rel=1e-5)
        for name, leaf in name_leaves(after.variables.stats).items():
            np.testing.assert_allclose(leaf, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
            assert np.abs(leaf - old[name]).max() > 0, name
