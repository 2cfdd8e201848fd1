"""Computes metrics from stored scores, on the host in float64: AP, accuracy, tables, intervals.

Callers leave out rows of weight 0 (padding, images without a label). A single label of -1 counts as
an error and as a negative of every class, as in AP's released code. Of several labels one below 0
leaves the metrics of its class. The order of rows has no effect: equal scores are retrieved
together, as one threshold.

A rule defines average precision. With P(r) the precision at a recall r: `envelope`, the area under
max_{s >= r} P(s), VOC 2010's; `step`, the area under P itself, summed where recall rises
(scikit-learn's); `eleven_point`, the mean of the envelope at r = 0, 0.1 .. 1, exact; `voc2007`, the
same as computed by the code of VOC 2007 and of HICO, which compares recall with floating-point
tenths: 3 * 0.1 is above 3 / 10.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.core.errors import DataError
from data_pipelines.example import NEGATIVE, OBJECT_ABSENT, UNKNOWN
from gap_jax.config import Ranking, Rule, Unknown

Scores = Float[np.ndarray, "n k"]
Labels = Int[np.ndarray, " n"] | Int[np.ndarray, "n k"]
Counts = Float[np.ndarray, "n r"]
Statistic = Callable[[Scores, Labels, Counts], Float[np.ndarray, " r"]]
"""Computes a number for each of r resamples, which contain row i counts[i] times."""

RESAMPLES_AT_ONCE = 200  # limits memory to n * 200 counts


class Interval(NamedTuple):
    """An estimate and its interval."""

    estimate: float
    low: float
    high: float


class Resampled(NamedTuple):
    """A statistic of all images, and its values on r resamples of them."""

    estimate: float
    values: Float[np.ndarray, " r"]

    def minus(self, other: "Resampled") -> "Resampled":
        """Subtracts another statistic, resample by resample."""
        return Resampled(self.estimate - other.estimate, self.values - other.values)

    def interval(self, *, level: float = 0.95, lowest: float = 0.0) -> Interval:
        """Returns the bootstrap interval of a statistic between `lowest` and 1.

        The quantiles are centred on the mean of the resamples: a positive that is drawn twice
        raises AP in every resample, so plain percentiles miss the value where classes are rare
        (simulated, 40 classes in 400 images: they cover the mean over such test sets in 83 % of
        cases, these in 94 %).
        """
        low = high = float("nan")
        finite = self.values[np.isfinite(self.values)]
        if finite.size:
            tail = (1 - level) / 2
            low, high = self.estimate + (np.quantile(finite, [tail, 1 - tail]) - finite.mean())
        return Interval(*np.clip([self.estimate, low, high], lowest, 1.0).tolist())


class ClassRow(NamedTuple):
    """One class; AP is nan without positives, `recall` is the share of positives ranked first."""

    name: str
    positives: int
    average_precision: float
    recall: float


class MeanPrecision(NamedTuple):
    """mAP over the `counted` classes; the others have no positive and nan in `per_class`."""

    mean: float
    per_class: Float[np.ndarray, " k"]
    counted: int


def check_finite(logits: Scores) -> None:
    """Refuses logits that are not finite."""
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        raise DataError(
            f"scores of {bad.size} of {len(logits)} images are not finite, first in row {bad[0]}; "
            "evaluate a checkpoint from before training diverged"
        )


def softmax(logits: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k"]:
    """Computes the probabilities of single labels in float64."""
    scores = logits.astype(np.float64)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def ranking_scores(
    logits: Scores, labels: Labels, ranking: Ranking = "softmax"
) -> Float[np.ndarray, "n k"]:
    """Returns scores that rank images within a class like the probabilities, without saturation.

    Single labels: log softmax, exact near 0 and 1 where softmax would tie, or the logits if
    `ranking` is logits. Multiple labels: the logits, because a sigmoid keeps their order.
    """
    if not len(logits):
        raise DataError("no labelled image was scored; evaluate a split that has labels")
    check_finite(logits)
    scores = logits.astype(np.float64)
    if labels.ndim == 2 or ranking == "logits":
        return scores
    rows, top = np.arange(len(scores)), scores.argmax(axis=1)
    shifted = scores - scores[rows, top][:, None]
    others = np.exp(shifted)
    others[rows, top] = 0
    return shifted - np.log1p(others.sum(axis=1))[:, None]


def resolve_unknown(labels: Labels, unknown: Unknown) -> Labels:
    """Replaces the unknown labels that count as negatives by 0; ambiguous ones never count.

    `negative`: in all images. `known_object`: in images where a known label names the class's
    object; without objects in the data, in all.
    """
    if labels.ndim == 1 or unknown == "ignored":
        return labels
    lowest = OBJECT_ABSENT if unknown == "negative" else UNKNOWN
    return np.where((lowest <= labels) & (labels <= UNKNOWN), labels.dtype.type(NEGATIVE), labels)


def average_precision(
    scores: Float[np.ndarray, " n"],
    positives: Bool[np.ndarray, " n"],
    rule: Rule = "envelope",
    ignored: Bool[np.ndarray, " n"] | None = None,
) -> float:
    """Computes the average precision of one class without the ignored images.

    It is nan without a positive.
    """
    found = _retrieve(scores, positives, np.ones((len(scores), 1)), ignored)
    return float(_average(rule, *found)[0])


def mean_average_precision(
    scores: Scores, labels: Labels, rule: Rule = "envelope"
) -> MeanPrecision:
    """Averages the average precision over the classes that have a positive."""
    positives, ignored = positives_of(labels, scores.shape[1]), _list_ignored(labels, scores)
    per_class = np.array(
        [
            average_precision(scores[:, k], positives[:, k], rule, ignored[k])
            for k in range(scores.shape[1])
        ]
    )
    counted = int(positives.any(axis=0).sum())
    mean = float(np.nanmean(per_class)) if counted else float("nan")
    return MeanPrecision(mean, per_class, counted)


def top_k_hits(scores: Scores, labels: Int[np.ndarray, " n"], k: int) -> Bool[np.ndarray, " n"]:
    """Returns whether the label is among the k best classes; ties go to the first class."""
    own = np.take_along_axis(scores, np.maximum(labels, 0)[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]
    better = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return (better < k) & (labels >= 0)


def accuracy(scores: Scores, labels: Int[np.ndarray, " n"], k: int = 1) -> float:
    """Returns the share of images whose label is among the k best classes."""
    return float(top_k_hits(scores, labels, k).mean())


def class_table(
    scores: Scores, labels: Labels, classes: Sequence[str], rule: Rule = "envelope"
) -> list[ClassRow]:
    """Returns one row for each class, in the order of the class list."""
    positives = positives_of(labels, len(classes))
    precisions = mean_average_precision(scores, labels, rule).per_class
    first = positives & positives_of(scores.argmax(axis=1), len(classes))
    counts = positives.sum(axis=0)
    recalls = np.divide(
        first.sum(axis=0), counts, out=np.full(len(classes), np.nan), where=counts > 0
    )
    columns = (each.tolist() for each in (counts, precisions, recalls))
    return [ClassRow(*row) for row in zip(classes, *columns, strict=True)]


def resample(
    statistic: Callable[[Counts], Float[np.ndarray, " r"]],
    images: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Computes a statistic on all images, and on bootstrap resamples, the same for each call."""
    rng, blocks = np.random.default_rng(seed), []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        drawn = rng.integers(images, size=(min(RESAMPLES_AT_ONCE, resamples - start), images))
        counts = np.stack([np.bincount(row, minlength=images) for row in drawn], axis=1)
        blocks.append(statistic(counts.astype(np.float32)))
    return Resampled(float(statistic(np.ones((images, 1)))[0]), np.concatenate(blocks))


