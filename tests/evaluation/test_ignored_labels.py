"""Metrics of several labels, some of which are ambiguous or unknown, against exact counts."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from data_pipelines.example import AMBIGUOUS, LABEL_VALUES, OBJECT_ABSENT, UNKNOWN
from gap_jax.config import Config, EvalConfig, Unknown
from gap_jax.evaluation import evaluate, metrics
from gap_jax.evaluation.evaluate import Protocol, Scores
from tests.support.precision import (
    Curve,
    literal_curve,
    literal_eleven_points,
    literal_envelope,
    literal_voc2007,
)

CASES, CLASSES = 1000, 10  # rankings in all, and in a draw
LITERAL: dict[metrics.Rule, Callable[[Curve], Fraction | float]] = {
    "envelope": literal_envelope,
    "eleven_point": literal_eleven_points,
    "voc2007": literal_voc2007,
}


def draw_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws images with ties; class 1 is empty, and classes 2 and 3 may be fully ignored."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    scores = np.round(rng.normal(size=(count, CLASSES)), int(rng.integers(0, 3)))
    labels = rng.choice(LABEL_VALUES, size=(count, CLASSES), p=(0.2, 0.35, 0.15, 0.15, 0.15))
    labels[:, 1] = np.minimum(labels[:, 1], 0)
    labels[:, 2:4] = np.minimum(labels[:, 2:4], rng.choice((AMBIGUOUS, 1), size=2))
    return scores, labels.astype(np.int8)


def test_average_precision_with_ignored_labels_equals_exact_counts() -> None:
    seen = {"ties": 0, "empty": 0, "ignored": 0}
    for seed in range(CASES // CLASSES):
        scores, labels = draw_case(seed)
        columns = list(zip(scores.T, labels.T, strict=True))
        curves = [literal_curve(*column) for column in columns]
        seen["ties"] += sum(len(np.unique(each)) < len(scores) for each in scores.T)
        seen["empty"] += sum(not (each > 0).any() for each in labels.T)
        seen["ignored"] += sum(bool((each < 0).all()) for each in labels.T)
        for rule, literal in LITERAL.items():
            found = metrics.mean_average_precision(scores, labels, rule)
            expected = np.array([float(literal(each)) if each else np.nan for each in curves])
            np.testing.assert_allclose(found.per_class, expected, atol=1e-12, err_msg=f"{seed}")
            assert found.counted == np.isfinite(expected).sum()
            if found.counted:
                assert found.mean == pytest.approx(np.nanmean(expected), abs=1e-12)
    assert min(seen.values()) > CASES / 20


def test_resamples_leave_ignored_labels_out() -> None:
    scores, labels = draw_case(7)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), size=8).T
    found = metrics.resampled_map(scores, labels, counts.astype(np.float32), "envelope")
    for column, value in zip(counts.T, found, strict=True):
        rows = np.repeat(np.arange(len(scores)), column)
        repeated = metrics.mean_average_precision(scores[rows], labels[rows])
        assert value == pytest.approx(repeated.mean, abs=1e-6)


def summary_of(unknown: Unknown, labels: np.ndarray, logits: np.ndarray) -> float:
    scores = Scores(np.arange(len(labels)), logits, labels, np.ones(len(labels), np.float32))
    cfg = Config(eval=EvalConfig(unknown=unknown))
    summary = evaluate.summarise(scores, Protocol.of(cfg.resolved()), resamples=2)
    assert summary["unknown"] == unknown
    return summary["mAP"]


def test_the_settings_count_unknown_labels_as_negatives_where_they_say() -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(LABEL_VALUES, size=(60, 3)).astype(np.int8)
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    negatives: dict[Unknown, tuple[int, ...]] = {
        "ignored": (),
        "known_object": (UNKNOWN,),
        "negative": (UNKNOWN, OBJECT_ABSENT),
    }
    seen = set()
    for unknown, values in negatives.items():
        replaced = np.where(np.isin(labels, values), 0, labels)
        curves = [literal_curve(logits[:, k].astype(float), replaced[:, k]) for k in range(3)]
        expected = np.mean([float(literal_envelope(curve)) for curve in curves])
        seen.add(summary_of(unknown, labels, logits))
        assert summary_of(unknown, labels, logits) == pytest.approx(expected, abs=1e-12)
    assert len(seen) == 3


def test_known_object_equals_ranking_images_without_the_object_last() -> None:
    """As HICO's code does, which gives these images a score of -1e10."""
    rng = np.random.default_rng(2)
    labels = rng.choice((1, 0, AMBIGUOUS, OBJECT_ABSENT), size=(80, 3)).astype(np.int8)
    logits = rng.normal(size=(80, 3)).astype(np.float32)
    last = np.where(labels == OBJECT_ABSENT, np.float32(-1e10), logits)
    assert summary_of("known_object", labels, logits) == summary_of("negative", labels, last)
