"""Compares metrics with literal definitions and scikit-learn, and checks their symmetries."""

import functools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool, Float, Int

from data_pipelines.core.errors import DataError
from gap_jax.config import Rule
from gap_jax.evaluation import metrics
from tests.support.reported_runs import interval_of, paired_interval

Column = Float[np.ndarray, " n"]
Positives = Bool[np.ndarray, " n"]
RULES: tuple[Rule, ...] = get_args(Rule)


def _voc_area(scores: Column, positives: Positives) -> float:
    """Copies VOC 2010's devkit as in the released code: sentinels, envelope, area of the steps."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positives[order])
    recall = np.concatenate([[0], hits / positives.sum(), [1]])
    precision = np.concatenate([[0], hits / np.arange(1, len(scores) + 1), [0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())


def _voc_eleven_points(scores: Column, positives: Positives, *, exact: bool = True) -> float:
    """Copies VOC 2007's VOCevalcls.m and HICO's eval_pr_score_label.m, or uses exact tenths."""
    hits = np.cumsum(positives[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, len(scores) + 1)
    total = 0.0
    for i in range(11):
        reached = 10 * hits >= i * hits[-1] if exact else hits / hits[-1] >= i * 0.1
        total += precision[reached].max(initial=0) / 11
    return total


def _ranking(seed: int, n: int, positives: int) -> tuple[Column, Positives]:
    rng = np.random.default_rng(seed)
    is_positive = np.zeros(n, bool)
    is_positive[rng.choice(n, positives, replace=False)] = True
    return rng.permutation(n) + 0.7 * n * is_positive * rng.random(n), is_positive


@pytest.mark.parametrize(("n", "positives"), [(1, 1), (30, 1), (30, 7), (200, 11), (200, 200)])
def test_precisions_without_ties_equal_the_devkits(n: int, positives: int) -> None:
    from sklearn import metrics as sklearn_metrics  # not in every worker that collects tests

    for seed in range(5):
        scores, is_positive = _ranking(seed, n, positives)
        area = metrics.average_precision(scores, is_positive)
        eleven = metrics.average_precision(scores, is_positive, "eleven_point")
        assert area == pytest.approx(_voc_area(scores, is_positive), abs=1e-12)
        assert eleven == pytest.approx(_voc_eleven_points(scores, is_positive), abs=1e-12)
        plain = sklearn_metrics.average_precision_score(is_positive, scores)
        assert plain - 1e-12 <= area <= plain + 0.2


def test_precisions_by_hand() -> None:
    scores = np.array([9.0, 8, 7, 6, 5])
    is_positive = np.array([False, True, False, True, True])
    assert metrics.average_precision(scores, is_positive) == pytest.approx(3 / 5)
    first = np.array([True, False, False, False, True])
    assert metrics.average_precision(scores, first) == pytest.approx((1 + 2 / 5) / 2)
    assert metrics.average_precision(scores, first, "eleven_point") == pytest.approx(
        (6 + 5 * 2 / 5) / 11
    )
    assert np.isnan(metrics.average_precision(scores, np.zeros(5, bool)))
    assert np.isnan(metrics.average_precision(scores, np.zeros(5, bool), "eleven_point"))


def test_ten_positives_reach_each_tenth_of_recall() -> None:
    """3 of 10 reach recall 0.3; as a float 3 * 0.1 is above 3 / 10."""
    is_positive = np.array([True] * 3 + [False] * 30 + [True] * 7)
    scores = -np.arange(40.0)
    expected = (4 * 1 + 7 * 10 / 40) / 11
    assert metrics.average_precision(scores, is_positive, "eleven_point") == pytest.approx(expected)


@pytest.mark.parametrize("positives", [1, 3, 7, 10, 20, 30, 49])
def test_voc2007_equals_the_devkits_code_bit_for_bit(positives: int) -> None:
    differs = False
    for seed in range(30):
        scores, is_positive = _ranking(seed, 120, positives)
        official = metrics.average_precision(scores, is_positive, "voc2007")
        assert official == _voc_eleven_points(scores, is_positive, exact=False)
        differs |= official != metrics.average_precision(scores, is_positive, "eleven_point")
    assert differs == (positives % 10 == 0)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_row_order_and_monotone_score_changes_have_no_effect(
    data: st.DataObject,
) -> None:
    n = data.draw(st.integers(1, 30))
    levels = data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))  # many ties
    flags = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    order = np.array(data.draw(st.permutations(range(n))))
    scores, is_positive = np.array(levels, np.float64), np.array(flags)
    for rule in RULES:
        precision = functools.partial(metrics.average_precision, rule=rule)
        value = precision(scores, is_positive)
        assert precision(scores[order], is_positive[order]) == pytest.approx(value, nan_ok=True)
        assert precision(np.exp(scores) - 5, is_positive) == pytest.approx(value, nan_ok=True)
        least = 0 if rule == "step" else is_positive.mean() - 1e-12
        assert not is_positive.any() or least <= value <= 1 + 1e-12


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_equal_scores_are_one_threshold_as_in_scikit_learns_curve(seed: int, levels: int) -> None:
    from sklearn import metrics as sklearn_metrics

    rng = np.random.default_rng(seed)
    scores, is_positive = rng.integers(0, levels, 25).astype(float), rng.random(25) < 0.4
    is_positive[0] = True
    precision, recall, _ = sklearn_metrics.precision_recall_curve(is_positive, scores)
    envelope = np.maximum.accumulate(precision[:-1])  # the curve runs from full recall to none
    expected = (envelope * -np.diff(recall)).sum()
    assert metrics.average_precision(scores, is_positive) == pytest.approx(expected, abs=1e-12)
    step = metrics.average_precision(scores, is_positive, "step")
    expected = sklearn_metrics.average_precision_score(is_positive, scores)
    assert step == pytest.approx(expected, abs=1e-12)


def _case(
    n: int = 60, k: int = 7, seed: int = 0
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
    """Draws logits that are better than chance; the last class has no example."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k - 1, n)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), labels] += 1
    return logits, labels