def resampled_map(
    scores: Scores, labels: Labels, counts: Counts, rule: Rule = "envelope"
) -> Float[np.ndarray, " r"]:
    """Computes mAP of each resample over the classes with a positive in it."""
    positives, ignored = positives_of(labels, scores.shape[1]), _list_ignored(labels, scores)
    total, counted = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for k in range(scores.shape[1]):
        area = _average(rule, *_retrieve(scores[:, k], positives[:, k], counts, ignored[k]))
        total += np.nan_to_num(area)
        counted += ~np.isnan(area)
    return np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)


def resampled_accuracy(scores: Scores, labels: Labels, counts: Counts) -> Float[np.ndarray, " r"]:
    """Computes the accuracy of each resample."""
    return top_k_hits(scores, labels, 1).astype(np.float64) @ counts / counts.sum(axis=0)


def positives_of(labels: Labels, classes: int) -> Bool[np.ndarray, "n k"]:
    """Returns whether each image is a positive of each class."""
    return labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(classes)


def _list_ignored(labels: Labels, scores: Scores) -> Sequence[Bool[np.ndarray, " n"] | None]:
    """Returns for each class which images leave its metrics, or None if none does."""
    ignored = labels < 0 if labels.ndim == 2 else np.zeros((0, 0), bool)
    return list(ignored.T) if ignored.any() else [None] * scores.shape[1]


def _retrieve(
    scores: Float[np.ndarray, " n"],
    positives: Bool[np.ndarray, " n"],
    counts: Counts,
    ignored: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, "m r"], Float[np.ndarray, "m r"]]:
    """Counts positives and images at or above each distinct score of a positive, in falling order.

    Only negatives lie between these thresholds: there precision falls at constant recall, so no
    rule needs them.
    """
    if not positives.any():
        nothing = np.zeros((0, counts.shape[1]))
        return nothing, nothing
    order = np.argsort(-scores, kind="stable")
    if ignored is not None:
        order = order[~ignored[order]]
    falls = np.append(scores[order][1:] != scores[order][:-1], True)
    threshold = np.cumsum(falls) - falls
    ranks = np.flatnonzero(positives[order])
    ends = np.flatnonzero(falls)[np.unique(threshold[ranks])] + 1
    starts = np.append(0, ends[:-1])
    drawn = counts[order[: ends[-1]]]
    retrieved = np.add.reduceat(drawn, starts, axis=0).astype(np.float64).cumsum(axis=0)
    found = np.add.reduceat(drawn[ranks], np.searchsorted(ranks, starts), axis=0)
    return found.astype(np.float64).cumsum(axis=0), retrieved


def _average(
    rule: Rule, found: Float[np.ndarray, "m r"], retrieved: Float[np.ndarray, "m r"]
) -> Float[np.ndarray, " r"]:
    """Computes the average precision of each resample by a rule."""
    if not len(found):
        return np.full(found.shape[1], np.nan)
    precision = np.divide(found, retrieved, out=np.zeros_like(found), where=retrieved > 0)
    has_positive = found[-1] > 0
    if rule in ("eleven_point", "voc2007"):
        if rule == "eleven_point":
            reached = [10 * found >= tenths * found[-1] for tenths in range(11)]
        else:  # as the range of a loop MATLAB's 0:0.1:1 is i * 0.1
            recall = np.divide(found, found[-1], out=np.zeros_like(found), where=has_positive)
            reached = [recall >= i * 0.1 for i in range(11)]
        mean = sum(np.where(each, precision, 0).max(axis=0) / 11 for each in reached)
        return np.where(has_positive, mean, np.nan)
    if rule == "envelope":
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area = (np.diff(found, axis=0, prepend=0) * precision).sum(axis=0)
    return np.divide(area, found[-1], out=np.full_like(area, np.nan), where=has_positive)
