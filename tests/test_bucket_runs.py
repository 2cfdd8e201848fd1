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
from tests.tiny_data import prepare_tiny_people
from tests.tiny_training import STEPS, End, begin, finish, prove, train

STEP = "checkpoints/3"
# the command, with a lock that is taken for a dead one's soon
PROGRAM = (
    "-c",
    "import sys; from gap_jax.runtime.bucket import lease; from gap_jax import cli; "
    "lease.BEAT_S, lease.DEAD_AFTER_S, lease.LOOK_EVERY_S = 0.2, 1.5, 0.2; "
    "sys.exit(cli.run_process('train'))",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny people, and what the runs on them compile."""
    made = tmp_path_factory.mktemp("buckets")
    prepare_tiny_people(made / "data")
    return made


def in_bucket(folder: Path, name: str, faults: str = "") -> End:
    address = f"file://{folder / name}"
    cache = folder / "cache"
    return finish(begin(folder / "data", address, faults=faults, cache=cache, program=PROGRAM))


def names_below(folder: Path, keep: Callable[[str], bool] = lambda _: True) -> set[str]:
    paths = (each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    return {path for path in paths if keep(path)}


def test_a_run_in_a_bucket_killed_and_stopped_ends_as_an_unbroken_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after all of step 6 but its facts is there: nothing of it counts."""
    assert train(folder / "data", folder / "unbroken", cache=folder / "cache").code == 0
    bucket = folder / "bucket" / "run"
    killed = in_bucket(folder, "bucket/run", "bucket.facts:kill9@2")
    assert killed.code == -signal.SIGKILL
    assert {f"{STEP}/facts.json", "checkpoints/6/arrays/_METADATA", LOCK} <= names_below(bucket)
    assert not (bucket / "checkpoints/6/facts.json").exists()

    begun = begin(
        folder / "data", f"file://{bucket}", cache=folder / "cache", program=PROGRAM,
        faults="train.step:term@5",
    )  # fmt: skip
    stopped = finish(begun)
    assert stopped.code == 75, stopped
    assert "gave no sign of life" in stopped.said and "stopped by SIGTERM" in stopped.complained
    assert f"resumed at step 3 of file://{bucket}" in " ".join(stopped.said.split())
    assert workdirs.MARK not in stopped.said + stopped.complained
    steps = {int(path.name) for path in (bucket / "checkpoints").iterdir()}
    assert max(steps) in (7, 8) and not (bucket / LOCK).exists()

    ended = in_bucket(folder, "bucket/run")
    assert ended.code == 0 and ended.complained == ""
    assert not prove(folder / "unbroken").differences(prove(bucket))
    kept = names_below(folder / "unbroken", lambda name: name.startswith(("eval", "samples")))
    assert kept < names_below(bucket)
    last = ended.said.splitlines()[-1]
    again = in_bucket(folder, "bucket/run").said
    assert again == f"file://{bucket} is complete at step {STEPS}\n{last}\n"

    assert cli.main(["evaluate", f"file://{bucket}", "--flip"]) == 0
    said = capsys.readouterr().out
    assert f"are in file://{bucket}/eval/val/step_" in said and workdirs.MARK not in said
    assert len(list((bucket / "eval/val").glob("step_*-*"))) == 1


def test_two_processes_stop_and_go_on_in_a_bucket(folder: Path) -> None:
    bucket = folder / "bucket" / "gang"
    cache = folder / "cache"
    options: dict[str, Any] = {"cache": cache, "program": PROGRAM, "devices": 1}
    data, address = folder / "data", f"file://{bucket}"
    gang = finish_gang(begin_gang(data, address, faults={1: "train.step:term@4"}, **options))
    assert [end.code for end in gang] == [75, 75], gang
    assert {"log.txt", "processes/1/log.txt"} <= names_below(bucket)
    gang = finish_gang(begin_gang(data, address, **options))
    assert [end.code for end in gang] == [0, 0], gang
    assert len(prove(bucket).ledger) == STEPS + 2 and not (bucket / LOCK).exists()
    assert "resumed at step" in (bucket / "preflight.txt").read_text()
    assert f"step={STEPS}/{STEPS}" in (bucket / "processes/1/log.txt").read_text()
