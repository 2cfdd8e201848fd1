"""The output folder of `gap_jax evaluate`, and its output if the folder cannot be written."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.core.errors import ConfigError
from gap_jax import cli
from gap_jax.evaluation import evaluate
from gap_jax.flags import read_config
from gap_jax.learning.sharding import evaluation_mesh
from tests.support.saved_runs import prepare_run
from tests.support.saved_states import plan_fault
from tests.support.tiny_data import SIZES, names_in


@pytest.mark.slow
def test_read_only_run_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of evaluations is a file, as root may write to read-only folders."""
    run, _ = prepare_run(tmp_path, steps={2: 0.5})
    (run / "eval").write_text("")
    capsys.readouterr()
    assert cli.main(["evaluate", str(run)]) == 0
    printed_lines = capsys.readouterr().out.splitlines()
    assert printed_lines[0].startswith("warning: the scores will not be kept (cannot write ")
    assert json.loads(printed_lines[-1])["examples"] == SIZES["val"]

    out = tmp_path / "deep" / "out"
    command = ["evaluate", str(run), "--out", str(out)]
    with monkeypatch.context() as patch:
        plan_fault(patch, "files.before_rename:enospc")
        assert cli.main(command) == 73
    printed = capsys.readouterr()
    assert "no room to write" in printed.err and printed.out.splitlines()[-1] == printed_lines[-1]

    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == printed_lines[-1] and f"are in {out}" in lines[-2]
    assert names_in(out) == ["metrics.json", "per_class.csv", "scores.npz"]

    monkeypatch.setattr(evaluate, "score", pytest.fail)  # what follows is refused before it
    for taken in (out, run / "eval" / "out"):
        assert cli.main(["evaluate", str(run), "--out", str(taken)]) == 73
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_second_evaluation_into_a_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    run, _ = prepare_run(tmp_path, steps={2: 0.5})
    command = ["evaluate", str(run), *(["--out", str(tmp_path / "out")] if named else [])]
    folder = tmp_path / "out" if named else run / "eval" / "val" / "step_00000002"
    score = evaluate.score

    def score_twice(*arguments: Any, **options: Any) -> evaluate.Scores | None:
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, "score", pytest.fail)
            assert cli.main(command) == 77
        return score(*arguments, **options)

    monkeypatch.setattr(evaluate, "score", score_twice)
    capsys.readouterr()
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert f"{folder} is in use by process" in printed.err and printed.err.count("\n") == 1
    assert json.loads(printed.out.splitlines()[-1])["examples"] == SIZES["val"]
    assert names_in(folder) == ["metrics.json", "per_class.csv", "scores.npz"]


def test_evaluation_uses_the_devices_that_divide_its_batch() -> None:
    """Several processes use all devices: each has to hold some of the mesh."""
    cfg = read_config(
        "gap_pose:demo", ["--config.eval.batch_size=6", "--config.train.batch_size=6"]
    )
    assert evaluation_mesh(cfg).size == 2
    with pytest.raises(ConfigError, match=r"train.batch_size / .*=6 is not divisible by 8 devices"):
        evaluation_mesh(cfg, 2)
