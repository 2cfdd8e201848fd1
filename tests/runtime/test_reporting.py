"""Rows and step log of a run, progress, the baseline warning."""

import inspect
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gap_jax.runtime.reporting.baseline import BaselineCheck, compute_baseline, remedies
from gap_jax.runtime.reporting.jsonl import cut_after, encode_row
from gap_jax.runtime.reporting.progress import Pace, Progress, duration, number
from gap_jax.runtime.reporting.reporter import Reporter
from gap_jax.runtime.reporting.writers import TerminalConsole
from gap_jax.runtime.run_folder import RunFolder
from tests.runtime.test_forecast import FORECAST
from tests.support.tiny_run import BATCH, METRICS, Clock, Recorder, config, people, rows, train


def test_rows_hold_means_rates_and_evaluations(tmp_path: Path) -> None:
    run = train(tmp_path)
    found = rows(run.metrics)
    assert [row["step"] for row in found] == [5, 10, 10, 15, 20, 20]
    assert found[0] == {
        "step": 5,
        "steps": 5,
        "train/epoch": 2.0,
        "train/loss": np.mean([float(np.float32(1 / n)) for n in range(1, 6)]),
        **{f"train/{n}": METRICS[n] for n in ("loss_action", "loss_pose", "accuracy", "grad_norm")},
        "train/lr": pytest.approx(1e-3),
        **{f"train/{n}": METRICS[n] for n in ("finite", "skipped_in_row", "skipped")},
        "perf/images_per_sec": pytest.approx(BATCH),
        "perf/images_per_sec_per_device": pytest.approx(BATCH / 2),
        "perf/steps_per_sec": pytest.approx(1),
        "perf/data_wait_frac": pytest.approx(0.25),
        "perf/compile_sec": pytest.approx(3),
    }
    assert found[2] == {"step": 10, "val/mAP": 0.1, "val/accuracy": 1 / 3}
    assert found[3]["perf/eval_sec"] == pytest.approx(2)
    assert found[3]["perf/images_per_sec"] == pytest.approx(BATCH)
    assert "perf/compile_sec" not in found[3]


def test_last_row_has_latest_values_of_metrics_without_a_mean(tmp_path: Path) -> None:
    changes = {6: {"learning_rate": 0.5, "skipped": 3.0}, 7: {"learning_rate": 0.25, "skipped": 4}}
    found = rows(train(tmp_path, last=7, cfg=config(train__steps=7), changes=changes).metrics)
    assert [(row["step"], row["steps"]) for row in found] == [(5, 5), (7, 2)]
    assert (found[1]["train/lr"], found[1]["train/skipped"]) == (0.25, 4)


def test_step_log_is_exact(tmp_path: Path) -> None:
    third = float(np.float32(1) / np.float32(3))
    found = rows(train(tmp_path, changes={3: {"loss": third}}).step_log)
    assert found[2]["loss_hex"] == third.hex()
    assert float.fromhex(found[2]["loss_hex"]) == third
    digests = {row["ids_sha256"] for row in found if "ids_sha256" in row}
    assert len(digests) == 20
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in digests)
    assert found[10] == {"step": 10, "val": {"mAP": (0.1).hex(), "accuracy": (1 / 3).hex()}}


@pytest.mark.parametrize(("killed", "restored"), [(3, 0), (13, 10), (13, 7), (20, 10)])
def test_resumed_run_has_the_rows_of_an_unbroken_one(
    tmp_path: Path, killed: int, restored: int
) -> None:
    windows: dict[int, Any] = {}
    changes = {6: {"grad_norm": math.nan}, 7: {"accuracy": 1 / 3}}
    whole = train(tmp_path / "whole", changes=changes)
    console = Recorder()
    train(tmp_path / "broken", last=killed, changes=changes, windows=windows)
    with RunFolder(tmp_path / "broken").step_log.open("a") as file:
        file.write('{"step": 1, "loss_h')  # as kill -9 may leave it
    broken = train(
        tmp_path / "broken", restored + 1, console=console, changes=changes, windows=windows
    )
    assert broken.step_log.read_bytes() == whole.step_log.read_bytes()
    dropped = killed + killed // 10 - (restored + restored // 10)
    assert f"steps.jsonl: dropped {dropped} rows beyond step {restored}" in console.text
    assert "steps.jsonl: dropped 1 damaged rows" in console.text and "lacks" not in console.text
    assert without_rates(broken.metrics) == without_rates(whole.metrics)


def test_restored_window_with_other_names_is_dropped(tmp_path: Path) -> None:
    """Saved by a gap_jax version with other metrics."""
    windows: dict[int, Any] = {}
    train(tmp_path, last=7, windows=windows)
    del windows[7][".grad_norm.total"]
    metrics = train(tmp_path, 8, windows=windows).metrics
    assert [row["steps"] for row in rows(metrics) if "steps" in row] == [5, 3, 5, 5]


