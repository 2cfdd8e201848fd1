"""The tables, figure and page of a sweep: intervals over images and seeds, against oracles."""

import csv
import dataclasses
import functools
import math
import re
import statistics
from typing import Any, NamedTuple

import numpy as np
import pytest

from gap_jax.config import Config
from gap_jax.evaluation import evaluate, metrics
from gap_jax.evaluation.metrics import Interval
from gap_jax.report.splits import interval_over_runs
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.sweep.execute import execute
from gap_jax.sweep.figure import LEFT, RIGHT, Summary, draw_figure
from gap_jax.sweep.plan import Cell, Plan
from gap_jax.sweep.results import write_results
from gap_jax.sweep.rows import Row
from tests.support.swept import Recorder, make_plan
from tests.support.tiny_data import prepare_tiny_people, quiet

SEEDS, RATES = 3, (0.1, 0.2, 0.3)
STUDENT = {2: 12.7062, 3: 4.30265, 5: 2.77645}  # t of 0.975, from a table


class Swept(NamedTuple):
    plan: Plan
    lines: list[str]

    def read(self, name: str) -> list[dict[str, str]]:
        with (self.plan.out / name).open(newline="") as file:
            return [*csv.DictReader(file)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("results")
    prepare_tiny_people(folder / "data", sizes={"train": 15, "val": 40, "test": 0})
    plan = make_plan(
        folder / "data", folder / "out", "grid", over=["model.rank=1,2"], rates=RATES, seeds=SEEDS
    )
    quoted = Row("pose", plan.rows[0].spec, None, "people has no joints")
    plan = dataclasses.replace(plan, rows=(*plan.rows, quoted))

    def skill(cell: Cell) -> float:
        if not cell.is_search:
            return float(cell.cfg.model.rank)
        return 9.0 if cell.cfg.optim.learning_rate == 0.2 else 0.1

    assert execute(plan, Recorder(plan.data, skill), quiet) == 0
    return Swept(plan, write_results(plan))


@pytest.mark.parametrize("count", STUDENT)
def test_interval_over_seeds_is_students(count: int) -> None:
    scores = np.random.default_rng(count).uniform(0.2, 0.8, count).tolist()
    found = interval_over_runs(scores)
    mean = statistics.fmean(scores)
    half = STUDENT[count] * statistics.stdev(scores) / count**0.5
    assert found == pytest.approx((mean, max(mean - half, 0), min(mean + half, 1)), rel=1e-4)


def test_one_seed_has_no_interval_over_seeds() -> None:
    mean, low, high = interval_over_runs([0.25])
    assert mean == 0.25 and math.isnan(low) and math.isnan(high)


def test_interval_over_seeds_covers_the_mean_of_all_seeds() -> None:
    rng = np.random.default_rng(0)
    found = [interval_over_runs(rng.normal(0.5, 0.02, 5).tolist()) for _ in range(600)]
    hits = [low <= 0.5 <= high for _, low, high in found]
    assert 0.92 < np.mean(hits) < 0.98


def test_each_final_run_is_a_line(swept: Swept) -> None:
    rows = swept.read("sweep.csv")
    assert [(row["row"], row["seed"]) for row in rows] == [
        (f"model.rank={rank}", str(seed)) for rank in (1, 2) for seed in range(SEEDS)
    ]
    for row in rows:
        run = RunFolder(swept.plan.out / row["run"])
        scores = evaluate.load_scores(run.scores("val", 3))
        ranked, labels = evaluate.PAPER.rank(scores)
        assert float(row["mAP"]) == metrics.mean_average_precision(ranked, labels).mean
        assert float(row["mAP_low"]) < float(row["mAP"]) < float(row["mAP_high"])
        assert float(row["accuracy"]) == (ranked.argmax(1) == labels).mean()
        assert (row["learning_rate"], row["images"], row["steps"]) == ("0.2", "40", "3")


def test_a_row_is_the_mean_over_its_seeds_with_both_intervals(swept: Swept) -> None:
    first, second, quoted = swept.read("summary.csv")
    for rank, row in ((1, first), (2, second)):
        folders = [swept.plan.out / f"runs/model.rank={rank}/seed-{seed}" for seed in range(SEEDS)]
        scores = [evaluate.load_scores(RunFolder(each).scores("val", 3)) for each in folders]
        ranked = [evaluate.PAPER.rank(each) for each in scores]
        by_seed = [metrics.mean_average_precision(*each).mean for each in ranked]

        def mean(counts: np.ndarray, ranked: list[Any] = ranked) -> np.ndarray:
            return np.mean([metrics.resampled_map(*each, counts=counts) for each in ranked], axis=0)

        images = metrics.resample(mean, 40).interval()
        seeds = interval_over_runs(by_seed)
        found = [float(row[name]) for name in ("mAP", "images_low", "images_high")]
        assert found == pytest.approx(images)
        found = [float(row[name]) for name in ("mAP", "seeds_low", "seeds_high")]
        assert found == pytest.approx(seeds)
        assert (row["seeds"], row["remark"]) == ("3", "")
    assert (quoted["row"], quoted["mAP"]) == ("pose", "")
    assert quoted["remark"] == "people has no joints"


def test_the_search_is_listed_with_its_choice(swept: Swept) -> None:
    rows = swept.read("search.csv")
    assert [float(row["learning_rate"]) for row in rows] == [*RATES, *RATES]
    assert [row["chosen"] for row in rows] == ["", "yes", ""] * 2
    for row in rows:
        name = f"{row['row']}/search-{row['learning_rate']}"
        folder = RunFolder(swept.plan.out / "runs" / name).scores("train-held_out", 3)
        assert len(evaluate.load_scores(folder).ids) == 3  # 0.2 * 15


def test_the_page_has_tables_figure_and_commands(swept: Swept) -> None:
    html = (swept.plan.out / "sweep.html").read_text()
    figure = (swept.plan.out / "figure.svg").read_text()
    assert figure.strip() in html
    for text in (
        "over images", "over seeds", "not run: people has no joints", "Paired differences",
        "gap_jax train --config=gap_pose:demo --workdir=", "Drawn, synthetic pictures",
        "model.rank=2 minus model.rank=1",
    ):  # fmt: skip
        assert text in html, text
    assert "published mAP" not in html
    assert swept.lines[0].startswith("model.rank=1: mAP ")
    assert swept.lines[0].endswith(" over 3 seeds")


def test_a_best_rate_at_the_edge_is_warned_of_and_writing_again_changes_nothing(
    swept: Swept,
) -> None:
    names = ("sweep.csv", "search.csv", "summary.csv", "figure.svg", "sweep.html")
    before = [(swept.plan.out / name).read_bytes() for name in names]
    html = (swept.plan.out / "sweep.html").read_text()
    assert "rate won for" not in html
    shifted = dataclasses.replace(
        swept.plan, rates=dict.fromkeys(swept.plan.rates, (0.2, 0.3)), out=swept.plan.out
    )
    write_results(shifted)
    edge = (swept.plan.out / "sweep.html").read_text()
    write_results(swept.plan)
    assert "the lowest or highest rate won for model.rank=1, model.rank=2" in edge
    assert [(swept.plan.out / name).read_bytes() for name in names] == before


def test_lines_place_values_and_intervals() -> None:
    def summarise(reduction: str, weight: float, mean: float) -> Summary:
        cfg = Config()
        for name, value in (("reduction", reduction), ("weight", weight)):
            setattr(cfg.pose, name, value)
        row = Row(f"{reduction}-{weight:g}", "", cfg)
        images, seeds = Interval(mean, mean - 0.1, mean + 0.1), Interval(mean, mean - 0.05, mean)
        return Summary(row, 0.1, images, seeds, (mean,))

    given = [("mean", 1.0, 0.4), ("mean", 0.1, 0.3), ("mean", 0.01, 0.5), ("reference", 0.1, 0.2)]
    text = draw_figure("t", [summarise(*each) for each in given], "fig2")
    labels = re.findall(r'x="([\d.]+)" y="\S+" text-anchor="middle">([^<]+)<', text)
    assert [name for _, name in labels[:3]] == ["0.01", "0.1", "1"]
    x = [float(each) for each, _ in labels[:3]]
    assert x[2] - x[1] == pytest.approx(x[1] - x[0])  # logarithmic
    ticks = re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', text)
    ends = sorted((float(value), float(y) - 4) for y, value in ticks)
    assert (ends[0][0], ends[-1][0]) == (10, 60) and ends[0][1] > ends[-1][1]
    place = functools.partial(np.interp, xp=[10, 60], fp=[ends[0][1], ends[-1][1]])
    one, other = text.split('<g class="line1">')
    assert re.findall(r'<path class="course" d="(.*)"/>', one) == [
        "M" + " L".join(f"{place(100 * mean):g} {at - 7:g}" for mean, at in zip(
            (0.5, 0.3, 0.4), x, strict=True))
    ]  # fmt: skip
    (seeds,) = re.findall(r'<rect class="seeds" x="(\S+)" y="(\S+)" width="(\S+)" h', other)[:1]
    assert [*map(float, seeds)] == pytest.approx(
        [place(20), x[1] + 7 - 6, place(15) - place(20)], abs=0.11
    )
    (images,) = re.findall(r'class="images" d="M(\S+) .* H(\S+)', other)[:1]
    assert [*map(float, images)] == pytest.approx([place(30), place(10)], abs=0.06)
    assert "mean</text>" in other and "reference</text>" in other


def test_the_figure_places_means_intervals_and_published_values() -> None:
    rows = [Row("a <b>", "", None, "", 30.0), Row("c", "", None, "the paper's", 20.0)]
    own = Summary(rows[0], 0.1, Interval(0.4, 0.3, 0.5), Interval(0.4, 0.35, 0.45), (0.38, 0.42))
    single = Summary(
        Row("d", "", None), 0.1, Interval(0.2, 0.2, 0.3), Interval(0.2, *[math.nan] * 2)
    )
    nothing = Summary(Row("e", "", None, "no joints"))
    text = draw_figure("t", [own, Summary(rows[1]), single, nothing])
    assert "a &lt;b&gt;" in text and ">e<" not in text
    ticks = [float(x) for x in re.findall(r'class="grid" d="M([\d.]+)', text)]
    values = [float(x) for x in re.findall(r'text-anchor="middle">([\d.]+)<', text)]
    place = functools.partial(np.interp, xp=[values[0], values[-1]], fp=[LEFT, RIGHT])
    assert ticks == pytest.approx(place(values), abs=0.06)
    assert (values[0], values[-1]) == (20, 50)
    means = [float(x) for x in re.findall(r'class="mean" cx="([\d.]+)', text)]
    assert means == pytest.approx(place([40, 20]), abs=0.06)
    images = re.findall(r'class="images" d="M([\d.]+) .* H([\d.]+)', text)
    assert np.array(images, np.float64) == pytest.approx(
        np.array([place([30, 50]), place([20, 30])]), abs=0.06
    )
    ((start, width),) = re.findall(
        r'<rect class="seeds" x="([\d.]+)" y="\S+" width="([\d.]+)" h\S+12"/>\n', text
    )[:1]
    assert [float(start), float(start) + float(width)] == pytest.approx(place([35, 45]), abs=0.2)
    seeds = [float(x) for x in re.findall(r'class="seed" cx="([\d.]+)', text)]
    assert seeds == pytest.approx(place([38, 42]), abs=0.06)
    published = [float(x) for x in re.findall(r'class="published" d="M([\d.]+)', text)]
    assert published[:2] == pytest.approx(place([30, 20]), abs=0.06)
