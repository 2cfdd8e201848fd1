"""Builds the tables of a report: results, differences, classes, settings, environments."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gap_jax.config import Config, fields
from gap_jax.evaluation.evaluate import count_positives
from gap_jax.evaluation.metrics import Interval
from gap_jax.report.comparison import SEED, Comparison, Method, describe_difference, percent
from gap_jax.report.confusions import Matrix
from gap_jax.report.measure import Attention
from gap_jax.report.runs import ReportedRun
from gap_jax.runtime.run_folder import HARMLESS

UNKNOWN, EMPTY = "\u2013", "(empty)"
ENVIRONMENT_FIELDS = ("started", "command", "revision", "gap_jax", "python", "devices", "packages")


class Table(NamedTuple):
    """Rows of texts, each beginning with its name, below a caption and the names of the columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = ()  # positions of columns that wrap and are left-aligned
    bars: Sequence[int] = ()  # positions of columns of percentages with bars


def list_results(comparison: Comparison) -> Table:
    """Lists the scores of each method."""
    has_seeds = any(len(method.runs) > 1 for method in comparison.methods)
    names = ["method", "mAP %", "accuracy %", *["mAP by seed"] * has_seeds]
    names += ["highest mAP %", "parameters", "steps", "seed"]
    rows = []
    for method in comparison.methods:
        by_seed = ", ".join(map(_percent, method.by_seed))
        if len(method.runs) > 1:
            by_seed += f" (deviation {_percent(np.std(method.by_seed, ddof=1))})"
        row = [
            method.name,
            percent(method.mean_ap),
            percent(method.accuracy) if method.accuracy else UNKNOWN,
            *[by_seed] * has_seeds,
            ", ".join(map(_highest, method.runs)),
            f"{method.parameters:,}",
            ", ".join(f"{step:,}" for step in sorted({run.step for run in method.runs})),
            ", ".join(str(run.cfg.train.seed) for run in method.runs),
        ]
        rows.append(row)
    return Table("Results of each method, in percent with 95 % intervals", names, rows)


def _percent(value: float | np.floating, form: str = ".1f") -> str:
    return UNKNOWN if math.isnan(value) else f"{100 * value:{form}}"


def _highest(run: ReportedRun) -> str:
    """Returns the highest mAP of all evaluations of a run, and its step."""
    name = f"{run.cfg.data.scored_split}/mAP"
    scores = [(row[name], -row["step"]) for row in run.rows if row.get(name) is not None]
    if not scores:
        return UNKNOWN
    score, step = max(scores)
    return f"{100 * score:.1f} at {-step:,}"


def list_differences(comparison: Comparison) -> Table:
    """Lists the paired difference of every two methods."""
    columns = ["difference", "mAP points", "result", "accuracy points", "result"]
    rows = [
        [f"{each.second} minus {each.first}", *_gain(each.mean_ap), *_gain(each.accuracy)]
        for each in comparison.differences
    ]
    return Table("Paired differences with 95 % intervals", columns, rows, words=(2, 4))


def _gain(interval: Interval | None) -> list[str]:
    if interval is None:
        return [UNKNOWN, ""]
    return [percent(interval, signed=True), describe_difference(interval)]


def list_classes(methods: Sequence[Method]) -> Table:
    """Lists the AP of every class by the gain of the last method over the first."""
    images = count_positives(methods[0].runs[0].scores)
    gaps = methods[-1].per_class - methods[0].per_class
    is_compared = len(methods) > 1
    order: list[int] = np.argsort(-gaps, kind="stable").tolist()  # nan comes last
    rows = [
        [
            methods[0].runs[0].classes[k],
            f"{images[k]:,}",
            *(_percent(method.per_class[k]) for method in methods),
            *[_percent(gaps[k], "+.1f")] * is_compared,
        ]
        for k in order
    ]
    columns = ["class", "images", *(method.name for method in methods)]
    columns += ["last minus first"] * is_compared
    return Table("AP of each class in percent", columns, rows, bars=range(2, 2 + len(methods)))


class MatrixCell(NamedTuple):
    """A count of a confusion matrix; `shade` is its share of its row in eighths, rounded up."""

    text: str
    shade: int
    is_right: bool


