"""Finds the classes that are confused most often, with example images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gap_jax.report.comparison import Method

MOST_PAIRS, MOST_EXAMPLES = 6, 6


class Confusion(NamedTuple):
    """A class predicted for another."""

    truth: str
    predicted: str
    counts: tuple[float, ...]  # images of each method, averaged over its seeds
    examples: tuple[int, ...]  # rows of the scores; those that most runs confuse come first


def find_confusions(methods: Sequence[Method]) -> list[Confusion]:
    """Returns the most frequent pairs over all methods; none if images have several labels."""
    first = methods[0].runs[0]
    labels = first.scores.labels
    if labels.ndim > 1:
        return []
    shape, counted = (len(first.classes),) * 2, first.scores.is_labelled
    tables, predictions = [], []
    for method in methods:
        answers = [run.scores.logits.argmax(axis=1) for run in method.runs]
        table = np.zeros(shape)
        for each in answers:
            np.add.at(table, (labels[counted], each[counted]), 1 / len(answers))
        np.fill_diagonal(table, 0)
        tables.append(table)
        predictions.extend(answers)
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