def test_map_skips_and_counts_classes_without_a_positive() -> None:
    logits, labels = _case()
    scores = metrics.ranking_scores(logits, labels)
    result = metrics.mean_average_precision(scores, labels)
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(axis=1, keepdims=True)
    literal = [_voc_area(softmax[:, k], labels == k) for k in range(6)]
    np.testing.assert_allclose(result.per_class[:6], literal, rtol=1e-12)
    assert np.isnan(result.per_class[6])
    assert result.mean == pytest.approx(np.mean(literal))
    assert result.counted == 6
    eleven = metrics.mean_average_precision(scores, labels, "eleven_point")
    assert eleven.mean == pytest.approx(
        np.mean([_voc_eleven_points(softmax[:, k], labels == k) for k in range(6)])
    )
    nobody = metrics.mean_average_precision(scores, np.full(60, -1))
    assert np.isnan(nobody.mean)
    assert nobody.counted == 0


def test_multiple_labels_rank_by_logit() -> None:
    logits, _ = _case()
    labels = np.random.default_rng(3).integers(0, 2, (60, 7)).astype(np.int8)
    labels[:, 2] = 0
    scores = metrics.ranking_scores(logits, labels)
    np.testing.assert_array_equal(scores, logits)
    result = metrics.mean_average_precision(scores, labels)
    literal = [_voc_area(scores[:, k], labels[:, k] > 0) for k in (0, 1, 3, 4, 5, 6)]
    assert result.mean == pytest.approx(np.mean(literal))


def test_ranking_scores_order_what_softmax_ties() -> None:
    logits = np.array([[0, 90], [0, 40], [0, 45], [200, 0], [400, 0]], np.float32)
    scores = metrics.ranking_scores(logits, np.array([1, 1, 1, 0, 0]))
    assert np.argsort(scores[:, 1]).tolist() == [4, 3, 1, 2, 0]
    mild = _case()[0]
    softmax = np.exp(metrics.ranking_scores(mild, np.zeros(60, int)))
    expected = np.exp(mild.astype(np.float64))
    np.testing.assert_allclose(softmax, expected / expected.sum(1, keepdims=True), rtol=1e-12)


def test_scores_that_are_not_finite_or_absent_are_refused() -> None:
    logits, labels = _case()
    logits[4, 1], logits[9] = np.inf, np.nan
    with pytest.raises(DataError, match="2 of 60 images are not finite, first in row 4"):
        metrics.ranking_scores(logits, labels)
    with pytest.raises(DataError, match="no labelled image"):
        metrics.ranking_scores(logits[:0], labels[:0])


@pytest.mark.parametrize("k", [1, 2, 5, 7, 9])
def test_accuracy_equals_scikit_learns(k: int) -> None:
    from sklearn import metrics as sklearn_metrics

    logits, labels = _case()
    scores = metrics.ranking_scores(logits, labels)
    if k < 7:
        expected = sklearn_metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(7))
    else:
        expected = 1.0
    assert metrics.accuracy(scores, labels, k) == pytest.approx(expected)


def test_ties_go_to_the_first_class_and_missing_labels_are_errors() -> None:
    scores = np.zeros((4, 6))
    labels = np.array([0, 1, 5, -1])
    assert metrics.top_k_hits(scores, labels, 1).tolist() == [True, False, False, False]
    assert metrics.top_k_hits(scores, labels, 5).tolist() == [True, True, False, False]
    assert metrics.accuracy(scores, labels) == 0.25
    assert (scores.argmax(axis=1) == labels).mean() == 0.25


