"""Comparisons of methods: paired intervals, pooled seeds, tables, charts and notes."""

import dataclasses
import math

import numpy as np
import pytest

from data_pipelines.core.errors import ConfigError
from data_pipelines.manifest import Manifest, Split
from gap_jax.evaluation import metrics
from gap_jax.evaluation.metrics import Interval
from gap_jax.report import tables
from gap_jax.report.comparison import (
    NOTHING_SHOWN,
    Comparison,
    compare,
    describe_difference,
    percent,
)
from gap_jax.report.confusions import build_matrices, find_confusions
from gap_jax.report.curves import draw_chart, round_ticks
from gap_jax.report.runs import ReportedRun
from gap_jax.report.write import describe_data, list_warnings
from tests.support.reported_runs import draw_scores, interval_of, make_run, paired_interval
from tests.support.tiny_data import CLASSES

LABELS = np.random.default_rng(3).integers(0, 3, 60).astype(np.int32)


def run_of(skill: float, *overrides: str, parts: str = "mean,demo", seed: int = 0) -> ReportedRun:
    scores = draw_scores(LABELS, 3, skill=skill, seed=round(100 * skill) + seed)
    words = (f"train.seed={seed}", *overrides)
    return make_run(scores, *words, parts=parts, root=f"{parts} {seed} {skill}")


def ranked(run: ReportedRun) -> np.ndarray:
    return metrics.ranking_scores(run.scores.logits, LABELS)


def values_by_name(table: tables.Table) -> dict[str, list[str]]:
    return {name: values for name, *values in table.rows}


@pytest.fixture(scope="module")
def three() -> tuple[list[ReportedRun], Comparison]:
    """Two methods, the second with three seeds."""
    runs = [run_of(0.2), *(run_of(2.0, parts="gap_pose,demo", seed=seed) for seed in (2, 0, 1))]
    return runs, compare(runs)


def test_difference_is_the_paired_interval() -> None:
    first, second = run_of(0.2), run_of(1.0, parts="attention,demo")
    found = compare([first, second])
    (pair,) = found.differences
    assert (pair.first, pair.second) == ("mean pooling", "attentional pooling")
    for rule, interval in (
        (metrics.resampled_map, pair.mean_ap),
        (metrics.resampled_accuracy, pair.accuracy),
    ):
        due = paired_interval(rule, ranked(second), ranked(first), LABELS)
        assert interval == pytest.approx(due, abs=1e-12)
    for run, method in zip((first, second), found.methods, strict=True):
        due = interval_of(metrics.resampled_map, ranked(run), LABELS)
        assert method.mean_ap == pytest.approx(due, abs=1e-12)
        assert method.accuracy
        assert method.accuracy.estimate == metrics.accuracy(ranked(run), LABELS)
        precision = metrics.mean_average_precision(ranked(run), LABELS)
        np.testing.assert_allclose(method.per_class, precision.per_class)
    assert found.images == 60
    [[_, points, *_]] = tables.list_differences(found).rows
    assert points == percent(pair.mean_ap, signed=True) and points.startswith("+")
    assert "attentional pooling - mean pooling: mAP +" in str(found)
    assert str(found).count("\n") == 2


def test_classes_without_images_are_named() -> None:
    labels = np.minimum(LABELS, 1)
    found = compare([make_run(draw_scores(labels, 3, skill=1.0))])
    line = f"mAP over 2 of 3 classes; no image of val is of {CLASSES[2]!r}"
    assert str(found).splitlines()[-1] == line
    blank = Manifest("people", "single", CLASSES, 0, {}, {})
    assert describe_data(found, blank, "val").endswith(f"papers\u2019 MPII figures. {line}.")
    assert "of 3 classes" not in str(compare([run_of(0.2)]))


