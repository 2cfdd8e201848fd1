"""Compares losses and their weighted mean with formulas in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float, Int

from gap_jax.learning import losses
from gap_jax.learning.targets import PoseTargets


def _log_softmax(z: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "b k"]:
    z = z.astype(np.float64)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def _logits(b: int, k: int) -> Float[np.ndarray, "b k"]:
    return np.random.default_rng(0).normal(0, 3, (b, k)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_matches_formula(smoothing: float) -> None:
    z, labels = _logits(6, 5), np.array([0, 4, 2, 2, 1, -1], np.int32)
    weights = np.array([0.5, 2, 1, 3, 7], np.float32)
    log_p = _log_softmax(z)
    target = np.zeros((6, 5))
    target[np.arange(5), labels[:5]] = 1
    target = (1 - smoothing) * target + smoothing / 5
    expected = -(target * log_p).sum(axis=1)
    plain = losses.softmax_cross_entropy(jnp.asarray(z), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(plain, expected, rtol=1e-5, atol=1e-6)
    weighed = losses.softmax_cross_entropy(
        jnp.asarray(z), jnp.asarray(labels), smoothing, jnp.asarray(weights)
    )
    np.testing.assert_allclose(weighed, expected * [0.5, 7, 1, 1, 2, 0], rtol=1e-5, atol=1e-6)


def test_loss_of_people_is_mean_over_labelled_people() -> None:
    z, labels = _logits(6, 4).reshape(3, 2, 4), np.array([[1, -1], [3, 0], [-1, -1]], np.int32)
    weights, otherwise = np.array([0.5, 2, 1, 3], np.float32), np.array([7, 8, 9], np.float32)
    log_p = _log_softmax(z.reshape(6, 4)).reshape(z.shape)
    expected = [
        -2 * log_p[0, 0, 1], (-3 * log_p[1, 0, 3] - 0.5 * log_p[1, 1, 0]) / 2, 9.0,
    ]  # fmt: skip
    people, known, else_ = jnp.asarray(z), jnp.asarray(labels), jnp.asarray(otherwise)
    rule = functools.partial(losses.softmax_cross_entropy, class_weights=jnp.asarray(weights))
    weighed = losses.average_people(rule, people, known, else_)
    np.testing.assert_allclose(weighed, expected, rtol=1e-5)
    first = losses.average_people(lambda logits, _: logits[:, 0], people, known, else_)
    np.testing.assert_allclose(first, [z[0, 0, 0], z[1, :, 0].mean(), 9], rtol=1e-5)


@pytest.mark.slow
def test_cross_entropy_of_equal_and_extreme_logits() -> None:
    labels = jnp.zeros(2, jnp.int32)
    start = losses.softmax_cross_entropy(jnp.zeros((2, 393)), labels)
    np.testing.assert_allclose(start, np.log(393), rtol=1e-6)
    far = losses.softmax_cross_entropy(jnp.array([[-1e4, 1e4], [1e4, -1e4]]), labels)
    assert far.tolist() == [2e4, 0]
    halves = losses.softmax_cross_entropy(jnp.zeros((2, 4), jnp.bfloat16), labels)
    assert halves.dtype == jnp.float32


def test_sigmoid_cross_entropy_matches_formula() -> None:
    z = _logits(4, 6)
    labels = np.random.default_rng(1).integers(0, 2, (4, 6)).astype(np.int8)
    p = 1 / (1 + np.exp(-z.astype(np.float64)))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean(axis=1)
    ours = losses.sigmoid_cross_entropy(jnp.asarray(z), jnp.asarray(labels))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    far = losses.sigmoid_cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([[0, 0]]))
    assert far.tolist() == [5e3]


def test_example_of_weight_0_adds_nothing() -> None:
    values = jnp.array([1.0, 4.0, jnp.nan, jnp.inf])
    weights = jnp.array([1.0, 0.5, 0.0, 0.0])
    assert losses.weighted_mean(values, weights).item() == pytest.approx(2.0)
    nothing = jax.value_and_grad(losses.weighted_mean)(jnp.ones(2), jnp.zeros(2))
    assert (nothing[0].item(), nothing[1].tolist()) == (0.0, [0.0, 0.0])


def test_micro_batch_means_sum_to_batch_mean() -> None:
    values = jnp.asarray(_logits(12, 1)[:, 0])
    weights = jnp.array([1.0, 0, 1, 1, 0, 0, 0, 0, 2, 0.5, 1, 1])
    whole = losses.weighted_mean(values, weights)
    parts = zip(values.reshape(3, 4), weights.reshape(3, 4), strict=True)
    summed = sum(losses.weighted_mean(v, w, weights.sum()) for v, w in parts)
    np.testing.assert_allclose(summed, whole, rtol=1e-6)
    np.testing.assert_allclose(whole, np.average(values, weights=weights), rtol=1e-6)


@pytest.mark.parametrize("many", [False, True])
def test_top1_hits_count_first_of_equal_logits(many: bool) -> None:
    logits = jnp.array([[0.0, 2, 2], [3, 1, 0], [0, 0, 0], [1, 0, 5]])
    labels: Int[np.ndarray, " b"] | Int[np.ndarray, "b k"] = np.array([1, 1, 0, -1], np.int32)
    if many:
        labels = np.array([[0, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]], np.int8)
    assert losses.top1_hits(logits, jnp.asarray(labels)).tolist() == [1, 0, 1, 0]


def test_balanced_weights_equalise_classes_and_average_1() -> None:
    counts = np.array([10, 1, 0, 4])
    weights = losses.balanced_class_weights(counts.tolist())
    np.testing.assert_allclose(weights * counts, [5, 5, 0, 5], rtol=1e-6)
    assert np.average(weights, weights=counts) == pytest.approx(1)


def _pose_case(b: int) -> tuple[Float[np.ndarray, "b h w 16"], PoseTargets, float]:
    """A prediction, its target, and S by a loop over examples and joints."""
    rng = np.random.default_rng(b)
    predicted = rng.normal(size=(b, 15, 14, 16)).astype(np.float32)
    heatmaps = rng.integers(0, 2, predicted.shape).astype(np.float32)
    valid = rng.random((b, 16)) < 0.7
    total = 0.0
    for example, joint in np.argwhere(valid):
        p, y = predicted[example, :, :, joint], heatmaps[example, :, :, joint]
        total += ((p.astype(np.float64) - y) ** 2).sum()
    predicted[~valid.repeat(15 * 14, 0).reshape(b, 15, 14, 16)] = 1e6
    return predicted, PoseTargets(jnp.asarray(heatmaps), jnp.asarray(valid)), total


@pytest.mark.parametrize("b", [16, 128])
def test_pose_reductions_match_formulas_and_convert(b: int) -> None:
    predicted, targets, S = _pose_case(b)
    h, w, g = 15, 14, 16
    expected = {
        "reference": 0.5 * S / (g * b * h * w),
        "mean": 0.5 * S / (b * h * w),
        "sum_per_image": 0.5 * S / b,
    }
    for reduction, value in expected.items():
        each = losses.pose_loss(jnp.asarray(predicted), targets, reduction)
        loss = losses.weighted_mean(each, jnp.ones(b))
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        units = losses.pose_weight_in_all_units(0.7, reduction, h, w)
        for unit, weight in units.items():
            assert weight * expected[unit] == pytest.approx(0.7 * value, rel=1e-9)


def test_paper_weight_in_all_units() -> None:
    units = losses.pose_weight_in_all_units(1e-6, "sum_per_image", 15, 15)
    assert units == pytest.approx({"reference": 0.0036, "mean": 0.000225, "sum_per_image": 1e-6})


def test_reference_reduction_matches_released_loss() -> None:
    """loss.py sums over joints the batch mean of 0.5 v sum (p - y)^2 / sum of an all-ones mask."""
    predicted, targets, _ = _pose_case(16)
    squared = (predicted.astype(np.float64) - np.asarray(targets.heatmaps)) ** 2
    valid = np.asarray(targets.valid, np.float64)
    literal = sum(
        (valid[:, j] * 0.5 * squared[..., j].sum(axis=(1, 2)) / (16 * 15 * 14)).mean()
        for j in range(16)
    )
    each = losses.pose_loss(jnp.asarray(predicted), targets, "reference")
    np.testing.assert_allclose(losses.weighted_mean(each, jnp.ones(16)), literal, rtol=1e-5)


def test_invalid_joint_has_no_gradient() -> None:
    predicted, targets, _ = _pose_case(2)
    gradient = jax.grad(lambda p: losses.pose_loss(p, targets, "mean").sum())(
        jnp.asarray(predicted)
    )
    moved = np.asarray(gradient).any(axis=(1, 2))
    np.testing.assert_array_equal(moved, targets.valid)


def test_labels_below_0_leave_the_loss_and_its_gradient() -> None:
    """Against sums in float64 over the known labels; without a known one the loss is 0."""
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=3, size=(6, 5)).astype(np.float32)
    labels = rng.choice((1, 0, -1, -2, -3), size=(6, 5)).astype(np.int8)
    labels[0], labels[1] = -3, (1, 0, 0, 1, 0)
    for weight in (1.0, 10.0):
        expected = np.zeros(6)
        for i, row in enumerate(labels):
            terms = [
                np.log1p(np.exp(-float(z))) * weight if y else np.log1p(np.exp(float(z)))
                for z, y in zip(logits[i], row, strict=True)
                if y >= 0
            ]
            expected[i] = np.mean(terms) if terms else 0
        found = losses.sigmoid_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), weight)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def total(logits: jax.Array) -> jax.Array:
        return losses.sigmoid_cross_entropy(logits, jnp.asarray(labels)).sum()

    gradient = np.asarray(jax.grad(total)(jnp.asarray(logits)))
    assert np.array_equal(gradient != 0, labels >= 0)
