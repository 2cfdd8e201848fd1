"""Averages the scores of runs on several splits of a data set, such as the three of HMDB51."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from data_pipelines.core.errors import CheckpointError, ConfigError
from gap_jax.evaluation import evaluate, metrics
from gap_jax.evaluation.metrics import Interval
from gap_jax.report.comparison import identify, percent
from gap_jax.report.runs import ReportedRun

LEVEL = 0.95


def interval_over_runs(scores: Sequence[float]) -> Interval:
    """Returns the mean of runs that differ in seed or split, with Student's 95 % interval of it.

    Scores, and so the ends of the interval, lie between 0 and 1.
    """
    mean, count = float(np.mean(scores)), len(scores)
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    error = float(np.std(scores, ddof=1)) / math.sqrt(count)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Interval(mean, max(mean - half, 0.0), min(mean + half, 1.0))


def describe_mean(runs: Sequence[ReportedRun]) -> str:
    """Describes the mean over runs of one config on different splits, with its interval."""
    if len(runs) < 2:
        raise ConfigError("a mean needs two runs or more; name one run for each split")
    for run in runs[1:]:
        _check_alike(runs[0], run)
    if len({run.fingerprint for run in runs}) < len(runs):
        raise CheckpointError(
            f"two of the {len(runs)} runs were trained on the same data; name one for each split, "
            "or compare seeds with gap_jax report RUN..."
        )
    lines = []
    for name, values in _score(runs).items():
        each = ", ".join(f"{100 * value:.1f}" for value in values)
        lines.append(f"{name} {percent(interval_over_runs(values))}: the mean of {each}")
    lines.append(
        f"The interval is Student's, 95 %, over {len(runs)} runs; splits that share videos make it "
        "too narrow."
    )
    return "\n".join(lines)


def _check_alike(first: ReportedRun, other: ReportedRun) -> None:
    if first.classes != other.classes:
        raise CheckpointError(
            f"{first.root} and {other.root} have other classes; name runs on splits of one data set"
        )
    own, others = identify(first), identify(other)
    if differing := [text for name, text in others.items() if own.get(name) != text]:
        raise CheckpointError(
            f"{first.root} and {other.root} differ in {differing[0]}, so they are no runs of one "
            "method; name runs of one config"
        )


def _score(runs: Sequence[ReportedRun]) -> dict[str, list[float]]:
    """Returns the metrics of each run by name; accuracy first where images have one label."""
    found: dict[str, list[float]] = {}
    for run in runs:
        protocol = evaluate.Protocol.of(run.cfg)
        ranked, labels = protocol.rank(run.scores)
        if labels.ndim == 1:
            found.setdefault("accuracy", []).append(metrics.accuracy(ranked, labels))
        mean_ap = metrics.mean_average_precision(ranked, labels, protocol.rule).mean
        found.setdefault("mAP", []).append(mean_ap)
    return found
