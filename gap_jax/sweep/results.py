"""Writes the results of a sweep: tables of its runs, intervals by row, a figure and a page."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources

from data_pipelines.core import files
from data_pipelines.core.errors import name_some
from data_pipelines.pictures.page import Page, Table, fill_template
from gap_jax.report import tables
from gap_jax.report.comparison import Comparison, Method, compare, percent
from gap_jax.report.runs import read_runs
from gap_jax.report.splits import interval_over_runs
from gap_jax.report.tables import UNKNOWN
from gap_jax.report.write import describe_data
from gap_jax.sweep.figure import Summary, draw_figure
from gap_jax.sweep.plan import Cell, Plan
from gap_jax.sweep.rows import KINDS, Row

CSV, SEARCH_CSV, SUMMARY_CSV = "sweep.csv", "search.csv", "summary.csv"
FIGURE, PAGE, TEMPLATE = "figure.svg", "sweep.html", "sweep.html"
COLUMNS = (
    "row", "seed", "learning_rate", "mAP", "mAP_low", "mAP_high", "accuracy", "images", "steps",
    "run",
)  # fmt: skip
SUMMARY_COLUMNS = (
    "row", "learning_rate", "mAP", "images_low", "images_high", "seeds_low", "seeds_high",
    "accuracy", "seeds", "published_mAP_percent", "remark",
)  # fmt: skip
NOTE = (
    "mAP is the mean over the seeds of a row. Its interval over images covers 95 % of other test "
    "sets of this size with these trained models (bootstrap); that over seeds is Student's 95 % "
    "interval of the mean over other seeds on these images. Neither contains the other's variation."
)

Value = str | int | float


def write_results(plan: Plan) -> list[str]:
    """Writes the results of the runs that are complete; returns a line for each row of them."""
    finals = [cell for cell in plan.finals() if cell.read_metrics()]
    files.write_atomically(plan.out / SEARCH_CSV, files.csv_table(*_list_searches(plan)))
    files.write_atomically(plan.out / CSV, files.csv_table(COLUMNS, map(_list_final, finals)))
    if not finals:
        return []
    by_row = {row.name: [cell for cell in finals if cell.row is row] for row in plan.runnable}
    by_row = {name: cells for name, cells in by_row.items() if cells}
    runs = read_runs([cell.workdir for cells in by_row.values() for cell in cells])
    comparison = compare(runs, [*by_row])
    methods = {method.name: method for method in comparison.methods}
    summaries = [_summarise(row, by_row, methods) for row in plan.rows]
    table = files.csv_table(SUMMARY_COLUMNS, [_list_summary(each) for each in summaries])
    files.write_atomically(plan.out / SUMMARY_CSV, table)
    figure = draw_figure(describe_kind(plan), summaries, plan.kind)
    files.write_atomically(plan.out / FIGURE, figure)
    template = resources.files("gap_jax.sweep").joinpath(TEMPLATE).read_text("utf-8")
    page = _build_page(plan, finals, summaries, comparison)
    html = fill_template(TEMPLATE, {TEMPLATE: template}, page=page, figure=figure, note=NOTE)
    files.write_atomically(plan.out / PAGE, html)
    return [
        f"{each.row.name}: mAP {percent(each.over_images)} over images, "
        f"{percent(each.over_seeds)} over {len(each.by_seed)} seeds"
        for each in summaries
        if each.over_images and each.over_seeds
    ]


def describe_kind(plan: Plan) -> str:
    """Describes what the rows differ in."""
    return f"{plan.kind}: {KINDS[plan.kind]}"


def _summarise(
    row: Row, by_row: Mapping[str, Sequence[Cell]], methods: Mapping[str, Method]
) -> Summary:
    method = methods.get(row.name)
    if method is None:
        return Summary(row)
    return Summary(
        row,
        by_row[row.name][0].cfg.optim.learning_rate,
        method.mean_ap,
        interval_over_runs(method.by_seed),
        method.by_seed,
        method.accuracy,
    )


def _list_final(cell: Cell) -> list[Value]:
    metrics = cell.read_metrics()
    if metrics is None:
        raise AssertionError(f"{cell.label} is not complete")
    numbers = [metrics["mAP"], *(metrics["ci95"] or (None, None)), metrics["accuracy"]]
    run = cell.workdir.relative_to(cell.workdir.parents[2])  # the same wherever the sweep lies
    return [
        cell.row.name, cell.cfg.train.seed, cell.cfg.optim.learning_rate, *map(_blank, numbers),
        metrics["examples"], metrics["step"], str(run),
    ]  # fmt: skip


def _list_searches(plan: Plan) -> tuple[tuple[str, ...], list[list[Value]]]:
    rows: list[list[Value]] = []
    for row in plan.runnable:
        chosen = plan.choose(row)
        for rate, metrics in plan.scores_of(row).items():
            score = metrics["mAP"] if metrics else "diverged"
            rows.append([row.name, rate, score, "yes" if rate == chosen else ""])
    return ("row", "learning_rate", "held_out_mAP", "chosen"), rows


def _list_summary(each: Summary) -> list[Value]:
    images = each.over_images or (None, None, None)
    seeds = each.over_seeds or (None, None, None)
    accuracy = each.accuracy.estimate if each.accuracy else None
    numbers = [each.rate, *images, *seeds[1:], accuracy]
    reason = each.row.reason or ("" if each.over_images else "not complete")
    published = _blank(each.row.published)
    return [each.row.name, *map(_blank, numbers), len(each.by_seed), published, reason]


def _blank(value: float | None) -> float | str:
    return "" if value is None or math.isnan(value) else value


def _tabulate(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and rows of the page's first table."""
    has_published = any(each.row.published is not None for each in summaries)
    names = ["row", "mAP %, over images", "mAP %, over seeds", "by seed", "accuracy %", "rate"]
    names += [*["published mAP %"] * has_published, "remark"]
    rows = []
    for each in summaries:
        published = UNKNOWN if each.row.published is None else f"{each.row.published:.1f}"
        remark = f"not run: {each.row.reason}" if each.row.reason else ""
        if not each.row.reason and not each.by_seed:
            remark = "not complete"
        rows.append(
            [
                each.row.name,
                percent(each.over_images) if each.over_images else UNKNOWN,
                percent(each.over_seeds) if each.over_seeds else UNKNOWN,
                ", ".join(f"{100 * score:.1f}" for score in each.by_seed),
                percent(each.accuracy) if each.accuracy else UNKNOWN,
                UNKNOWN if each.rate is None else f"{each.rate:g}",
                *[published] * has_published,
                remark,
            ]
        )
    return names, rows


