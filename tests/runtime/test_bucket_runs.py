"""Whole runs by the real command, in a folder that stands for a bucket by its address."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gap_jax import cli
from gap_jax.runtime.bucket import workdir as workdirs
from gap_jax.runtime.run_folder import LOCK
from tests.support.processes import begin_processes, finish_processes
from tests.support.tiny_training import STEPS, End, begin, finish, prove

pytestmark = pytest.mark.processes

PROGRAM = ("-m", "tests.support.quick_lock")


def in_bucket(folder: Path, bucket: Path, faults: str = "") -> End:
    options: dict[str, Any] = {"faults": faults, "program": PROGRAM, "forked": True}
    return finish(begin(folder / "data", f"file://{bucket}", **options))


def names_below(folder: Path, keep: Callable[[str], bool] = lambda _: True) -> set[str]:
    paths = (each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    return {path for path in paths if keep(path)}


def test_run_in_a_bucket_killed_and_resumed_ends_as_an_unbroken_one(
    tiny_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed when step 6 is written and not committed, with its rows uploaded."""
    unbroken, bucket = tiny_runs / "unbroken", tmp_path / "bucket" / "run"
    killed = in_bucket(tiny_runs, bucket, "checkpoint.before_commit:kill9@2")
    assert killed.code == -signal.SIGKILL
    assert {"checkpoints/3/metadata/metadata", "steps.jsonl", LOCK} <= names_below(bucket)
    assert not (bucket / "checkpoints/6").exists()

    ended = in_bucket(tiny_runs, bucket)
    assert ended.code == 0 and ended.complained == ""
    assert "shows no heartbeat" in ended.said and not (bucket / LOCK).exists()
    assert f"resumedatstep3offile://{bucket}" in "".join(ended.said.split())  # it wraps
    assert workdirs.PREFIX not in ended.said
    assert not prove(unbroken).differences(prove(bucket))
    kept = names_below(unbroken, lambda name: name.startswith(("eval", "samples")))
    assert kept < names_below(bucket)
    last = ended.said.splitlines()[-1]
    again = in_bucket(tiny_runs, bucket).said
    assert again == f"file://{bucket} is complete at step {STEPS}\n{last}\n"

    assert cli.main(["evaluate", f"file://{bucket}", "--flip"]) == 0
    said = capsys.readouterr().out
    assert f"are in file://{bucket}/eval/val/step_" in said and workdirs.PREFIX not in said
    assert len(list((bucket / "eval/val").glob("step_*-*"))) == 1


def test_two_processes_save_and_resume_in_a_bucket(tiny_runs: Path, tmp_path: Path) -> None:
    bucket, data = tmp_path / "bucket" / "run", tiny_runs / "data"
    options: dict[str, Any] = {"program": PROGRAM, "devices": 1, "forked": True}
    for code, faults in ((75, {1: "train.step:term@2"}), (0, {})):
        begun = begin_processes(data, f"file://{bucket}", faults=faults, **options)
        processes = finish_processes(begun)
        assert [end.code for end in processes] == [code, code], processes
    assert len(prove(bucket).step_log) == STEPS + 2 and not (bucket / LOCK).exists()
    assert {"config.json", "log.txt", "processes/1/log.txt"} <= names_below(bucket)
    assert f"step={STEPS}/{STEPS}" in (bucket / "processes/1/log.txt").read_text()
