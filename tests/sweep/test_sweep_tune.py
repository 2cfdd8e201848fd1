"""`gap_jax sweep tune`: trials that go on after a kill and beside others, and the best."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from data_pipelines.core import files
from data_pipelines.core.errors import Preempted
from gap_jax.flags import read_config
from gap_jax.sweep import tune
from gap_jax.sweep.plan import Cell
from gap_jax.sweep.tune import CSV, Search
from tests.support.forking import Forked
from tests.support.swept import SIZES, Recorder
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tuned import (
    DECAY,
    RANK,
    RATE,
    Scorer,
    make_study,
    read_table,
    run,
    words,
)  # fmt: skip

COUNT = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "data"
    prepare_tiny_people(folder, sizes=SIZES)
    return folder


def score(cell: Cell) -> float:
    """The best rank is 3, and then a low rate."""
    return 0.5 * (cell.cfg.model.rank == 3) - cell.cfg.optim.learning_rate + 0.2


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a study, and the lines of its log."""
    out = tmp_path_factory.mktemp("tune") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        code, lines = run(make_study(data, out), COUNT, Scorer(patch, score))
    assert code == 0
    return out, lines


def test_trials_fill_the_ranges(whole: tuple[Path, list[str]]) -> None:
    table = read_table(whole[0])
    assert [row["trial"] for row in table] == [str(number) for number in range(COUNT)]
    assert {row["state"] for row in table} == {"complete"}
    rates = [float(row[RATE]) for row in table]
    assert min(rates) >= 1e-4 and max(rates) <= 0.1 and len(set(rates)) == COUNT
    assert max(rates[:3]) < 0.01  # drawn at random on a logarithmic scale
    assert {"1", "3"} <= {row[RANK] for row in table} <= {"1", "2", "3"}
    assert {row[DECAY] for row in table} == {"0.0", "0.1"}


def test_a_trial_is_a_search_of_a_sweep(data: Path, tmp_path: Path) -> None:
    study = make_study(data, tmp_path, "train.epochs=4", "train.steps=100")
    study.enter()
    cell = next(Search(study, 1, Recorder(study.data))._take_cells())
    assert cell.workdir.parent == tmp_path / "runs" / "trial-0"
    assert (cell.cfg.data.held_out, cell.cfg.train.seed, cell.cfg.train.steps) == (0.2, 0, 8)


def test_the_best_trial_is_printed_as_a_command(data: Path, whole: tuple[Path, list[str]]) -> None:
    out, (*_, named, printed) = whole
    best = max(read_table(out), key=lambda row: float(row["held_out_mAP"]))
    assert tune._open_study(make_study(data, out)).best_trial.number == int(best["trial"])
    mean_ap = 100 * float(best["held_out_mAP"])
    assert named == f"best: trial-{best['trial']}, mAP {mean_ap:.1f} on the held-out part"
    program, command, spec, workdir, *overrides = shlex.split(printed)
    assert (program, command) == ("gap_jax", "train")
    assert workdir == f"--workdir={out}/runs/trial-{best['trial']}/seed-0"
    cfg = read_config(spec.removeprefix("--config="), overrides)
    assert (repr(cfg.optim.learning_rate), str(cfg.model.rank)) == (best[RATE], best[RANK])
    assert (repr(cfg.optim.weight_decay), cfg.data.held_out) == (best[DECAY], 0.0)
    assert cfg.data.root == str(data) and cfg.model.rank == 3