def test_runs_that_differ_in_seed_only_are_one_method(
    three: tuple[list[ReportedRun], Comparison],
) -> None:
    runs, found = three
    second = found.methods[1]
    assert [run.cfg.train.seed for run in second.runs] == [0, 1, 2]
    each = [metrics.mean_average_precision(ranked(run), LABELS).mean for run in second.runs]
    assert second.by_seed == pytest.approx(each)

    def mean_of_seeds(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        parts = np.split(scores, 3, axis=1)
        return np.mean([metrics.resampled_map(part, labels, counts) for part in parts], axis=0)

    stacked = np.concatenate([ranked(run) for run in second.runs], axis=1)
    due = interval_of(mean_of_seeds, stacked, LABELS)
    assert second.mean_ap == pytest.approx(due, abs=1e-12)
    thrice = np.concatenate([ranked(runs[0])] * 3, axis=1)
    due = paired_interval(mean_of_seeds, stacked, thrice, LABELS)
    assert found.differences[0].mean_ap == pytest.approx(due, abs=1e-12)
    assert describe_difference(found.differences[0].mean_ap) == "higher"
    one, cells = tables.list_results(found).rows
    assert cells[3].endswith(f"(deviation {100 * np.std(each, ddof=1):.1f})")
    assert "deviation" not in one[3]
    assert cells[5:] == [f"{second.parameters:,}", "7", "0, 1, 2"]


def test_same_run_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"are the same run: one config, train.seed=0; name one"):
        compare([run_of(0.2), run_of(0.4)])


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ("max,demo", "max pooling"),
        ("attention_pose,demo", "attentional pooling + pose"),
        ("second_order,demo", "second-order pooling"),
        ("compact_bilinear,demo", "compact bilinear pooling"),
        ("pose_parts,demo", "pooling by pose parts"),
        ("gap_pose,demo", "GAP-CNN (T=2) + pose"),
    ],
)
def test_every_pooling_has_a_name(parts: str, name: str) -> None:
    assert name in [each.name for each in compare([run_of(0.2, parts=parts), run_of(0.3)]).methods]


def test_results_show_the_highest_map_of_a_run() -> None:
    course = [(5, 0.25), (10, 0.75), (15, 0.75), (20, None)]
    rows = [{"step": step, "val/mAP": score} for step, score in course]
    run = make_run(draw_scores(LABELS, 3, skill=1.0), rows=(*rows, {"step": 20}))
    (row,) = tables.list_results(compare([run])).rows
    assert row[3] == "75.0 at 10"
    (row,) = tables.list_results(compare([run_of(1.0)])).rows
    assert row[3] == tables.UNKNOWN


def test_methods_of_the_same_name_get_their_differing_fields() -> None:
    first = run_of(0.2, parts="gap,demo")
    other = run_of(0.3, "model.rank=2", parts="gap,demo")
    named = [method.name for method in compare([first, other, run_of(0.4)]).methods]
    assert named == [
        "GAP-CNN (T=2), model.rank=1",
        "GAP-CNN (T=2), model.rank=2",
        "mean pooling",
    ]
    words = ("learning_rate=1", "clip_norm=0", "weight_decay=0", "warmup_steps=1")
    far = run_of(0.5, *(f"optim.{word}" for word in words), parts="gap,demo")
    named = [method.name for method in compare([first, far]).methods]
    assert named == ["GAP-CNN (T=2), gap,demo 0 0.2", "GAP-CNN (T=2), gap,demo 0 0.5"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.01, 0.2, "higher"),
        (-0.2, -0.01, "lower"),
        (-0.1, 0.1, NOTHING_SHOWN),
        (0.0, 0.1, NOTHING_SHOWN),
        (0.0004, 0.1, NOTHING_SHOWN),
        (-0.1, -0.0004, NOTHING_SHOWN),
        (0.0006, 0.1, "higher"),
        (-0.1, 0.0, NOTHING_SHOWN),
        (math.nan, math.nan, "too few images for an interval"),
    ],
)
def test_difference_is_described_by_its_interval(low: float, high: float, text: str) -> None:
    assert describe_difference(Interval(0.05, low, high)) == text


def test_intervals_are_formatted_in_percent() -> None:
    assert percent(Interval(0.5, 0.25, 0.75)) == "50.0 (25.0 to 75.0)"
    assert percent(Interval(-0.0001, -0.01, 0.02), signed=True) == "+0.0 (-1.0 to +2.0)"
    assert percent(Interval(0.5, math.nan, math.nan)) == "50.0"


def test_several_labels_per_image_give_no_accuracy_and_no_confusions() -> None:
    one = draw_scores(LABELS, 3, skill=1)
    hot = np.eye(3, dtype=np.int8)[LABELS]
    runs = [
        make_run(one._replace(labels=hot)),
        make_run(one._replace(labels=hot), parts="gap,demo"),
    ]
    found = compare(runs)
    assert found.methods[0].accuracy is None and found.differences[0].accuracy is None
    assert "accuracy" not in str(found)
    assert find_confusions(found.methods) == [] and build_matrices(found.methods) == []
    assert tables.list_differences(found).rows[0][3] == "\u2013"


