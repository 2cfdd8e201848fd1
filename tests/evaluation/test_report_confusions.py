"""The confusions of a report: the most frequent pairs, and the whole matrix."""

import numpy as np

from gap_jax.report import tables
from gap_jax.report.comparison import compare
from gap_jax.report.confusions import build_matrices, find_confusions
from gap_jax.report.runs import ReportedRun
from tests.support.reported_runs import draw_scores, make_run
from tests.support.tiny_data import CLASSES


def test_confusions_are_counted_for_each_method() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 0, -1], np.int32)
    answers = {0: [2, 2, 0, 0, 1, 2, 2, 1], 1: [2, 0, 0, 0, 0, 2, 2, 1]}
    runs = []
    for seed, predicted in answers.items():
        scores = draw_scores(np.array(predicted), 3, skill=50)
        weights = (labels >= 0).astype(np.float32)
        scores = scores._replace(labels=labels, weights=weights)
        runs.append(make_run(scores, f"train.seed={seed}", root=str(seed)))
    first, second = find_confusions(compare(runs).methods)
    assert first == (CLASSES[0], CLASSES[2], (2.5,), (0, 6, 1))
    assert second == (CLASSES[1], CLASSES[0], (1.5,), (3, 4))


def make_predicting(
    labels: np.ndarray, answers: np.ndarray, classes: int, seed: int
) -> ReportedRun:
    """Makes a run that gives each image the class in `answers`."""
    scores = draw_scores(answers.astype(np.int32), classes, skill=50)
    weights = (labels >= 0).astype(np.float32)
    scores = scores._replace(labels=labels.astype(np.int32), weights=weights)
    names = tuple(f"class {index}" for index in range(classes))
    return make_run(scores, f"train.seed={seed}", root=str(seed), classes=names)


def test_confusion_matrix_counts_labelled_images_over_seeds() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, -1])
    answers = [np.array([0, 2, 2, 1, 0, 2, 1]), np.array([0, 0, 2, 1, 1, 2, 1])]
    runs = [make_predicting(labels, each, 4, seed) for seed, each in enumerate(answers)]
    (matrix,) = build_matrices(compare(runs).methods)
    assert [row.counts for row in matrix.rows] == [
        (1.5, 0, 1.5, 0), (0.5, 1.5, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0),
    ]  # fmt: skip
    assert [row.images for row in matrix.rows] == [3, 2, 1, 0] and matrix.others == 0
    shown = tables.list_confusions(matrix)
    (name, cells, images, right), *_ = shown.rows
    assert (name, images, right) == ("class 0", "3", "50")
    assert [cell.text for cell in cells] == ["1.5", "", "1.5", ""]
    assert [cell.shade for cell in cells] == [4, 0, 4, 0]
    assert [cell.is_right for cell in cells] == [True, False, False, False]
    assert shown.rows[3][2:] == ("0", "\u2013") and shown.names[3] == "class 3"


def test_matrix_of_many_classes_shows_those_with_most_mistakes() -> None:
    labels = np.repeat(np.arange(60), 3)
    answers = labels.copy()
    answers[labels == 50] = 7  # three mistakes of each
    answers[[3 * 20, 3 * 20 + 1]] = 7
    answers[3 * 31] = 30
    run = make_predicting(labels, answers, 60, 0)
    (matrix,) = build_matrices(compare([run]).methods, most=3)
    assert [row.truth for row in matrix.rows] == [
        "class 7",
        "class 20",
        "class 50",
        "57 other classes",
    ]
    assert np.array([row.counts for row in matrix.rows]).tolist() == [
        [3, 0, 0, 0], [2, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 171],
    ]  # fmt: skip
    assert sum(row.images for row in matrix.rows) == len(labels)
    *_, (_, cells, images, right) = tables.list_confusions(matrix).rows
    assert (cells[-1].shade, images, right) == (0, "171", "\u2013")