def test_a_stopped_study_goes_on_with_the_same_trials(
    data: Path, whole: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, stops = make_study(data, tmp_path), ["trial-3"]

    def stop(cell: Cell) -> int:
        if cell.row.name in stops:
            raise Preempted(stops.pop())
        return 0

    def stop_before_record(self: Search, cell: Cell) -> None:
        if cell.row.name == "trial-4":
            raise Preempted("stopped")
        record(self, cell)

    record, runner = Search._record, Scorer(monkeypatch, score, stop)
    with pytest.raises(Preempted, match="trial-3"):
        run(study, COUNT, runner)
    with monkeypatch.context() as patch, pytest.raises(Preempted, match="stopped"):
        patch.setattr(Search, "_record", stop_before_record)
        run(study, COUNT, runner)
    code, lines = run(study, COUNT, runner)
    expected = [*range(4), 3, *range(4, COUNT)]  # and 4, which was complete, only once
    assert runner.started == [f"trial-{number}" for number in expected]
    assert (code, lines[-2]) == (0, whole[1][-2])
    assert (tmp_path / CSV).read_bytes() == (whole[0] / CSV).read_bytes()


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_study_goes_on(data: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.support.tuned"]
    killed = Forked([*program, *words(data, tmp_path, trials=3)], {**os.environ})
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    (before,) = read_table(tmp_path)
    study = make_study(data, tmp_path)
    runner = Recorder(study.data)
    assert run(study, 3, runner)[0] == 0
    assert [label.partition("/")[0] for label in runner.started] == ["trial-1", "trial-2"]
    assert read_table(tmp_path)[0] == before


def test_processes_share_a_study(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, second = make_study(data, tmp_path), Scorer(monkeypatch)

    def first(cells: Sequence[Cell], *, more: Iterable[Cell] = ()) -> Iterator[tuple[Cell, int]]:
        source = iter(more)
        cell = next(source)
        code, lines = run(study, 4, second)
        assert code == 0 and "1 trials failed, or run in other processes" in lines
        yield from second([*cells, cell])
        assert next(source, None) is None

    assert run(study, 4, first)[0] == 0
    assert second.started == ["trial-1", "trial-2", "trial-3", "trial-0"]
    assert [row["state"] for row in read_table(tmp_path)] == ["complete"] * 4


def test_a_trial_that_another_process_creates_is_waited_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, runner = contextlib.ExitStack(), Scorer(monkeypatch)
    other.enter_context(files.locked(tmp_path / "runs" / "trial-0"))
    monkeypatch.setattr(tune.time, "sleep", lambda _: other.close())
    assert run(make_study(data, tmp_path), 1, runner)[0] == 0
    assert runner.started == ["trial-0"]


def test_a_failed_trial_runs_again_and_a_diverged_one_does_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, codes = make_study(data, tmp_path), {"trial-0": 71, "trial-1": 65}
    runner = Scorer(monkeypatch, code=lambda cell: codes.get(cell.row.name, 0))
    code, lines = run(study, 3, runner)
    assert code == 65 and "1 trials failed, or run in other processes" in lines
    before = read_table(tmp_path)
    assert [row["state"] for row in before] == ["pruned", "running", "complete"]
    codes.clear()
    assert run(study, 3, runner)[0] == 0
    assert runner.started == ["trial-0", "trial-1", "trial-2", "trial-1"]
    after = read_table(tmp_path)
    assert [row["state"] for row in after] == ["pruned", "complete", "complete"]
    assert [row[RATE] for row in after] == [row[RATE] for row in before]


def test_values_that_contradict_each_other_are_no_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = ("train.batch_size=8,16", "train.accumulate=1..16")
    study, runner = (
        make_study(data, tmp_path, "train.batch_size=16", over=over),
        Scorer(monkeypatch),
    )
    study.check_values()
    code, lines = run(study, 5, runner)
    refused = [row for row in read_table(tmp_path) if row["state"] == "pruned"]
    assert code == 0 and refused and len(runner.started) == 5 - len(refused)
    for row in refused:
        assert int(row["train.batch_size"]) % int(row["train.accumulate"])
        assert "cannot be divided" in row["remark"]
        assert any(line.startswith(f"trial-{row['trial']}: refused: row ") for line in lines)


def test_a_study_without_a_score_ends_with_71(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lines = run(make_study(data, tmp_path), 1, Scorer(monkeypatch, code=lambda _: 71))
    assert (code, lines[-1]) == (71, f"no trial has a score; see {tmp_path}/{CSV}")


def test_maps_are_stored_once_before_the_trials_that_train_on_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = (
        "data.cache=features", "model.norm=frozen", "optim.frozen=('backbone',)",
        "data.brightness=0.0", "data.feature_views=2", "model.stage=1",
    )  # fmt: skip
    study = make_study(data, tmp_path, *fields, over=(f"{RATE}=0.001..0.1",))
    started: list[str] = []
    runner = Scorer(monkeypatch, code=lambda cell: started.append(cell.name.partition("-")[0]) or 0)
    assert run(study, 2, runner)[0] == 0
    assert started == ["features", "search", "search"]