def test_classes_are_ordered_by_the_gain_of_the_last_method(
    three: tuple[list[ReportedRun], Comparison],
) -> None:
    runs, found = three
    shown = tables.list_classes(found.methods)
    gains = found.methods[1].per_class - found.methods[0].per_class
    assert [row[0] for row in shown.rows] == [CLASSES[k] for k in np.argsort(-gains)]
    best = int(np.argmax(gains))
    assert shown.rows[0][1:] == [
        f"{(runs[0].scores.labels == best).sum()}",
        *(f"{100 * method.per_class[best]:.1f}" for method in found.methods),
        f"{100 * gains[best]:+.1f}",
    ]
    assert [shown.columns[index] for index in shown.bars] == [each.name for each in found.methods]


def test_settings_list_differences_from_the_paper_and_between_runs(
    three: tuple[list[ReportedRun], Comparison],
) -> None:
    _, found = three
    apart, shared = map(values_by_name, tables.list_settings(found.methods))
    assert apart["model.pooling"] == ["gap", "mean", "gap"]
    assert shared["model.backbone"] == ["resnet101", "small"]
    assert not apart.keys() & shared.keys()
    assert not {"train.seed", "data.root", "optim.momentum"} & (apart.keys() | shared.keys())


def test_curve_lies_between_round_ticks_and_breaks_at_missing_numbers() -> None:
    rows = tuple({"step": step, "loss": loss} for step, loss in ((5, 3.0), (10, None), (20, 1.0)))
    scores = draw_scores(LABELS, 3, skill=1)
    methods = compare([make_run(scores, rows=({"step": 1, "else": 2}, *rows))]).methods
    chart = draw_chart("Loss", "loss", methods)
    assert chart
    assert [tick.text for tick in chart.x_ticks] == ["0", "5", "10", "15", "20"]
    assert [tick.text for tick in chart.y_ticks] == ["1", "1.5", "2", "2.5", "3"]
    (line,) = chart.lines
    assert line.path.count("M") == 2
    assert line.marks == [(197.5, 14.0), (616.0, 254.0)]
    assert chart.summary == "mean pooling ends at 1 after 20 steps"
    assert draw_chart("Loss", "nothing", methods) is None


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (0.0, 495.0), (1.93, 2.17), (-3.0, 7.0), (5.0, 5.0), (0.0, 0.0), (0.1699, 0.17),
     (0.0, 30.0), (0.0, 49.0)],
)  # fmt: skip
def test_ticks_are_few_and_enclose_the_range(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9 and ticks[-1] > ticks[0]
    assert f"{ticks[1] - ticks[0]:.2e}".partition("e")[0] in ("1.00", "2.00", "5.00")


def test_report_warns_of_omitted_and_of_trained_images() -> None:
    split = Split(60, 60, 60, (20,) * 3, "", ())
    data = Manifest("people", "single", CLASSES, 1, {"train": split, "val": split}, {})

    def warn(*overrides: str) -> list[str]:
        return list_warnings(compare([run_of(0.2, *overrides)]), data, {})

    (warning,) = warn("eval.max_examples=59")
    assert "leave images of the split out (eval.max_examples)" in warning
    assert not warn() and not warn("eval.max_examples=60")
    (warning,) = warn("data.train_split=trainval")
    assert "was trained on trainval, which holds evaluated images" in warning
    (warning,) = warn("data.held_out=0.5", "eval.max_examples=29")
    assert "leave images" in warning and not warn("data.held_out=0.5", "eval.max_examples=30")


def test_shared_environment_values_are_listed_once() -> None:
    machine = {"python": "3.11", "device": "cpu", "packages": {"jax": "1", "numpy": "2"}}
    other = {**machine, "packages": {"jax": "1", "numpy": "3"}}
    runs = [dataclasses.replace(run_of(0.2), environment=each) for each in (machine, other)]
    shared, apart = map(values_by_name, tables.list_environments(runs))
    assert shared["jax"] == ["1"] and apart == {"numpy": ["2", "3"]}
