"""A whole run in this process that stops early; its files and its profile."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

from data_pipelines.core.errors import Diverged
from gap_jax.config import RuntimeConfig
from gap_jax.runtime import checkpoint_folders, run_folder
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.checkpoint_folders import find_best
from gap_jax.runtime.processes import agreement
from gap_jax.runtime.profiling import Profile
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.train import train
from tests.campaigns.cases import list_files
from tests.runtime.test_reporting import without_rates
from tests.support.saved_runs import tiny_config
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tiny_run import train as report

STANDING_STILL = (
    "model.stage=1", "init.weights=", "init.allow_random=True", "optim.learning_rate=1e-30",
    "optim.warmup_steps=0", "train.steps=20", "eval.every_steps=2", "checkpoint.every_steps=5",
    "train.early_stop_evals=2", "eval.max_examples=2", "train.log_every_steps=3",
    "runtime.profile_start_step=3", "runtime.profile_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose parameters never move, so that only its first evaluation is a gain."""
    folder = tmp_path_factory.mktemp("endings")
    prepare_tiny_people(folder / "data")
    train(tiny_config(folder / "data", *STANDING_STILL, parts="mean,demo"), folder / "run")
    return RunFolder(folder / "run")


def steps_of(path: Path) -> list[int]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [row["step"] for row in rows if "loss_hex" in row]


@pytest.mark.slow
def test_run_stops_after_evaluations_without_gain(stopped: RunFolder) -> None:
    assert steps_of(stopped.step_log) == [1, 2, 3, 4, 5, 6]
    assert json.loads(stopped.record.read_text("utf-8"))["completed_step"] == 6
    assert "stopped early at step 6: 2 evaluations in a row" in stopped.log.read_text("utf-8")
    assert [step for step, _ in _read_history(stopped)] == [2, 4, 6]
    names = sorted(path.name for path in stopped.checkpoints.iterdir())
    assert names == ["2", "5", "6"]  # the best, the fifth and the last


def _read_history(run: RunFolder) -> list[tuple[int, dict[str, Any]]]:
    run_id = run_folder.load_record(run)["run_id"]
    with Checkpoints(run.checkpoints, warn=pytest.fail, run_id=run_id) as checkpoints:
        assert find_best(checkpoints.survey().good) == 2
        return checkpoints.find(6).run["history"]


def test_only_an_evaluation_with_a_gain_is_the_best(stopped: RunFolder) -> None:
    log = stopped.log.read_text("utf-8").splitlines()
    evaluations = [line for line in log if line.startswith("val step=")]
    assert [line.endswith(" best") for line in evaluations] == [True, False, False]
    assert all(" classes=2/3" in line for line in evaluations)  # two images, of three classes
    assert not (stopped.checkpoints / "4").exists()  # saved for nothing else
    assert list(stopped.tensorboard.glob("events*"))