def test_table_has_a_row_for_each_class() -> None:
    logits, labels = _case()
    scores = metrics.ranking_scores(logits, labels)
    rows = metrics.class_table(scores, labels, [f"class {k}" for k in range(7)])
    assert [row.name for row in rows] == [f"class {k}" for k in range(7)]
    assert [row.positives for row in rows] == np.bincount(labels, minlength=7).tolist()
    recalls = [(scores.argmax(axis=1)[labels == k] == k).mean() for k in range(6)]
    np.testing.assert_allclose([row.recall for row in rows[:6]], recalls)
    assert np.isnan(rows[6].recall)
    mean = metrics.mean_average_precision(scores, labels).mean
    assert np.nanmean([row.average_precision for row in rows]) == pytest.approx(mean)


@pytest.mark.parametrize("rule", RULES)
def test_resampled_metric_equals_the_metric_of_repeated_rows(rule: Rule) -> None:
    logits, labels = _case()
    logits = np.round(logits * 2)  # ties
    drawn = np.random.default_rng(5).integers(60, size=(4, 60))
    counts = np.stack([np.bincount(rows, minlength=60) for rows in drawn], 1).astype(np.float32)
    ours = metrics.resampled_map(logits, labels, counts, rule)
    hits = metrics.resampled_accuracy(logits, labels, counts)
    for each, rows in enumerate(drawn):
        repeated = metrics.mean_average_precision(logits[rows], labels[rows], rule).mean
        assert ours[each] == pytest.approx(repeated)
        assert hits[each] == pytest.approx(metrics.accuracy(logits[rows], labels[rows]))


def test_interval_is_seeded_and_widens_with_its_level() -> None:
    logits, labels = _case()
    scores = metrics.ranking_scores(logits, labels)

    def draw(level: float, seed: int = 0) -> metrics.Interval:
        rule = functools.partial(metrics.resampled_map, scores, labels)
        return metrics.resample(rule, len(labels), resamples=300, seed=seed).interval(level=level)

    narrow, wide = draw(0.5), draw(0.95)
    assert narrow == draw(0.5)
    assert narrow != draw(0.5, seed=1)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert narrow.estimate == metrics.mean_average_precision(scores, labels).mean


@pytest.mark.slow
def test_intervals_cover_the_mean_over_test_sets_of_this_size() -> None:
    """With few images for many classes repeated positives do not bias the interval upwards."""
    sets = [_case(n=80, k=21, seed=seed) for seed in range(240)]
    scored = [(metrics.ranking_scores(logits, labels), labels) for logits, labels in sets]
    truth = np.mean([metrics.mean_average_precision(*each).mean for each in scored])
    intervals = [interval_of(metrics.resampled_map, *each, resamples=100) for each in scored[:120]]
    covered = np.mean([low <= truth <= high for _, low, high in intervals])
    above = np.mean([truth < low for _, low, _ in intervals])
    assert 0.88 <= covered <= 0.99
    assert above <= 0.08


def test_paired_interval_on_the_same_images_is_narrower() -> None:
    logits, labels = _case(n=200)
    rng = np.random.default_rng(1)
    worse = logits + 0.2 * rng.normal(size=logits.shape).astype(np.float32)
    a, b = (metrics.ranking_scores(each, labels) for each in (logits, worse))
    for rule in (metrics.resampled_map, metrics.resampled_accuracy):
        pair = paired_interval(rule, a, b, labels)
        alone = [interval_of(rule, each, labels) for each in (a, b)]
        assert pair.estimate == pytest.approx(alone[0].estimate - alone[1].estimate)
        assert pair.high - pair.low < 0.7 * (alone[0].high - alone[0].low)
    assert paired_interval(metrics.resampled_map, a, a, labels) == (0, 0, 0)


def test_interval_without_positives_is_nan() -> None:
    labels = np.zeros((10, 3), np.int8)
    interval = interval_of(metrics.resampled_map, np.zeros((10, 3)), labels, resamples=5)
    assert np.isnan(interval).all()


@pytest.mark.parametrize("right", [1, 9])
def test_interval_stays_between_0_and_1(right: int) -> None:
    labels = np.arange(10, dtype=np.int8) % 2
    scores = np.eye(2)[np.where(np.arange(10) < right, labels, 1 - labels)]
    interval = interval_of(metrics.resampled_accuracy, scores, labels)
    assert interval.estimate == right / 10
    assert 0 <= interval.low < right / 10 < interval.high <= 1
    assert (interval.high if right == 9 else 1 - interval.low) == 1
