"""Builds the tables of a report: results, differences, classes, settings, environments."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.manifest import Split
from gap_jax.config import Config, fields
from gap_jax.evaluation.metrics import Interval
from gap_jax.report.comparison import SEED, Comparison, Method, describe_difference, percent
from gap_jax.report.measure import Attention
from gap_jax.report.runs import ReportedRun
from gap_jax.runtime.run_folder import HARMLESS

UNKNOWN, EMPTY = "\u2013", "(empty)"
ENVIRONMENT_FIELDS = ("started", "command", "revision", "gap_jax", "python", "devices", "packages")


class Cell(NamedTuple):
    """A text, and the length in percent of the bar below it."""

    text: str
    bar: float | None = None


class Column(NamedTuple):
    """A column; words wrap and are left-aligned, numbers are right-aligned."""

    name: str
    is_words: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A caption, the columns, and (name, cells) for each row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def list_results(comparison: Comparison) -> Table:
    """Lists the scores of each method."""
    has_seeds = any(len(method.runs) > 1 for method in comparison.methods)
    names = ["mAP %", "accuracy %", *["mAP by seed"] * has_seeds]
    names += ["highest mAP %", "parameters", "steps", "seed"]
    return Table(
        "Results of each method, in percent with 95 % intervals",
        [Column("method"), *map(Column, names)],
        [(method.name, _result(method, has_seeds)) for method in comparison.methods],
    )


def _result(method: Method, has_seeds: bool) -> list[Cell]:
    steps = sorted({run.step for run in method.runs})
    each = ", ".join(f"{100 * value:.1f}" for value in method.by_seed)
    if math.isfinite(method.deviation):
        each += f" (deviation {100 * method.deviation:.1f})"
    cells = [
        percent(method.mean_ap),
        percent(method.accuracy) if method.accuracy else UNKNOWN,
        *[each] * has_seeds,
        ", ".join(map(_highest, method.runs)),
        f"{method.parameters:,}",
        ", ".join(f"{step:,}" for step in steps),
        ", ".join(str(run.seed) for run in method.runs),
    ]
    return [Cell(text) for text in cells]


def _highest(run: ReportedRun) -> str:
    """Returns the highest mAP of all evaluations of a run, and its step."""
    name = f"{run.split}/mAP"
    scores = [(row[name], -row["step"]) for row in run.rows if row.get(name) is not None]
    if not scores:
        return UNKNOWN
    score, step = max(scores)
    return f"{100 * score:.1f} at {-step:,}"


def list_differences(comparison: Comparison) -> Table:
    """Lists the paired difference of every two methods."""
    columns = [
        Column("difference"), Column("mAP points"), Column("result", is_words=True),
        Column("accuracy points"), Column("result", is_words=True),
    ]  # fmt: skip
    rows = [
        (
            f"{each.second} minus {each.first}",
            [*_difference(each.mean_ap), *_difference(each.accuracy)],
        )
        for each in comparison.differences
    ]
    return Table("Paired differences with 95 % intervals", columns, rows)


def _difference(interval: Interval | None) -> list[Cell]:
    if interval is None:
        return [Cell(UNKNOWN), Cell("")]
    return [Cell(percent(interval, signed=True)), Cell(describe_difference(interval))]


def list_classes(methods: Sequence[Method], split: Split) -> Table:
    """Lists the AP of every class by the gain of the last method over the first."""
    classes = methods[0].runs[0].classes
    gaps = [
        last - first
        for first, last in zip(methods[0].per_class, methods[-1].per_class, strict=True)
    ]
    is_known = [not math.isnan(gap) for gap in gaps]
    order = sorted(range(len(classes)), key=lambda k: (not is_known[k], -gaps[k], k))
    many = len(methods) > 1
    rows = []
    for k in order:
        cells = [Cell(f"{split.class_counts[k]:,}")]
        cells += [_precision(float(method.per_class[k])) for method in methods]
        if many:
            cells.append(Cell(f"{100 * gaps[k]:+.1f}" if is_known[k] else UNKNOWN))
        rows.append((classes[k], cells))
    names = ["images", *(method.name for method in methods), *["last minus first"] * many]
    return Table("AP of each class in percent", [Column("class"), *map(Column, names)], rows)


def _precision(value: float) -> Cell:
    if math.isnan(value):
        return Cell(UNKNOWN)
    return Cell(f"{100 * value:.1f}", round(100 * value, 1))


def list_attention(found: Mapping[str, Attention]) -> Table:
    """Lists the share of each method's bottom-up map inside the masks."""
    columns = ["method", "bottom-up map %", "uniform %", "centre prior %"]
    rows = []
    for name, each in found.items():
        cells = [Cell("h is constant: not defined" if each.own is None else percent(each.own))]
        cells += [Cell(f"{100 * other.estimate:.1f}") for other in (each.uniform, each.prior)]
        for interval in (each.over_uniform, each.over_prior):
            cells += _difference(interval)
        rows.append((name, cells))
    pairs = [
        Column("minus uniform"), Column("result", is_words=True),
        Column("minus prior"), Column("result", is_words=True),
    ]  # fmt: skip
    return Table(
        "Share of |h - median(h)| inside the masks, in percent with 95 % intervals",
        [*map(Column, columns), *pairs],
        rows,
    )


def list_settings(methods: Sequence[Method], *, shared: bool) -> Table:
    """Lists fields that differ from the paper's run, either shared by all methods or not."""
    paper = _settings(Config().resolved())
    own = [_settings(method.runs[0].cfg) for method in methods]
    rows = []
    for name, default in paper.items():
        values = [each[name] for each in own]
        is_shared = len(set(values)) == 1
        if is_shared == shared and set(values) != {default}:
            shown = values[:1] if shared else values
            rows.append((name, [Cell(text) for text in (default, *shown)]))
    titles = ["here"] if shared else [method.name for method in methods]
    return Table(
        "The same in every run" if shared else "Different between the runs",
        [Column("field"), *(Column(name, is_words=True) for name in ("the paper's run", *titles))],
        rows,
    )


def _settings(cfg: Config) -> dict[str, str]:
    hidden = {*HARMLESS, SEED}
    return {name: str(value) or EMPTY for name, _, value in fields(cfg) if name not in hidden}


def list_environments(runs: Sequence[ReportedRun], *, shared: bool) -> Table:
    """Lists the environments of the latest attempts, either shared by all runs or not."""
    environments = [dict(_flatten(run.environment)) for run in runs]
    rows = []
    for name in dict.fromkeys(name for each in environments for name in each):
        values = [each.get(name, UNKNOWN) for each in environments]
        if (len(set(values)) == 1) == shared:
            rows.append((name, [Cell(text) for text in (values[:1] if shared else values)]))
    titles = ["here"] if shared else [run.root.absolute().name for run in runs]
    return Table(
        "The same for every run" if shared else "Different for each run",
        [Column("field"), *(Column(title, is_words=True) for title in titles)],
        rows,
    )


def _flatten(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ENVIRONMENT_FIELDS:
        value = environment.get(name)
        if isinstance(value, dict):
            for inner, each in value.items():
                yield (inner if name == "packages" else f"{name}: {inner}"), str(each)
        elif value is not None:
            yield name, str(value)