def _build_page(
    plan: Plan, finals: Sequence[Cell], summaries: Sequence[Summary], comparison: Comparison
) -> Page:
    shown = [Table("Results", "", *_tabulate(summaries))]
    paired = tables.list_differences(comparison)
    if paired.rows:
        shown.append(Table("Differences", paired.caption, paired.columns, paired.rows))
    names, rows = _list_searches(plan)
    if rows:
        note = (
            f"Each trained once, with the steps of the final runs, on {1 - plan.held_out:.0%} of "
            "the training split; the mAP is of the rest. The highest is used, of equal ones the "
            "lowest rate."
        )
        texts = [[f"{x:.4g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
        shown.append(Table("Learning rates", note, names, texts))
    commands = [[cell.label, shlex.join(["gap_jax", "train", *cell.words])] for cell in finals]
    shown.append(Table("Commands", "The final runs, one by one.", ["run", "command"], commands))
    return Page(
        title=describe_kind(plan),
        lead=describe_data(comparison, plan.data, finals[0].cfg.data.eval_split),
        galleries=[],
        facts_heading="Files",
        facts=[(CSV, "the final runs"), (SUMMARY_CSV, "the rows"), (SEARCH_CSV, "the rates")],
        tables=shown,
        warnings=[*_list_warnings(plan, finals)],
    )


def _list_warnings(plan: Plan, finals: Sequence[Cell]) -> Iterator[str]:
    wanted = len(plan.runnable) * plan.seeds
    if len(finals) < wanted:
        yield f"{wanted - len(finals):,} of {wanted:,} final runs are not complete"
    edges = [
        row.name
        for row in plan.runnable
        if len(plan.rates[row.name]) > 1
        and plan.choose(row) in (plan.rates[row.name][0], plan.rates[row.name][-1])
    ]
    if edges:
        yield (
            f"the lowest or highest rate won for {name_some(edges)}: another one may be better; "
            "sweep with more --rates"
        )
    if plan.seeds == 1:
        yield "one seed does not show the variation between seeds"
