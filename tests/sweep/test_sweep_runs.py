"""Sweeps whose runs train: a kill -9 in the middle, the real child processes, the batch script."""

import os
import signal
import sys
from pathlib import Path

import pytest

from gap_jax import cli
from gap_jax.sweep import execute
from gap_jax.sweep.plan import SWEEP
from tests.support.forking import Forked
from tests.support.swept import SIZES, make_plan, train_here, words_of
from tests.support.tiny_data import prepare_tiny_people

CONFIG = "gap_pose:demo"
GRID = ["grid", "--over", "model.rank=1", "--rates", "0.002,0.02", "--seeds", "1"]
FILES = ("sweep.csv", "search.csv", "summary.csv", "figure.svg")
SMALLEST = ("model.stage=1", "train.steps=2", "data.image_size_px=24", "data.short_side_px=24")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "data"
    prepare_tiny_people(folder, sizes=SIZES)
    return folder


def words(data: Path, out: Path, *options: str) -> list[str]:
    return [*options, f"--config={CONFIG}", *words_of(data, *SMALLEST), "--out", str(out)]


@pytest.mark.slow
@pytest.mark.processes
def test_a_sweep_killed_twice_ends_with_the_same_numbers(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(execute, "run_children", train_here)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    program = [sys.executable, "-m", "tests.support.swept"]
    unbroken = Forked([*program, *words(data, whole, *GRID)], {**os.environ})
    command = [*program, *words(data, broken, *GRID)]
    # before the last step of the second search, then between the first final run's checkpoint and
    # the record of its end
    for point in ("train.step:kill9@4", "checkpoint.after_commit:kill9@2"):
        killed = Forked(command, {**os.environ, "GAP_JAX_FAULTS": point})
        killed.communicate(timeout=300)
        assert killed.returncode == -signal.SIGKILL
    assert (broken / "sweep.json").exists() and not (broken / "sweep.csv").exists()
    capsys.readouterr()
    assert cli.main(["sweep", *words(data, broken, *GRID)]) == 0
    out = capsys.readouterr().out
    assert "1 of 3 runs are left" in out
    unbroken.communicate(timeout=300)
    assert unbroken.returncode == 0
    for name in FILES:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert out.count("over 1 seeds") == 1


@pytest.mark.slow
@pytest.mark.processes
def test_runs_are_child_processes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["grid", "--over", "model.rank=1", "--rates", "0.01", "--seeds", "1"]
    assert cli.main(["sweep", *words(data, tmp_path / "out", *options)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "model.rank=1: 2 steps, learning rates 0.01"
    assert lines[2].startswith("[1/1] model.rank=1/seed-0: mAP ")
    assert lines[-1] == f"page: {tmp_path}/out/sweep.html"
    log = (tmp_path / "out/runs/model.rank=1/seed-0.log").read_text()
    assert '"mAP": ' in log.splitlines()[-1]
    assert cli.main(["sweep", *words(data, tmp_path / "out", *options), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "0 of 1 runs are left" in out and "time: about 0:00:00" in out


def test_only_the_chosen_rows_are_planned(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["ranks", "--rows", "P=4,P=2", "--rates", "0.01", "--seeds", "1", "--dry-run"]
    assert cli.main(["sweep", *words(data, tmp_path / "out", *options)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-2]] == ["P=2", "P=4"]
    assert "2 of 2 runs are left" in lines[-2]


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (["tabel1"], 64, "; did you mean 'table1'?"),
        (["ranks", "--seed", "3"], 64, "unknown argument '--seed'; did you mean '--seeds'?"),
        (["grid"], 64, "grid and tune need --over FIELD=v1,v2, and the other kinds take none"),
        (["ranks", "--over", "model.T=1"], 64, "grid and tune need --over FIELD=v1,v2"),
        (["grid", "--over=model.T=1", "--over=model.T=2"], 64, "--over names a field twice"),
        (["grid", "--over", "model.Q=1"], 64, "config has no field 'model.Q'"),
        (["grid", "--over", "model.T=x"], 64, "row model.T=x: model.T='x' is not of type int"),
        (["ranks", "--rows", "P=1,P=6"], 64, "--rows P=6: there is no such row; use P=1, P=2, P=3"),
        (["grid", "--over=model.T=1", "--rows=P=1"], 64, "grid and tune take no --rows"),
        (["ranks", "--rates", "abc"], 64, "--rates: 'abc' must be numbers separated by commas"),
        (["ranks", "--rates", "0.1,0.1"], 64, "0.1,0.1 names a rate twice"),
        (["ranks", "--rates", "0.1,-1"], 64, "optim.learning_rate=-1.0 is out of range"),
        (["ranks", "--config.train.seed=3"], 64, "train.seed=3 is set by the sweep; use --seeds"),
        (["ranks", "--config.data.held_out=0.1"], 64, "by the sweep; use --held-out"),
        (
            ["ranks", "--rates=0.1", "--config.optim.learning_rate=0.1"],
            64,
            "optim.learning_rate=0.1 is set by the sweep; use --rates",
        ),
        (["ranks", "--seeds", "0"], 64, "0 must be 1 or more"),
        (["ranks", "--held-out", "0.9"], 64, "data.held_out=0.9 is out of range"),
        (["ranks", "--only", "final-99"], 64, "--only final-99 must be below final-25"),
        (["ranks", "--only", "last"], 64, "--only last must be features, search, final"),
        (["ranks", "--only", "final-0"], 65, "the learning rates of P=1 are not all searched"),
        (["ranks", "--config.init.allow_random=false"], 66, "init.weights is empty"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_line(
    data: Path,
    tmp_path: Path,
    options: list[str],
    code: int,
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execute, "run_children", None)  # nothing starts
    given = words(data, tmp_path / "out")
    if "--config.init.allow_random=false" in options:
        given.remove("--config.init.allow_random=true")
    assert cli.main(["sweep", *options, *given]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not [*tmp_path.glob("out/runs")]


def test_an_unwritable_folder_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["sweep", *words(data, tmp_path / "file" / "out", "ranks")]) == 73
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write" in line and "choose a path that you may write to" in line


def test_a_dry_run_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", *words(data, tmp_path / "out", "table1", "--dry-run")]) == 0
    out = capsys.readouterr().out
    assert "33 runs choose a learning rate, 55 use it: 176 steps" in out
    assert "time: no estimate yet" in out and "--only search-0 instead of --dry-run" in out
    assert not (tmp_path / "out").exists()


def test_a_dry_run_refuses_the_folder_of_another_sweep(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_plan(data, tmp_path, "ranks").enter()
    held = (tmp_path / SWEEP).read_bytes()
    assert cli.main(["sweep", *words(data, tmp_path, "table1", "--dry-run")]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} holds another sweep, kind: 'ranks' -> 'table1'" in line
    assert [path.name for path in tmp_path.iterdir()] == [SWEEP]
    assert (tmp_path / SWEEP).read_bytes() == held
