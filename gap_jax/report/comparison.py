"""Compares methods: their scores, and paired differences on the same images."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.core.errors import ConfigError
from data_pipelines.manifest import describe_skipped
from gap_jax.config import fields
from gap_jax.evaluation import evaluate, metrics
from gap_jax.evaluation.metrics import Interval, Labels, Resampled, Scores, Statistic
from gap_jax.report.runs import ReportedRun
from gap_jax.runtime.run_folder import HARMLESS

SEED = "train.seed"
POOLINGS = {
    "mean": "mean pooling",
    "max": "max pooling",
    "attention": "attentional pooling",
    "second_order": "second-order pooling",
    "compact_bilinear": "compact bilinear pooling",
    "pose_parts": "pooling by pose parts",
    "rcnn": "R-CNN",
    "rstarcnn": "R*CNN",
}
MOST_NAMED_FIELDS = 3  # of those that differ; beyond these the folder names a method
NOTHING_SHOWN = "interval straddles 0: no difference shown"


class Method(NamedTuple):
    """Runs that differ in their seed only; scores are means over seeds, intervals over images."""

    name: str
    runs: tuple[ReportedRun, ...]
    parameters: int
    mean_ap: Interval
    by_seed: tuple[float, ...]
    accuracy: Interval | None  # None if images have several labels
    per_class: Float[np.ndarray, " k"]


class Difference(NamedTuple):
    """The scores of `second` minus those of `first` on the same images."""

    first: str
    second: str
    mean_ap: Interval
    accuracy: Interval | None


class Comparison(NamedTuple):
    """All methods in the order of their first runs, and all pairs of methods."""

    methods: tuple[Method, ...]
    differences: tuple[Difference, ...]
    images: int

    @property
    def skipped(self) -> str:
        """Describes the classes that no mean includes; empty if there is none."""
        run = self.methods[0].runs[0]
        return describe_skipped(
            run.classes, evaluate.count_positives(run.scores), run.cfg.data.scored_split
        )

    def __str__(self) -> str:
        """Returns one line for each method and each pair."""
        width = max(len(method.name) for method in self.methods)
        lines = [
            f"{method.name:<{width}}  mAP {percent(method.mean_ap)}"
            + (f"  accuracy {percent(method.accuracy)}" if method.accuracy else "")
            for method in self.methods
        ]
        lines += [
            f"{each.second} - {each.first}: mAP {percent(each.mean_ap, signed=True)}: "
            f"{describe_difference(each.mean_ap)}"
            for each in self.differences
        ]
        return "\n".join([*lines, *filter(None, [self.skipped])])


def compare(runs: Sequence[ReportedRun], names: Sequence[str] = ()) -> Comparison:
    """Groups the runs into methods and computes 95 % intervals over the counted images.

    `names` are those of the methods, in the order of their first runs.
    """
    protocol = evaluate.Protocol.of(runs[0].cfg)
    _, labels = protocol.rank(runs[0].scores)
    mean_ap = functools.partial(metrics.resampled_map, rule=protocol.rule)
    groups = _group(runs)
    methods: list[Method] = []
    precise: list[Resampled] = []
    accurate: list[Resampled] = []  # empty if images have several labels
    for name, group in zip(names or _name(groups), groups, strict=True):
        systems = [protocol.rank(run.scores)[0] for run in group]
        by_seed = [metrics.mean_average_precision(each, labels, protocol.rule) for each in systems]
        precise.append(_resample(mean_ap, systems, labels))
        if labels.ndim == 1:
            accurate.append(_resample(metrics.resampled_accuracy, systems, labels))
        methods.append(
            Method(
                name=name,
                runs=group,
                parameters=group[0].count_parameters(),
                mean_ap=precise[-1].interval(),
                by_seed=tuple(each.mean for each in by_seed),
                accuracy=accurate[-1].interval() if accurate else None,
                per_class=np.mean([each.per_class for each in by_seed], axis=0),
            )
        )
    differences = tuple(
        Difference(
            methods[i].name,
            methods[j].name,
            precise[j].minus(precise[i]).interval(lowest=-1.0),
            accurate[j].minus(accurate[i]).interval(lowest=-1.0) if accurate else None,
        )
        for i, j in itertools.combinations(range(len(groups)), 2)
    )
    return Comparison(tuple(methods), differences, len(labels))


def describe_difference(difference: Interval) -> str:
    """Describes the sign of a difference if its interval, as `percent` prints it, excludes 0."""
    if not math.isfinite(difference.low):
        return "too few images for an interval"
    low, high = (round(100 * value, 1) for value in difference[1:])
    if low > 0:
        return "higher"
    return "lower" if high < 0 else NOTHING_SHOWN


def percent(interval: Interval, *, signed: bool = False) -> str:
    """Formats an estimate and its interval in percent (a difference: in points)."""
    form = "{:+z.1f}" if signed else "{:z.1f}"
    estimate, low, high = (form.format(100 * value) for value in interval)
    return f"{estimate} ({low} to {high})" if math.isfinite(interval.low) else estimate


def _group(runs: Sequence[ReportedRun]) -> list[tuple[ReportedRun, ...]]:
    groups: dict[tuple[str, ...], dict[int, ReportedRun]] = {}
    for run in runs:
        seed = run.cfg.train.seed
        first = groups.setdefault(tuple(identify(run).values()), {}).setdefault(seed, run)
        if first is not run:
            raise ConfigError(
                f"{first.root} and {run.root} are the same run: one config, {SEED}={seed}; "
                "name one of them"
            )
    return [tuple(group[seed] for seed in sorted(group)) for group in groups.values()]


def identify(run: ReportedRun) -> dict[str, str]:
    """Returns the fields that define a method, as text; stored maps show other crops."""
    return {
        name: f"{name}={value}"
        for name, _, value in fields(run.cfg)
        if name != SEED and (name not in HARMLESS or (name, value) == ("data.cache", "features"))
    }


def _name(groups: Sequence[tuple[ReportedRun, ...]]) -> list[str]:
    """Names each method; methods of the same name get the fields that differ."""
    names = [_describe(group[0]) for group in groups]
    fields_of = [identify(group[0]) for group in groups]
    unique: list[str] = []
    for name, own, group in zip(names, fields_of, groups, strict=True):
        alike = [each for each, other in zip(fields_of, names, strict=True) if other == name]
        differing = [
            text for field, text in own.items() if len({each.get(field) for each in alike}) > 1
        ]
        if len(differing) > MOST_NAMED_FIELDS:
            differing = [group[0].root.absolute().name]
        unique.append(", ".join([name, *differing]))
    return unique


def _describe(run: ReportedRun) -> str:
    model = run.cfg.model
    name = f"GAP-CNN (T={model.T})" if model.pooling == "gap" else POOLINGS[model.pooling]
    if model.regions == "people":
        name = f"{name} of people"
    return f"{name} + pose" if run.cfg.pose.branch and model.pooling != "pose_parts" else name


def _resample(rule: Statistic, systems: Sequence[Scores], labels: Labels) -> Resampled:
    """Resamples the mean of a rule over the seeds of a method."""
    return metrics.resample(
        lambda counts: np.mean([rule(each, labels, counts) for each in systems], axis=0),
        len(labels),
    )
