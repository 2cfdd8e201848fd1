"""Ranks likely label errors by confident learning (Northcutt et al. 2021), for single labels.

The scores are those of evaluated images, which a run does not train on. The threshold of a class is
the mean probability of the class over the images labelled with it. An image counts in the confident
joint under its label and the most probable class of those that reach their thresholds. Images off
its diagonal are listed by their normalised margin: the probability of the label minus the highest
probability of another class.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from data_pipelines.core import files
from gap_jax.evaluation import metrics
from gap_jax.evaluation.evaluate import Scores
from gap_jax.report.images import EvaluatedImages
from gap_jax.report.runs import ReportedRun
from gap_jax.report.tables import Table

MOST_SHOWN = 20  # on the page; the CSV file has all
CSV_SUFFIX = ".label_errors.csv"
COLUMNS = ("image", "label", "suggested", "margin", "label_probability", "suggested_probability")


class LabelError(NamedTuple):
    """An image whose label is likely wrong; `row` is that of the scores."""

    row: int
    label: int
    suggested: int
    margin: float
    label_probability: float
    suggested_probability: float


class LabelErrors(NamedTuple):
    """The ranked images among `images` labelled ones; `reason` says why there are none to rank."""

    errors: Sequence[LabelError]
    images: int
    reason: str = ""


def rank_errors(
    probabilities: Float64[np.ndarray, "n k"], scores: Scores
) -> tuple[LabelError, ...]:
    """Ranks the off-diagonal images of the confident joint, the lowest margin first."""
    (rows,) = scores.is_labelled.nonzero()
    given, chances = scores.labels[rows], probabilities[rows]
    own = np.take_along_axis(chances, given[:, None], axis=1)[:, 0]
    images = np.bincount(given, minlength=chances.shape[1])
    sums = np.bincount(given, weights=own, minlength=chances.shape[1])
    # no image reaches the threshold of a class without images
    thresholds = np.where(images > 0, sums / np.maximum(images, 1), np.inf)
    confident = np.where(chances >= thresholds, chances, -1.0)
    suggested = confident.argmax(axis=1)
    others = chances.copy()
    np.put_along_axis(others, given[:, None], -1.0, axis=1)
    margins = own - others.max(axis=1)
    is_listed = (confident.max(axis=1) >= 0) & (suggested != given)
    listed = [row for row in np.argsort(margins, kind="stable") if is_listed[row]]
    return tuple(
        LabelError(
            int(rows[row]),
            int(given[row]),
            int(suggested[row]),
            float(margins[row]),
            float(own[row]),
            float(chances[row, suggested[row]]),
        )
        for row in listed
    )


def find_label_errors(runs: Sequence[ReportedRun]) -> LabelErrors:
    """Ranks by the mean probabilities of runs of one method, which differ in their seeds."""
    data, scores = runs[0].cfg.data, runs[0].scores
    count = int(scores.is_labelled.sum())
    if scores.labels.ndim > 1:
        return LabelErrors((), count, "the images have several labels each")
    if data.scores_trained:
        reason = f"the scores are of {data.eval_split}, and {data.train_split} was trained on"
        return LabelErrors((), count, reason)
    chances = [metrics.softmax(run.scores.logits) for run in runs]
    return LabelErrors(rank_errors(np.mean(chances, axis=0), scores), count)


def name_errors(found: LabelErrors, classes: Sequence[str], images: EvaluatedImages) -> Table:
    """Lists the first images for the page, with their names in the data set."""
    rows = [
        [
            name,
            label,
            suggested,
            f"{each.margin:.2f}",
            f"{100 * each.label_probability:.1f}",
            f"{100 * each.suggested_probability:.1f}",
        ]
        for name, label, suggested, each in _name(found.errors[:MOST_SHOWN], classes, images)
    ]
    columns = ["image", "label", "suggested class", "margin", "label %", "suggested %"]
    return Table("Images whose label is likely wrong", columns, rows, words=(1, 2))


def csv_path(page: Path) -> Path:
    """Returns the path of the CSV file beside a page."""
    return page.with_suffix(CSV_SUFFIX)


def write_csv(
    page: Path, found: LabelErrors, classes: Sequence[str], images: EvaluatedImages
) -> None:
    """Writes the whole list beside the page; an empty one removes that of an earlier page."""
    path = csv_path(page)
    if not found.errors:
        with files.writing(path):
            path.unlink(missing_ok=True)
        return
    rows = [
        (name, label, suggested, *(round(value, 6) for value in each[3:]))
        for name, label, suggested, each in _name(found.errors, classes, images)
    ]
    files.write_atomically(path, files.csv_table(COLUMNS, rows))


def _name(
    errors: Sequence[LabelError], classes: Sequence[str], images: EvaluatedImages
) -> list[tuple[str, str, str, LabelError]]:
    return [
        (str(images.record(each.row)["id"]), classes[each.label], classes[each.suggested], each)
        for each in errors
    ]
