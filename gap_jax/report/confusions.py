"""Counts which classes are taken for which, and finds examples of the most frequent pairs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gap_jax.report.comparison import Method

MOST_PAIRS, MOST_EXAMPLES = 6, 6
MOST_CLASSES = 40  # of a confusion matrix


class Confusion(NamedTuple):
    """A class predicted for another."""

    truth: str
    predicted: str
    counts: tuple[float, ...]  # images of each method, averaged over its seeds
    examples: tuple[int, ...]  # rows of the scores; those that most runs confuse come first


class MatrixRow(NamedTuple):
    """The images of a class: how many were taken for each shown class, and in all."""

    truth: str
    counts: tuple[float, ...]  # averaged over the seeds of the method
    images: float


class Matrix(NamedTuple):
    """The confusion matrix of a method; `others` classes share the last row and column."""

    method: str
    rows: tuple[MatrixRow, ...]
    others: int


def count_predictions(method: Method) -> Float[np.ndarray, "k k"]:
    """Counts the labelled images by true and predicted class, averaged over the seeds."""
    first = method.runs[0]
    labels, counted = first.scores.labels, first.scores.is_labelled
    table = np.zeros((len(first.classes),) * 2)
    for run in method.runs:
        answers = run.scores.logits.argmax(axis=1)
        np.add.at(table, (labels[counted], answers[counted]), 1 / len(method.runs))
    return table


def build_matrices(methods: Sequence[Method], most: int = MOST_CLASSES) -> list[Matrix]:
    """Builds a matrix for each method; none if images have several labels.

    Of more than `most` classes it shows those with most mistakes of all methods, as true or
    predicted class, and sums the others.
    """
    first = methods[0].runs[0]
    if first.scores.labels.ndim > 1:
        return []
    tables = [count_predictions(method) for method in methods]
    wrong = sum(tables) * (1 - np.eye(len(first.classes)))
    mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:most])
    others = len(first.classes) - len(shown)
    group = np.full(len(first.classes), len(shown))
    group[shown] = np.arange(len(shown))
    names = [first.classes[k] for k in shown] + [f"{others:,} other classes"] * bool(others)
    found = []
    for method, table in zip(methods, tables, strict=True):
        counts = np.zeros((len(names),) * 2)
        np.add.at(counts, (group[:, None], group[None, :]), table)
        rows = [
            MatrixRow(name, tuple(map(float, row)), float(row.sum()))
            for name, row in zip(names, counts, strict=True)
        ]
        found.append(Matrix(method.name, tuple(rows), others))
    return found


def find_confusions(methods: Sequence[Method]) -> list[Confusion]:
    """Returns the most frequent pairs over all methods; none if images have several labels."""
    first = methods[0].runs[0]
    labels = first.scores.labels
    if labels.ndim > 1:
        return []
    counted = first.scores.is_labelled
    tables = [count_predictions(method) for method in methods]
    shape = tables[0].shape
    for table in tables:
        np.fill_diagonal(table, 0)
    predictions = [run.scores.logits.argmax(axis=1) for method in methods for run in method.runs]
    total = np.sum(tables, axis=0)
    order = np.argsort(-total, axis=None, kind="stable")[:MOST_PAIRS]
    found = []
    for truth, other in zip(*np.unravel_index(order, shape), strict=True):
        if not total[truth, other]:
            break
        votes = (np.stack(predictions) == other).sum(axis=0) * (counted & (labels == truth))
        ranked = np.argsort(-votes, kind="stable")[:MOST_EXAMPLES]
        found.append(
            Confusion(
                first.classes[truth],
                first.classes[other],
                tuple(float(table[truth, other]) for table in tables),
                tuple(int(row) for row in ranked if votes[row]),
            )
        )
    return found
