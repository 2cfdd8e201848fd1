"""The arguments of `gap_jax sweep tune`, and what it refuses in one line."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest

import gap_jax.sweep
from data_pipelines import manifest
from data_pipelines.core.errors import ConfigError
from gap_jax import cli
from gap_jax.sweep import execute
from gap_jax.sweep.tune import JOURNAL, Axis, parse_axis
from tests.support.swept import SIZES, words_of
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tuned import DECAY, OVER, RANK, RATE, Scorer, make_study, read_table, words


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "data"
    prepare_tiny_people(folder, sizes=SIZES)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.rank=1..3", Axis("model.rank", ("1", "3"), int)),
        ("optim.learning_rate=1e-4..1e-1:log", Axis(RATE, ("1e-4", "1e-1"), float, True)),
        ("optim.weight_decay=.0...5", Axis("optim.weight_decay", (".0", ".5"), float)),
        ("model.pooling=gap,mean", Axis("model.pooling", ("gap", "mean"))),
        ("model.widths=(8,4),(8,2)", Axis("model.widths", ("(8,4)", "(8,2)"))),
    ],
)
def test_ranges_and_choices(text: str, expected: Axis) -> None:
    assert parse_axis(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model.rank=1", "must be FIELD=v1,v2, or of a number FIELD=LOW..HIGH"),
        ("model.pooling=gap..mean", "must be FIELD=v1,v2, or of a number"),
        ("eval.flip=false..true", "config has no field 'eval.flip'"),
        ("model.rank=1..2.5", "an end is not of type int"),
        ("model.rank=3..1", "must have a lower and a higher end"),
        ("optim.weight_decay=0..inf", "must have a lower and a higher end"),
        ("optim.weight_decay=0..1:log", "a range with :log must begin above 0"),
        ("train.seed=1..3", "a sweep chooses train.seed"),
    ],
)
def test_a_wrong_range_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        parse_axis(text)


def test_the_command_runs_the_trials(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = Scorer(monkeypatch)
    monkeypatch.setattr(
        execute, "run_children", lambda cells, more=(), **_: runner(cells, more=more)
    )
    assert cli.main(["sweep", *words(data, tmp_path, trials=2)]) == 0
    assert "[2/2] trial-1/search-" in capsys.readouterr().out
    assert len(read_table(tmp_path)) == 2
    assert cli.main(["sweep", *words(data, tmp_path, trials=3)]) == 0
    assert runner.started == ["trial-0", "trial-1", "trial-2"]


@pytest.mark.parametrize(
    ("options", "over", "problem"),
    [
        ([], (), "grid and tune need --over FIELD=v1,v2"),
        (["--seeds", "2"], OVER, "tune takes no --seeds, --rates, --write and --only"),
        ([], (f"{RATE}=-1..1",), "optim.learning_rate=-1.0 is out of range"),
        ([], (f"{RANK}=1,x",), "model.rank='x' is not of type int"),
        ([], (f"{RANK}=1,2", f"{RANK}=3..4"), "--over names a field twice"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(
    data: Path,
    tmp_path: Path,
    options: list[str],
    over: tuple[str, ...],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["sweep", *words(data, tmp_path / "out", *options, over=over)]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not (tmp_path / "out").exists()


def test_another_study_and_a_damaged_one_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(data, tmp_path).enter()
    (tmp_path / JOURNAL).write_text('{"op_code"\n{}\n')
    for over, code, problem in (
        ((f"{RANK}=1..2",), 64, f"{tmp_path} holds another sweep, over/"),
        (OVER, 65, f"{tmp_path}/{JOURNAL} is damaged; restore it"),
    ):
        assert cli.main(["sweep", *words(data, tmp_path, over=over)]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert problem in line
    assert cli.main(["sweep", *words(data, tmp_path, "--dry-run", over=(f"{RANK}=1..2",))]) == 64
    assert "holds another sweep, over/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "over", "problem"),
    [
        ("gap_pose:rcnn,demo", f"{DECAY}=0.0,0.1", "no trial can run: no image of people has"),
        (
            "gap_pose:mean,demo",
            "model.pooling=mean,rcnn",
            "row model.pooling=rcnn: no image of people has people",
        ),
    ],
)
def test_trials_that_cannot_run_are_refused(
    data: Path,
    tmp_path: Path,
    spec: str,
    over: str,
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stated = dataclasses.replace(manifest.load(data), max_people=0)
    monkeypatch.setattr(manifest, "load", lambda _: stated)
    unread = ("--config=", "--config.model.widths", "--config.pose")
    given = words(data, tmp_path / "out", over=[over])
    kept = [word for word in given if not word.startswith(unread)]
    assert cli.main(["sweep", *kept, f"--config={spec}"]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not (tmp_path / "out").exists()


def test_trials_are_a_number_of_tune_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config=gap_pose:demo", "--out", str(tmp_path / "out"), *words_of(data)]
    for given in (["tune", "--over", OVER[0]], ["ranks", "--trials", "2"]):
        assert cli.main(["sweep", *given, *config]) == 64
        assert "tune needs --trials N, and the other kinds take none" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", *words(data, tmp_path / "out", "--dry-run")]) == 0
    out = capsys.readouterr().out
    assert "optim.learning_rate: 1e-4 to 1e-1, logarithmic" in out
    assert "a trial makes 3 steps on 80% of the training split" in out
    assert not (tmp_path / "out").exists()


def test_absent_optuna_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "gap_jax.sweep.tune")
    monkeypatch.delattr(gap_jax.sweep, "tune")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli.main(["sweep", *words(data, tmp_path / "out")]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert "sweep tune needs Optuna: pip install 'gap_jax[tune]'" in line
