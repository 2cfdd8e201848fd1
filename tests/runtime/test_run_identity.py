"""Which checkpoints prove a run complete, and which are refused as another run's."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.core.errors import CheckpointError
from gap_jax.config import Config
from gap_jax.runtime import checkpoint_folders as folders
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.checkpoint_folders import (
    METADATA,
    STATE,
    find_best,
    read_metadata,
    write_metadata,
)
from gap_jax.runtime.run_folder import RunFolder, complete, enter, examine
from gap_jax.saved.model import open_model
from tests.runtime.test_run_folder import config, contents, people, start
from tests.support.saved_runs import prepare_run
from tests.support.saved_states import abstract, finish, make_state, save_steps


@pytest.mark.parametrize("damage", ["delete the step", "delete metadata", "flip a bit"])
def test_run_without_its_last_checkpoint_is_not_complete(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 8_000)
    run = RunFolder(tmp_path)
    finish(run, 9_000)
    step = run.checkpoints / "9000"
    match damage:
        case "delete the step":
            shutil.rmtree(step)
        case "delete metadata":
            (step / METADATA / METADATA).unlink()
        case _:
            largest = max(Path(step / STATE).rglob("*"), key=lambda each: each.stat().st_size)
            largest.write_bytes(largest.read_bytes()[:-1] + b"\0")
    opening = start(tmp_path)
    assert not opening.is_new
    assert (opening.completed_step, opening.lost_step) == (None, 9_000)
    assert json.loads(run.record.read_text("utf-8"))["completed_step"] is None


@pytest.mark.parametrize("cfg", [config(), config(train__steps=13_000)], ids=["same", "longer"])
@pytest.mark.parametrize("damage", ["delete all", "delete metadata", "cut arrays", "another run's"])
def test_complete_run_without_any_whole_checkpoint_is_refused(
    tmp_path: Path, damage: str, cfg: Config
) -> None:
    """It would start again at step 0 and drop all its numbers."""
    run = RunFolder(tmp_path / "run")
    save(run.root, 8_000)
    finish(run, 9_000)
    copy = shutil.copytree(run.checkpoints, tmp_path / "copy")
    for step in run.checkpoints.iterdir():
        match damage:
            case "delete all":
                shutil.rmtree(step)
            case "delete metadata":
                (step / METADATA / METADATA).unlink()
            case "cut arrays":
                next(each for each in (step / STATE).rglob("*") if each.is_file()).write_bytes(b"")
            case _:
                metadata = read_metadata(step)
                run_of = {**metadata.run, "run_id": "another"}
                write_metadata(step, dataclasses.replace(metadata, run=run_of))
    before = contents(run.root)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"complete at step 9,000 .* restore a copy"):
            enter(run.root, cfg, people(), {})
    assert contents(run.root) == before
    shutil.copytree(copy, run.checkpoints, dirs_exist_ok=True)
    assert start(run.root).completed_step == 9_000


def test_start_digests_the_last_checkpoint_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path)
    finish(RunFolder(tmp_path), 9_000)
    digested: list[Path] = []
    digest_files = folders.digest_files
    monkeypatch.setattr(
        folders, "digest_files", lambda path: digested.append(path) or digest_files(path)
    )
    examine(tmp_path, config(), people())
    assert enter(tmp_path, config(), people(), {}).completed_step == 9_000
    assert len(digested) == 1


def save(root: Path, *numbers: int) -> None:
    """Continues a run and saves the states after these steps."""
    run_id = start(root).run_id
    save_steps(RunFolder(root).checkpoints, *numbers, run_id=run_id)


def reopen(root: Path, said: Callable[[str], None] = pytest.fail) -> Checkpoints:
    """Opens the run's checkpoints like a later start."""
    return Checkpoints(RunFolder(root).checkpoints, warn=said, run_id=start(root).run_id)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run with checkpoints 2 and 4, and one with a checkpoint 6 of the other."""
    save(tmp_path / "one", 2, 6)
    save(tmp_path / "two", 2, 4)
    checkpoints = [RunFolder(tmp_path / name).checkpoints for name in ("one", "two")]
    shutil.copytree(checkpoints[0] / "6", checkpoints[1] / "6")
    return tmp_path / "one", tmp_path / "two"


def test_checkpoint_of_another_run_is_not_resumed(runs: tuple[Path, Path]) -> None:
    said: list[str] = []
    target = abstract(make_state(0))
    with reopen(runs[1], said.append) as checkpoints:
        assert (
            list(checkpoints.survey().good) == [2, 4] and find_best(checkpoints.survey().good) == 2
        )
        with pytest.raises(CheckpointError, match=r"checkpoint 6 .*is of another run.* \[2, 4\]"):
            checkpoints.load(6, target)
        with pytest.raises(CheckpointError, match=r"checkpoint 6 .* is absent or damaged"):
            checkpoints.finish(6)
        restored = checkpoints.resume(target)
        assert restored and restored.step == 4
        assert len(said) == 1 and "checkpoint 6 is not usable (it is of another run" in said[0]
        checkpoints.save(6, make_state(6), {})
        checkpoints.finish(6)
        assert list(checkpoints.survey().good) == [2, 4, 6]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "2",
        "4",
        "6",
        "6.corrupt",
    ]


def test_run_with_only_checkpoints_of_another_run_is_refused(
    runs: tuple[Path, Path],
) -> None:
    for step in ("2", "4"):
        shutil.rmtree(RunFolder(runs[1]).checkpoints / step)
    with (
        pytest.raises(CheckpointError, match=r"usable \(set aside: 6.corrupt\); .* to begin anew"),
        reopen(runs[1], print) as checkpoints,
    ):
        checkpoints.resume(abstract(make_state(0)))
    assert (checkpoints.folder / "6.corrupt").is_dir()


def test_checkpoint_of_another_run_does_not_prove_a_run_complete(runs: tuple[Path, Path]) -> None:
    complete(RunFolder(runs[1]), 6)
    assert start(runs[1]).lost_step == 6
    complete(RunFolder(runs[0]), 6)
    assert start(runs[0]).completed_step == 6


def test_lost_record_is_refused_if_checkpoints_have_different_ids(runs: tuple[Path, Path]) -> None:
    """The newest checkpoint is of another run; without it the others give the id."""
    run = RunFolder(runs[1])
    run_id = json.loads(run.record.read_text("utf-8"))["run_id"]
    run.record.unlink()
    with pytest.raises(CheckpointError, match=r"run.json is lost, .* are of 2 runs"):
        start(runs[1])
    assert not run.record.exists()
    shutil.rmtree(run.checkpoints / "6")
    assert start(runs[1]).run_id == run_id


@pytest.mark.parametrize("name", ["2", "2.corrupt"])
def test_restored_copy_is_accepted_after_damage_to_all(tmp_path: Path, name: str) -> None:
    save(tmp_path / "run", 2)
    run = RunFolder(tmp_path / "run")
    copy = shutil.copytree(run.checkpoints / "2", tmp_path / "copy")
    run.record.unlink()
    (run.checkpoints / "2" / METADATA / METADATA).unlink()
    (run.checkpoints / "2").rename(run.checkpoints / name)
    with pytest.raises(CheckpointError, match=r"run.json is lost, .* are of 0 runs"):
        start(run.root)
    if name == "2":
        shutil.rmtree(run.checkpoints / "2")
    shutil.copytree(copy, run.checkpoints / "2")
    with reopen(run.root) as checkpoints:
        restored = checkpoints.resume(abstract(make_state(0)))
    assert restored and restored.step == 2


def test_copied_run_continues(runs: tuple[Path, Path], tmp_path: Path) -> None:
    copied = shutil.copytree(runs[0], tmp_path / "copied")
    RunFolder(tmp_path / "one").record.unlink()  # its checkpoints still carry its id
    for root in (copied, tmp_path / "one"):
        for _ in range(2):
            with reopen(root) as checkpoints:
                restored = checkpoints.resume(abstract(make_state(0)))
            assert restored and restored.step == 6


def test_checkpoint_of_another_run_is_neither_evaluated_nor_exported(tmp_path: Path) -> None:
    run, _ = prepare_run(tmp_path, steps={2: 0.5})
    folder = RunFolder(run).checkpoints
    metadata = read_metadata(shutil.copytree(folder / "2", folder / "4"))
    run_of = {**metadata.run, "run_id": "another", "metrics": {"mAP": 0.75}}
    write_metadata(folder / "4", dataclasses.replace(metadata, step=4, run=run_of))
    assert open_model(run, checkpoint="best").origin.step == 2
    with pytest.raises(CheckpointError, match=r"checkpoint 4 in .*is of another run") as refusal:
        open_model(run, checkpoint=4)
    assert refusal.value.exit_code == 66
    shutil.rmtree(folder / "2")
    with pytest.raises(CheckpointError, match="no good checkpoint of this run"):
        open_model(run, checkpoint="latest")
