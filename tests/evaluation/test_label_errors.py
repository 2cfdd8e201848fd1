"""Likely label errors: the list is that of confident learning, or there is none and a reason."""

import csv
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import records
from gap_jax.evaluation.evaluate import Scores
from gap_jax.report.images import EvaluatedImages
from gap_jax.report.label_errors import (
    COLUMNS,
    LabelError,
    LabelErrors,
    csv_path,
    find_label_errors,
    name_errors,
    rank_errors,
    write_csv,
)
from tests.support.reported_runs import draw_scores, make_run
from tests.support.tiny_data import CLASSES, prepare_tiny_people


def with_labels(scores: Scores, labels: np.ndarray) -> Scores:
    """Gives scores other labels; -1 has weight 0."""
    weights = (labels >= 0).astype(np.float32)
    return scores._replace(labels=labels.astype(np.int32), weights=weights)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def flipped_scores(seed: int, skill: float = 6.0) -> tuple[Scores, set[int]]:
    """Draws scores of 600 images of 8 classes, of which 5 % have a wrong label."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 8, 600)
    wrong = rng.choice(600, 30, replace=False)
    given = truth.copy()
    given[wrong] = (truth[wrong] + rng.integers(1, 8, 30)) % 8
    return with_labels(draw_scores(truth, 8, skill=skill, seed=seed), given), set(wrong.tolist())


def test_list_is_that_of_a_count_by_hand() -> None:
    chances = np.array(
        [
            [0.8, 0.1, 0.1],  # class 0: threshold 0.5
            [0.6, 0.3, 0.1],
            [0.1, 0.7, 0.2],  # off the diagonal: 0.7 >= 0.65, margin -0.6
            [0.5, 0.4, 0.1],
            [0.1, 0.9, 0.0],  # class 1: threshold 0.65
            [0.6, 0.55, 0.0],  # off the diagonal, margin -0.05
            [0.45, 0.5, 0.05],  # it reaches no threshold
            [0.0, 0.9, 0.1],  # without a label
            [0.52, 0.0, 0.53],  # class 2: its threshold, 0.53, is reached
        ]
    )
    labels = np.array([0, 0, 0, 0, 1, 1, 1, -1, 2])
    scores = with_labels(draw_scores(np.zeros(9, int), 3, skill=0), labels)
    first, second = rank_errors(chances, scores)
    assert first == pytest.approx(LabelError(2, 0, 1, -0.6, 0.1, 0.7))
    assert second == pytest.approx(LabelError(5, 1, 0, -0.05, 0.55, 0.6))


@pytest.mark.parametrize("seed", range(3))
def test_list_is_that_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 4, 60)  # no image is of class 4
    scores = with_labels(draw_scores(rng.integers(0, 5, 60), 5, skill=1.0, seed=seed), labels)
    chances = softmax(scores.logits)
    thresholds = {
        k: np.mean([chances[i, k] for i in range(60) if labels[i] == k]) for k in range(4)
    }
    expected = []
    for i in np.flatnonzero(labels >= 0):
        reached = {k: chances[i, k] for k, least in thresholds.items() if chances[i, k] >= least}
        best = max(reached, key=lambda k: reached[k], default=None)
        if best is not None and best != labels[i]:
            other = max(chances[i, k] for k in range(5) if k != labels[i])
            expected.append((chances[i, labels[i]] - other, int(i), best))
    found = rank_errors(chances, scores)
    assert [(each.row, each.suggested) for each in found] == [each[1:] for each in sorted(expected)]
    assert len(found) > 5


@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_are_found(seed: int) -> None:
    scores, wrong = flipped_scores(seed)
    listed = [each.row for each in find_label_errors([make_run(scores)]).errors]
    found = wrong.intersection(listed)
    assert len(found) >= 0.8 * len(wrong)  # recall
    assert len(found) >= 0.8 * len(listed)  # precision
    assert wrong.issuperset(listed[:15])
    clean = with_labels(draw_scores(np.arange(600) % 8, 8, skill=12), np.arange(600) % 8)
    assert find_label_errors([make_run(clean)]) == LabelErrors((), 600)


def test_probabilities_of_seeds_are_averaged() -> None:
    scores, _ = flipped_scores(0, skill=2.0)
    other, _ = flipped_scores(1, skill=2.0)
    other = other._replace(labels=scores.labels)
    both = [make_run(scores), make_run(other, "train.seed=1")]
    mean = (softmax(scores.logits) + softmax(other.logits)) / 2
    found = [each.row for each in find_label_errors(both).errors]
    assert found == [each.row for each in rank_errors(mean, scores)] and found


def test_without_scores_of_other_images_there_is_no_list() -> None:
    scores, _ = flipped_scores(0)
    for evaluated, trained in (
        ("train", "train"), ("val", "trainval"), ("train", "trainval"), ("trainval", "train"),
        ("trainval", "val"), ("trainval", "trainval"),
    ):  # fmt: skip
        run = make_run(scores, f"data.eval_split={evaluated}", f"data.train_split={trained}")
        reason = f"the scores are of {evaluated}, and {trained} was trained on"
        assert find_label_errors([run]) == LabelErrors((), 600, reason)
    for evaluated, trained in (("val", "train"), ("train", "val"), ("test", "trainval")):
        run = make_run(scores, f"data.eval_split={evaluated}", f"data.train_split={trained}")
        assert find_label_errors([run]).errors
    held_out = make_run(scores, "data.eval_split=train", "data.held_out=0.2")
    assert find_label_errors([held_out]).errors and not find_label_errors([held_out]).reason
    several = scores._replace(labels=np.eye(8, dtype=np.int8)[scores.labels])
    assert find_label_errors([make_run(several)]).reason == "the images have several labels each"


def test_files_name_the_images(tmp_path: Path) -> None:
    data = prepare_tiny_people(tmp_path / "data")
    source = records.open_split(tmp_path / "data", "val", data)
    images = EvaluatedImages(tmp_path / "data", data, source, (0, 1, 2, 3))
    found = LabelErrors((LabelError(2, 0, 1, -0.5, 0.25, 0.75),), 4)
    page = tmp_path / "report.html"
    write_csv(page, found, CLASSES, images)
    assert csv_path(page) == tmp_path / "report.label_errors.csv"
    header, row = csv.reader(csv_path(page).read_text("utf-8").splitlines())
    name = str(images.record(2)["id"])
    assert tuple(header) == COLUMNS
    assert row == [name, CLASSES[0], CLASSES[1], "-0.5", "0.25", "0.75"]
    assert name_errors(found, CLASSES, images).rows == [
        [name, CLASSES[0], CLASSES[1], "-0.50", "25.0", "75.0"]
    ]
    write_csv(page, LabelErrors((), 4), CLASSES, images)
    assert not csv_path(page).exists()
