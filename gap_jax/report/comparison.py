"""Compares methods: their scores, and paired differences on the same images."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

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
}
MOST_NAMED_FIELDS = 3  # of those that differ; beyond these the folder names a method
NOTHING_SHOWN = "interval straddles 0: no difference shown"


@dataclasses.dataclass(frozen=True)
class Method:
    """Runs that differ in their seed only; scores are means over seeds.

    Intervals are over resampled images. `accuracy` is None if images have several labels.
    """

    name: str
    runs: tuple[ReportedRun, ...]
    parameters: int
    mean_ap: Interval
    by_seed: tuple[float, ...]
    accuracy: Interval | None
    per_class: Float[np.ndarray, " k"]

    @property
    def deviation(self) -> float:
        """Returns the standard deviation of mAP over seeds; nan for a single one."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else math.nan


@dataclasses.dataclass(frozen=True)
class Difference:
    """The scores of `second` minus those of `first` on the same images."""

    first: str
    second: str
    mean_ap: Interval
    accuracy: Interval | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All methods in the order of their first runs, and all pairs of methods."""

    methods: tuple[Method, ...]
    differences: tuple[Difference, ...]
    images: int

    @property
    def skipped(self) -> str:
        """Describes the classes that no mean includes; empty if there is none."""
        run = self.methods[0].runs[0]
        return describe_skipped(run.classes, evaluate.count_positives(run.scores), run.split)

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


def compare(runs: Sequence[ReportedRun]) -> Comparison:
    """Groups the runs into methods and computes 95 % intervals over the counted images."""
    protocol = evaluate.Protocol.of(runs[0].cfg)
    _, labels = protocol.rank(runs[0].scores)
    groups, whole = _group(runs), np.ones((len(labels), 1))
    systems = [[protocol.rank(run.scores)[0] for run in group] for group in groups]
    mean_ap = functools.partial(metrics.resampled_map, rule=protocol.rule)
    precise = [_resample(mean_ap, group, labels) for group in systems]
    accurate = None
    if labels.ndim == 1:
        accurate = [_resample(metrics.resampled_accuracy, group, labels) for group in systems]
    methods = tuple(
        Method(
            name=name,
            runs=group,
            parameters=group[0].count_parameters(),
            mean_ap=precise[i].interval(),
            by_seed=tuple(float(mean_ap(each, labels, whole)[0]) for each in systems[i]),
            accuracy=accurate[i].interval() if accurate else None,
            per_class=np.mean(
                [
                    metrics.mean_average_precision(each, labels, protocol.rule).per_class
                    for each in systems[i]
                ],
                axis=0,
            ),
        )
        for i, (name, group) in enumerate(zip(_name(groups), groups, strict=True))
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
    return Comparison(methods, differences, len(labels))


def describe_difference(difference: Interval) -> str:
    """Describes the sign of a difference if its interval excludes 0."""
    if not math.isfinite(difference.low):
        return "too few images for an interval"
    if difference.low > 0:
        return "higher"
    return "lower" if difference.high < 0 else NOTHING_SHOWN


def percent(interval: Interval, *, signed: bool = False) -> str:
    """Formats an estimate and its interval in percent (a difference: in points)."""
    form = "{:+z.1f}" if signed else "{:z.1f}"
    estimate, low, high = (form.format(100 * value) for value in interval)
    return f"{estimate} ({low} to {high})" if math.isfinite(interval.low) else estimate


def _group(runs: Sequence[ReportedRun]) -> list[tuple[ReportedRun, ...]]:
    groups: dict[tuple[str, ...], list[ReportedRun]] = {}
    for run in runs:
        groups.setdefault(tuple(_identify(run).values()), []).append(run)
    for group in groups.values():
        seeds = {run.seed: run for run in reversed(group)}
        for run in group:
            if seeds[run.seed] is not run:
                raise ConfigError(
                    f"{seeds[run.seed].root} and {run.root} are the same run: one config, "
                    f"{SEED}={run.seed}; name one of them"
                )
    return [tuple(sorted(group, key=lambda run: run.seed)) for group in groups.values()]


def _identify(run: ReportedRun) -> dict[str, str]:
    """Returns the fields that define a method, as text."""
    return {
        name: f"{name}={value}"
        for name, _, value in fields(run.cfg)
        if name not in HARMLESS and name != SEED
    }


def _name(groups: Sequence[tuple[ReportedRun, ...]]) -> list[str]:
    """Names each method; methods of the same name get the fields that differ."""
    names = [_describe(group[0]) for group in groups]
    unique: list[str] = []
    for name, group in zip(names, groups, strict=True):
        alike = [
            _identify(other[0])
            for other, own_name in zip(groups, names, strict=True)
            if own_name == name
        ]
        own = _identify(group[0])
        differing = [
            text for field, text in own.items() if len({each[field] for each in alike}) > 1
        ]
        if len(differing) > MOST_NAMED_FIELDS:
            differing = [group[0].root.absolute().name]
        unique.append(", ".join([name, *differing]))
    return unique


def _describe(run: ReportedRun) -> str:
    model = run.cfg.model
    name = POOLINGS.get(model.pooling, f"GAP-CNN (T={model.T})")
    return f"{name} + pose" if run.cfg.pose.branch and model.pooling != "pose_parts" else name


def _resample(rule: Statistic, systems: Sequence[Scores], labels: Labels) -> Resampled:
    """Resamples the mean of a rule over the seeds of a method."""
    return metrics.resample(
        lambda counts: np.mean([rule(each, labels, counts) for each in systems], axis=0),
        len(labels),
    )
