"""The classes that are taken for each other most often, with the images that were."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gap_jax.explain.report.comparison import Method

MOST_PAIRS, MOST_EXAMPLES = 6, 6


class Confusion(NamedTuple):
    """A class taken for another: how often by each method, on the mean of its seeds.

    `examples` are rows of the scores, those that the most methods confuse first.
    """

    truth: str
    taken_for: str
    counts: tuple[float, ...]
    examples: tuple[int, ...]


def find_confusions(methods: Sequence[Method]) -> list[Confusion]:
    """The pairs of highest count over all methods; none where an image has several labels."""
    first = methods[0].runs[0]
    labels = first.scores.labels
    if labels.ndim > 1:
        return []
    classes, counted = len(first.classes), first.scores.is_labelled
    tables, taken = [], []
    for method in methods:
        predicted = np.stack([run.scores.logits.argmax(axis=1) for run in method.runs])
        table = np.zeros((classes, classes))
        for each in predicted[:, counted]:
            np.add.at(table, (labels[counted], each), 1 / len(predicted))
        np.fill_diagonal(table, 0)
        tables.append(table)
        taken.extend(predicted)
    total = np.sum(tables, axis=0)
    order = np.argsort(-total, axis=None, kind="stable")[:MOST_PAIRS]
    found = []
    for truth, other in zip(*np.unravel_index(order, total.shape), strict=True):
        if not total[truth, other]:
            break
        votes = (np.stack(taken) == other).sum(axis=0) * (counted & (labels == truth))
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