def without_rates(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl without values that depend on the time."""
    return [
        {name: value for name, value in row.items() if not name.startswith("perf/")}
        for row in rows(path)
    ]


@pytest.mark.parametrize("damage", ["a row", "all of it"])
def test_step_log_that_lacks_steps_is_reported(tmp_path: Path, damage: str) -> None:
    step_log = train(tmp_path, last=7).step_log
    lines = step_log.read_text("utf-8").splitlines(keepends=True)
    lines[2] = lines[2][:9] + "\0" + lines[2][10:]
    step_log.write_text("".join(lines), "utf-8")
    if damage != "a row":
        step_log.unlink()
    console = Recorder()
    train(tmp_path, first=8, console=console)
    lost = 1 if damage == "a row" else 7
    assert f"steps.jsonl lacks {lost} of the 7 steps before this start" in console.text
    assert ("steps.jsonl: dropped 1 damaged rows" in console.text) == (damage == "a row")
    assert "beyond" not in console.text


def test_cutting_keeps_whole_rows_and_rewrites_only_on_a_change(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert cut_after(path, 3) == (0, 0, 0)
    assert not path.exists()
    path.write_bytes(
        b'{"step": 1}\n\x00\xff{"step": 2}\n[3]\n{"step": 3}\n{"step": 4}\n{"step": 3}'
    )
    assert cut_after(path, 3) == (1, 3, 2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'
    before = path.stat().st_ino
    assert cut_after(path, 3) == (0, 0, 2)
    assert path.stat().st_ino == before


def test_nonfinite_numbers_are_valid_json_and_warned_of(tmp_path: Path) -> None:
    assert encode_row({"step": 1, "a": math.nan, "b": -math.inf, "c": 1.0}) == (
        '{"step": 1, "a": null, "b": null, "c": 1.0, "nonfinite": ["a", "b"]}'
    )
    console = Recorder()
    bad = {
        "loss": math.nan,
        "grad_norm": math.inf,
        "finite": 0.0,
        "skipped": 2,
        "skipped_in_row": 1,
    }
    run = train(tmp_path, console=console, changes={7: bad})
    row = rows(run.metrics)[1]
    assert row["train/loss"] is None
    assert row["train/grad_norm"] is None
    assert row["nonfinite"] == ["train/loss", "train/grad_norm"]
    assert row["train/finite"] == 0.8
    assert rows(run.step_log)[6]["loss_hex"] == "nan"
    assert (
        "warning: step 7 changed nothing: its loss nan or gradient norm inf is not finite "
        "(1 in a row, 2 in all); its records begin with 700, 701, 702, 703" in console.text
    )
    progress = [each for each in console.items if isinstance(each, Progress) and each.is_due]
    assert "loss=nan" in progress[1].line()


def test_progress_is_one_machine_readable_line(tmp_path: Path) -> None:
    console = Recorder()
    run = train(tmp_path, console=console, clock=Clock())
    due = [each.line() for each in console.items if isinstance(each, Progress) and each.is_due]
    words = dict(word.split("=") for word in due[1].split(" "))
    assert words == {
        "step": "10/20", "epoch": "4", "loss": "0.1291", "loss_action": "1.25",
        "loss_pose": "0.25", "accuracy": "0.75", "lr": "0.001", "images_per_s": "4",
        "data_wait": "0.25", "eta": "0:00:10",
    }  # fmt: skip
    lines = [each for each in run.log.read_text("utf-8").splitlines() if each != FORECAST]
    assert lines == [
        *due[:2], "val step=10/20 mAP=0.1 accuracy=0.3333", *due[2:],
        "val step=20/20 mAP=0.2 accuracy=0.3333",
        "time total_s=27.0 compile_s=3.0 data_s=5.0 eval_s=4.0 train_s=15.0",
    ]  # fmt: skip


def test_numbers_and_durations_stay_readable() -> None:
    assert [number(each) for each in (0.00033, 12345.67, 412.04, math.nan, 1e12)] == [
        "0.00033", "12346", "412", "nan", "1e+12",
    ]  # fmt: skip
    assert [duration(each) for each in (0.0, 59.6, 3600.0, 360_000.0)] == [
        "0:00:00", "0:01:00", "1:00:00", "100:00:00",
    ]  # fmt: skip


def test_estimate_falls_with_every_step_despite_wall_clock_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall = iter(range(10_000, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(wall))
    for kind in (Pace, Reporter, TerminalConsole):
        assert inspect.signature(kind).parameters["clock"].default is time.monotonic
    clock = Clock()
    pace = Pace(clock)
    with pace.timing("compile"):
        clock.now += 500
    estimates = []
    for step in range(1, 101):
        clock.now += 2
        pace.count_step()
        estimates.append(pace.eta_s(100 - step))
    assert estimates == sorted(estimates, reverse=True)
    assert estimates[0] == pytest.approx(198)
    assert estimates[-1] == 0
    assert Pace(clock).end_lap(1, 1)["perf/steps_per_sec"] == 0


WARNING = "the run is no better than predicting the class frequencies"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "accuracy", "is_told"),
    [
        (math.log(8), 0.125, True),
        (1.985 * math.log(8) / 2, 0.4, True),  # the loss alone has not left it
        (1.95 * math.log(8) / 2, 0.4, False),
        (9.0, 0.127, True),  # exploded, and no better than guessing
        (9.0, 0.4, False),
        (1.0, 0.6, False),
        (math.nan, math.nan, False),
    ],
)
def test_warns_once_of_a_run_that_is_no_better_than_the_baseline(
    tmp_path: Path, loss: float, accuracy: float, is_told: bool
) -> None:
    cfg = config(train__steps=2100, train__log_every_steps=1000)
    console = Recorder()
    same = {"loss_action": loss, "accuracy": accuracy}
    changes = dict.fromkeys(range(1, 601), same)
    eight = people((50,) * 8)
    train(tmp_path, last=299, console=console, cfg=cfg, changes=changes, data=eight)
    assert WARNING not in console.text
    train(tmp_path, 200, 600, console=console, cfg=cfg, changes=changes, data=eight)
    assert console.text.count(WARNING) == is_told
    if is_told:
        assert (
            f"warning: after 300 steps {WARNING}: loss {loss:.3f} and accuracy {accuracy:.1%} over "
            "the last 100 steps, that prediction has 2.079 and 12.5%; try start from trained "
        ) in console.text


def test_warns_of_a_run_that_collapses_later() -> None:
    cfg = config(train__steps=1000)
    watch = BaselineCheck(
        compute_baseline(people((5, 5)).splits["train"], "single", cfg.train), cfg.train
    )
    found = [
        watch.observe(step, 0.3 if step < 600 else math.log(2), 0.9) for step in range(1, 1001)
    ]
    (finding,) = filter(None, found)
    assert "after 700 steps" in finding


def test_compares_with_the_baseline_after_200_steps_or_a_tenth_of_the_run() -> None:
    split = people((5, 5)).splits["train"]
    for steps, expected in ((495, 200), (12_000, 1200)):
        cfg = config(train__steps=steps)
        watch = BaselineCheck(compute_baseline(split, "single", cfg.train), cfg.train)
        found = [step for step in range(1, steps + 1) if watch.observe(step, math.log(2), 0.9)]
        assert found == [expected]


def test_the_baseline_is_the_best_constant_prediction() -> None:
    train_cfg = config().train
    even = compute_baseline(people((7,) * 393).splits["train"], "single", train_cfg)
    assert even == pytest.approx((math.log(393), 1 / 393))
    uneven = people((8, 1, 1, 0))
    shares = np.array([0.8, 0.1, 0.1])
    expected = float(-(shares * np.log(shares)).sum())
    split = uneven.splits["train"]
    assert compute_baseline(split, "single", train_cfg) == pytest.approx((expected, 0.8))
    balanced = config(train__class_weights="balanced").train
    assert compute_baseline(split, "single", balanced) == pytest.approx((math.log(3), 0.8))
    smooth = config(train__label_smoothing=0.4).train
    target = 0.6 * np.array([0.8, 0.1, 0.1, 0]) + 0.1
    assert compute_baseline(split, "single", smooth).loss == pytest.approx(
        float(-(target * np.log(target)).sum())
    )
    half = people((5, 5)).splits["train"]  # of ten images
    assert compute_baseline(half, "multi", train_cfg) == pytest.approx((math.log(2), 0.5))
    tripled = config(train__positive_weight=3.0).train  # the best constant prediction is 3/4
    expected = 1.5 * math.log(4 / 3) + 0.5 * math.log(4)
    assert compute_baseline(half, "multi", tripled) == pytest.approx((expected, 0.5))
    assert all(np.isfinite(compute_baseline(people((0, 0)).splits["train"], "multi", train_cfg)))
    assert all(np.isfinite(compute_baseline(people((0, 0)).splits["train"], "single", train_cfg)))


def test_remedies_exclude_settings_in_use() -> None:
    joints, none = people((3, 3)).splits["train"], people((0, 0)).splits["train"]
    everything = config(model__pooling="attention", pose__branch=False)
    assert [word.split()[-1] for word in remedies(everything, joints, weights_loaded=False)] == [
        "(init.weights)", "model.gate_init=one", "(pose.branch=true)", "optim.learning_rate",
    ]  # fmt: skip
    tried = config(model__gate_init="one", pose__branch=False)
    assert remedies(tried, none, weights_loaded=True) == ["another optim.learning_rate"]
    mean = config(model__pooling="mean")
    assert remedies(mean, joints, weights_loaded=True) == ["another optim.learning_rate"]