def test_stopped_run_makes_no_more_steps(
    stopped: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proved: list[Path] = []
    monkeypatch.setattr(agreement, "check_shared_folder", lambda _, folder: proved.append(folder))
    cfg, before = run_folder.load_config(stopped), stopped.step_log.read_bytes()
    summary = train(cfg, stopped.root)
    assert capsys.readouterr().out == f"{stopped.root} is complete at step 6\n"
    record = json.loads(stopped.record.read_text("utf-8"))
    stopped.record.write_text(json.dumps({**record, "completed_step": None}), "utf-8")
    # as if it had been killed before it was noted as complete
    assert train(cfg, stopped.root) == summary == dict(_read_history(stopped))[6]
    assert json.loads(stopped.record.read_text("utf-8"))["completed_step"] == 6
    assert stopped.step_log.read_bytes() == before
    assert proved == [stopped.root] * 2, "all processes are shown to share the folder"


@pytest.mark.slow
def test_complete_run_without_its_last_checkpoint_continues(
    stopped: RunFolder, tmp_path: Path
) -> None:
    broken = RunFolder(shutil.copytree(stopped.root, tmp_path / "run"))
    largest = max(
        list_files(Path(broken.checkpoints) / "6" / checkpoint_folders.STATE),
        key=lambda each: each.stat().st_size,
    )
    largest.write_bytes(largest.read_bytes()[:-1] + b"\0")
    train(run_folder.load_config(broken), broken.root)
    said = broken.log.read_text("utf-8")
    assert "the run was complete at step 6, but that checkpoint is no longer usable" in said
    assert "training goes on from step 5" in said
    assert broken.step_log.read_bytes() == stopped.step_log.read_bytes()
    rows = [without_rates(run.metrics) for run in (stopped, broken)]
    assert rows[0] == rows[1]
    digests = [
        checkpoint_folders.read_metadata(run.checkpoints / "6").leaves for run in (stopped, broken)
    ]
    assert digests[0] == digests[1]
    assert json.loads(broken.record.read_text("utf-8"))["completed_step"] == 6


def test_lower_patience_stops_at_the_resumed_step(stopped: RunFolder, tmp_path: Path) -> None:
    """Its checkpoint of step 5 was not evaluated; the end of a run needs an evaluation."""
    earlier = RunFolder(shutil.copytree(stopped.root, tmp_path / "run"))
    shutil.rmtree(earlier.checkpoints / "6")
    cfg = run_folder.load_config(earlier)
    impatient = dataclasses.replace(cfg.train, early_stop_evals=1)
    summary = train(dataclasses.replace(cfg, train=impatient), earlier.root)
    assert json.loads(earlier.record.read_text("utf-8"))["completed_step"] == 5
    assert summary == dict(_read_history(stopped))[6]  # of the same parameters


def test_configured_steps_were_profiled(stopped: RunFolder) -> None:
    (trace,) = stopped.profile.rglob("*.xplane.pb")
    assert trace.stat().st_size > 0


@pytest.mark.parametrize(
    ("steps", "recorded"),
    [(range(1, 9), [("on", 3), ("off", 5)]), (range(4, 9), [("on", 4), ("off", 5)]),
     (range(1, 5), [("on", 3), ("off", None)]), (range(6, 9), [])],
)  # fmt: skip
def test_profile_covers_the_configured_steps(
    steps: range, recorded: list[tuple[str, int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 3 to 5, or the part of them that an attempt makes."""
    told: list[tuple[str, int | None]] = []
    now: list[int | None] = [None]
    monkeypatch.setattr(jax.profiler, "start_trace", lambda _: told.append(("on", now[0])))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append(("off", now[0])))
    window = RuntimeConfig(profile_start_step=3, profile_steps=3)
    with Profile(window, Path("profile"), pytest.fail) as profile:
        for step in steps:
            now[0] = step
            profile.before(step, ())
            profile.after(step, ())
        now[0] = None
    assert told == recorded


def test_failing_profiler_warns_once_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such folder")

    told: list[str] = []
    for broken in ("start_trace", "stop_trace"):
        told.clear()
        with monkeypatch.context() as patch:
            for name in ("start_trace", "stop_trace"):
                patch.setattr(jax.profiler, name, fail if name == broken else lambda *_: None)
            with Profile(RuntimeConfig(profile_start_step=1), Path("x"), told.append) as profile:
                for step in range(1, 9):
                    profile.before(step, ())
                    profile.after(step, ())
        assert told == ["nothing is profiled (no such folder); training goes on without it"]


@pytest.mark.parametrize(("in_row", "in_all"), [(3, 3), (1, 10)])
def test_run_that_only_skips_steps_ends(tmp_path: Path, in_row: int, in_all: int) -> None:
    skipping = {"finite": 0.0, "skipped": in_all - 1, "skipped_in_row": in_row - 1}
    report(tmp_path / "goes on", changes={7: skipping})
    skipping = {"finite": 0.0, "skipped": in_all, "skipped_in_row": in_row}
    with pytest.raises(Diverged, match=f"{in_row} steps in a row and {in_all} in all .* step 7;"):
        report(tmp_path / "ends", changes={7: skipping})
