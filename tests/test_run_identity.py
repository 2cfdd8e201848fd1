"""Which checkpoints prove a run complete, and which are refused as another run's."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gap_jax.errors import CheckpointError
from gap_jax.explain.artefact import open_model
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.rundir import RunDir, complete, examine
from gap_jax.runtime.steps import ARRAYS, FACTS, read_record, write_record
from tests.saved_runs import prepare_run
from tests.saved_states import abstract, finish, make_state, save_steps
from tests.test_rundir import config, people, start


@pytest.mark.parametrize("damage", ["delete all", "delete the step", "delete facts", "flip a bit"])
def test_a_run_without_its_last_checkpoint_is_not_complete(tmp_path: Path, damage: str) -> None:
    start(tmp_path)
    run = RunDir(tmp_path)
    finish(run, 9_000)
    step = run.checkpoints / "9000"
    match damage:
        case "delete all":
            shutil.rmtree(run.checkpoints)
        case "delete the step":
            shutil.rmtree(step)
        case "delete facts":
            (step / FACTS).unlink()
        case _:
            largest = max((step / ARRAYS).rglob("*"), key=lambda each: each.stat().st_size)
            largest.write_bytes(largest.read_bytes()[:-1] + b"\0")
    opening = examine(tmp_path, config(), people())
    assert (opening.completed_step, opening.lost_step) == (None, 9_000)
    assert not start(tmp_path).is_new
    assert json.loads(run.manifest.read_text("utf-8"))["completed_step"] is None


def save(root: Path, *steps: int) -> None:
    """Goes on with a run and saves the states after these steps."""
    run_id = start(root).run_id
    save_steps(RunDir(root).checkpoints, *steps, run_id=run_id)


def reopen(root: Path, said: Callable[[str], None] = pytest.fail) -> Checkpoints:
    """The run's checkpoints as a later start opens them."""
    return Checkpoints(RunDir(root).checkpoints, warn=said, run_id=start(root).run_id)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run with checkpoints 2 and 4, and one with a checkpoint 6 of the other."""
    save(tmp_path / "one", 2, 6)
    save(tmp_path / "two", 2, 4)
    checkpoints = [RunDir(tmp_path / name).checkpoints for name in ("one", "two")]
    shutil.copytree(checkpoints[0] / "6", checkpoints[1] / "6")
    return tmp_path / "one", tmp_path / "two"


def test_another_runs_checkpoint_is_not_resumed(runs: tuple[Path, Path]) -> None:
    said: list[str] = []
    target = abstract(make_state(0))
    with reopen(runs[1], said.append) as checkpoints:
        assert checkpoints.list_steps() == [2, 4] and checkpoints.find_best() == 2
        with pytest.raises(CheckpointError, match=r"checkpoint 6 .* is of another run .* \[2, 4\]"):
            checkpoints.load(6, target)
        with pytest.raises(CheckpointError, match="is of another run"):
            checkpoints.finish(6)
        restored = checkpoints.resume(target)
        assert restored and restored.step == 4
        assert len(said) == 1 and "6 is of another run" in said[0] and "untouched" in said[0]
        checkpoints.save(6, make_state(6), {})
        checkpoints.finish(6)
        assert checkpoints.list_steps() == [2, 4, 6]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "2",
        "4",
        "6",
        "6.corrupt",
    ]


def test_a_run_with_checkpoints_of_another_only_does_not_begin_anew(
    runs: tuple[Path, Path],
) -> None:
    for step in ("2", "4"):
        shutil.rmtree(RunDir(runs[1]).checkpoints / step)
    with (
        pytest.raises(CheckpointError, match=r"usable \(6 is of another run .* to begin anew"),
        reopen(runs[1], print) as checkpoints,
    ):
        checkpoints.resume(abstract(make_state(0)))
    assert (checkpoints.folder / "6").is_dir()


def test_another_runs_checkpoint_does_not_prove_a_run_complete(runs: tuple[Path, Path]) -> None:
    complete(RunDir(runs[1]), 6)
    assert examine(runs[1], config(), people()).lost_step == 6
    complete(RunDir(runs[0]), 6)
    assert examine(runs[0], config(), people()).completed_step == 6


def test_a_copied_run_goes_on(runs: tuple[Path, Path], tmp_path: Path) -> None:
    copied = shutil.copytree(runs[0], tmp_path / "copied")
    RunDir(tmp_path / "one").manifest.unlink()  # its checkpoints still carry its id
    for root in (copied, tmp_path / "one"):
        for _ in range(2):
            with reopen(root) as checkpoints:
                restored = checkpoints.resume(abstract(make_state(0)))
            assert restored and restored.step == 6


def test_a_run_from_before_there_were_ids_goes_on(tmp_path: Path) -> None:
    """Without ids in it or its checkpoints; one that carries an id is refused there."""
    start(tmp_path)
    run = RunDir(tmp_path)
    content = json.loads(run.manifest.read_text("utf-8"))
    del content["run_id"]
    run.manifest.write_text(json.dumps(content), "utf-8")
    save_steps(run.checkpoints, 2)
    save_steps(run.checkpoints, 4, run_id="of another run")
    said: list[str] = []
    for _ in range(2):
        with reopen(tmp_path, said.append) as checkpoints:
            restored = checkpoints.resume(abstract(make_state(0)))
        assert restored and restored.step == 2 and "run_id" not in restored.facts
        assert "4 is of another run" in said.pop()


def test_another_runs_checkpoint_is_neither_evaluated_nor_exported(tmp_path: Path) -> None:
    run, _ = prepare_run(tmp_path, steps={2: 0.5})
    folder = RunDir(run).checkpoints
    record = read_record(shutil.copytree(folder / "2", folder / "4"))
    facts = {**record.facts, "run_id": "another", "metrics": {"mAP": 0.75}}
    write_record(folder / "4", dataclasses.replace(record, step=4, facts=facts))
    assert open_model(run, checkpoint="best").origin.step == 2
    with pytest.raises(CheckpointError, match=r"checkpoint 4 in .* is of another run") as refusal:
        open_model(run, checkpoint=4)
    assert refusal.value.exit_code == 66
    shutil.rmtree(folder / "2")
    with pytest.raises(CheckpointError, match="no good checkpoint of this run"):
        open_model(run, checkpoint="latest")