class MatrixTable(NamedTuple):
    """A confusion matrix as texts; `others` classes share the last row and column."""

    method: str
    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[MatrixCell], str, str]]  # name, cells, images, % right
    others: int


def list_confusions(matrix: Matrix) -> MatrixTable:
    """Lists the counts of a confusion matrix, the images of each class and the share of right ones.

    What the summed classes get right is not known from their sum.
    """
    values = [value for row in matrix.rows for value in row.counts]
    digits = 1 if any(abs(value - round(value)) > 1e-9 for value in values) else 0
    rows = []
    for index, row in enumerate(matrix.rows):
        is_summed = matrix.others > 0 and index == len(matrix.rows) - 1
        cells = [
            MatrixCell(
                f"{value:,.{digits}f}" if value else "",
                math.ceil(8 * value / row.images) if value else 0,
                position == index,
            )
            for position, value in enumerate(row.counts)
        ]
        if is_summed:
            cells[index] = cells[index]._replace(shade=0)
        share = row.counts[index] / row.images if row.images and not is_summed else math.nan
        rows.append((row.truth, cells, f"{row.images:,.0f}", _percent(share, ".0f")))
    return MatrixTable(matrix.method, [row.truth for row in matrix.rows], rows, matrix.others)


def list_attention(found: Mapping[str, Attention]) -> Table:
    """Lists the share of each method's bottom-up map inside the masks."""
    rows = [
        [
            name,
            percent(each.own) if each.own else "h is constant: not defined",
            _percent(each.uniform.estimate),
            _percent(each.prior.estimate),
            *_gain(each.over_uniform),
            *_gain(each.over_prior),
        ]
        for name, each in found.items()
    ]
    caption = "Share of |h - median(h)| inside the masks, in percent with 95 % intervals"
    columns = ["method", "bottom-up map %", "uniform %", "centre prior %"]
    columns += ["minus uniform", "result", "minus prior", "result"]
    return Table(caption, columns, rows, words=(5, 7))


def list_settings(methods: Sequence[Method]) -> list[Table]:
    """Lists fields that differ from the paper's run: those that methods do not share come first."""
    paper = _settings(Config().resolved())
    own = [_settings(method.runs[0].cfg) for method in methods]
    rows = [
        [name, default, *(each[name] for each in own)]
        for name, default in paper.items()
        if any(each[name] != default for each in own)
    ]
    names = [method.name for method in methods]
    captions = ("The same in every run", "Different between the runs")
    return _split(captions, ["field", "the paper's run"], names, rows)[::-1]


def _settings(cfg: Config) -> dict[str, str]:
    hidden = {*HARMLESS, SEED}
    return {name: str(value) or EMPTY for name, _, value in fields(cfg) if name not in hidden}


def list_environments(runs: Sequence[ReportedRun]) -> list[Table]:
    """Lists the environments of the latest attempts: values that all runs share come first."""
    environments = [dict(_flatten(run.environment)) for run in runs]
    names = dict.fromkeys(name for each in environments for name in each)
    rows = [[name, *(each.get(name, UNKNOWN) for each in environments)] for name in names]
    captions = ("The same for every run", "Different for each run")
    return _split(captions, ["field"], [run.root.absolute().name for run in runs], rows)


def _split(
    captions: tuple[str, str], heads: list[str], names: list[str], rows: list[list[str]]
) -> list[Table]:
    """Makes a table of the rows with one value for all of `names`, and one of the others."""
    first = len(heads)
    shared = [row[: first + 1] for row in rows if len(set(row[first:])) == 1]
    apart = [row for row in rows if len(set(row[first:])) > 1]
    parts = zip(captions, (["here"], names), (shared, apart), strict=True)
    return [
        Table(caption, [*heads, *last], kept, words=range(1, first + len(last)))
        for caption, last, kept in parts
    ]


def _flatten(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ENVIRONMENT_FIELDS:
        value = environment.get(name)
        if isinstance(value, dict):
            for inner, each in value.items():
                yield (inner if name == "packages" else f"{name}: {inner}"), str(each)
        elif value is not None:
            yield name, str(value)
