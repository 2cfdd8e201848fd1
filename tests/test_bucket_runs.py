"""Whole runs by the real command, in a folder that stands for a bucket by its address."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gap_jax import cli
from gap_jax.runtime.bucket import workdir as workdirs
from gap_jax.runtime.lock import LOCK
from tests.gangs import begin_gang, finish_gang
from tests.tiny_training import STEPS, End, begin, finish, prove

pytestmark = pytest.mark.processes

STEP = "checkpoints/3"
# the command, with a lock that is taken for a dead one's soon
PROGRAM = (
    "-c",
    "import sys; from gap_jax.runtime.bucket import lease; from gap_jax import cli; "
    "lease.BEAT_S, lease.DEAD_AFTER_S, lease.LOOK_EVERY_S = 0.2, 1.5, 0.2; "
    "sys.exit(cli.run_process('train'))",
)


def in_bucket(folder: Path, bucket: Path, faults: str = "") -> End:
    cache, address = folder / "cache", f"file://{bucket}"
    return finish(begin(folder / "data", address, faults=faults, cache=cache, program=PROGRAM))


def names_below(folder: Path, keep: Callable[[str], bool] = lambda _: True) -> set[str]:
    paths = (each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    return {path for path in paths if keep(path)}


def test_a_run_in_a_bucket_killed_and_stopped_ends_as_an_unbroken_one(
    tiny_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after all of step 6 but its facts is there: nothing of it counts."""
    unbroken, bucket = tiny_runs / "unbroken", tmp_path / "bucket" / "run"
    killed = in_bucket(tiny_runs, bucket, "bucket.facts:kill9@2")
    assert killed.code == -signal.SIGKILL
    assert {f"{STEP}/facts.json", "checkpoints/6/arrays/_METADATA", LOCK} <= names_below(bucket)
    assert not (bucket / "checkpoints/6/facts.json").exists()

    begun = begin(
        tiny_runs / "data", f"file://{bucket}", cache=tiny_runs / "cache", program=PROGRAM,
        faults="train.step:term@5",
    )  # fmt: skip
    stopped = finish(begun)
    assert stopped.code == 75, stopped
    assert "gave no sign of life" in stopped.said and "stopped by SIGTERM" in stopped.complained
    assert f"resumedatstep3offile://{bucket}" in "".join(stopped.said.split())  # it wraps
    assert workdirs.MARK not in stopped.said + stopped.complained
    steps = {int(path.name) for path in (bucket / "checkpoints").iterdir()}
    assert max(steps) in (7, 8) and not (bucket / LOCK).exists()

    ended = in_bucket(tiny_runs, bucket)
    assert ended.code == 0 and ended.complained == ""
    assert not prove(unbroken).differences(prove(bucket))
    kept = names_below(unbroken, lambda name: name.startswith(("eval", "samples")))
    assert kept < names_below(bucket)
    last = ended.said.splitlines()[-1]
    again = in_bucket(tiny_runs, bucket).said
    assert again == f"file://{bucket} is complete at step {STEPS}\n{last}\n"

    assert cli.main(["evaluate", f"file://{bucket}", "--flip"]) == 0
    said = capsys.readouterr().out
    assert f"are in file://{bucket}/eval/val/step_" in said and workdirs.MARK not in said
    assert len(list((bucket / "eval/val").glob("step_*-*"))) == 1


def test_two_processes_stop_and_go_on_in_a_bucket(tiny_runs: Path, tmp_path: Path) -> None:
    bucket, data = tmp_path / "bucket" / "gang", tiny_runs / "data"
    options: dict[str, Any] = {"cache": tiny_runs / "cache", "program": PROGRAM, "devices": 1}
    address = f"file://{bucket}"
    gang = finish_gang(begin_gang(data, address, faults={1: "train.step:term@4"}, **options))
    assert [end.code for end in gang] == [75, 75], gang
    assert {"log.txt", "processes/1/log.txt"} <= names_below(bucket)
    gang = finish_gang(begin_gang(data, address, **options))
    assert [end.code for end in gang] == [0, 0], gang
    assert len(prove(bucket).ledger) == STEPS + 2 and not (bucket / LOCK).exists()
    assert "resumed at step" in (bucket / "preflight.txt").read_text()
    assert f"step={STEPS}/{STEPS}" in (bucket / "processes/1/log.txt").read_text()
