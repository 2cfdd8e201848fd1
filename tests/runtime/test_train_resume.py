"""Runs by the real command that are killed, damaged and stopped end as an unbroken run."""

import signal
from pathlib import Path

import pytest

from gap_jax.runtime.run_folder import RunFolder
from tests.campaigns.cases import list_files
from tests.support.tiny_training import STEPS, End, begin, interrupt, prove, train

pytestmark = pytest.mark.processes


def start(folder: Path, workdir: Path, *fields: str, faults: str = "") -> End:
    return train(folder / "data", workdir, *fields, faults=faults, forked=True)


def flip_a_bit(step: Path) -> None:
    """In the largest file of the state."""
    path = max(list_files(step), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_run_killed_damaged_and_stopped_ends_as_an_unbroken_one(
    tiny_runs: Path, tmp_path: Path
) -> None:
    """One series of faults; `make faults` tries them one by one, many times."""
    broken = tmp_path / "broken"
    checkpoints = Path(RunFolder(broken).checkpoints)

    killed = start(tiny_runs, broken, faults="checkpoint.before_commit:kill9@3")
    assert killed.code == -signal.SIGKILL
    assert {path.name for path in checkpoints.iterdir()} == {"3", "6", "9.orbax-checkpoint-tmp"}

    flip_a_bit(checkpoints / "6")
    process = begin(tiny_runs / "data", broken, forked=True)
    stopped = interrupt(process, signal.SIGTERM, broken, delay_s=0)
    assert "checkpoint 6 is not usable" in stopped.said
    assert stopped.code == 75
    assert "stopped by SIGTERM at step" in stopped.complained
    assert stopped.complained.count("\n") == 1

    ended = start(tiny_runs, broken)
    assert ended.code == 0 and ended.complained == ""
    assert not prove(tiny_runs / "unbroken").differences(prove(broken))
    last = ended.said.splitlines()[-1]
    assert start(tiny_runs, broken).said == f"{broken} is complete at step {STEPS}\n{last}\n"


def test_proofs_of_different_runs_differ(tiny_runs: Path) -> None:
    """The comparison can fail: one bit of a leaf, one row of the step log, one file."""
    one = prove(tiny_runs / "unbroken")
    name = next(iter(one.leaves))
    assert one.differences(one._replace(leaves={**one.leaves, name: "0"})) == name
    assert one.differences(one._replace(step_log=one.step_log[1:])).startswith("step_log")
    assert one.differences(one._replace(evaluations={})).startswith("val/step")


DIVERGING = (
    "optim.name=sgd", "optim.learning_rate=1e30", "optim.clip_norm=0", "optim.warmup_steps=0",
    "optim.schedule=constant", "checkpoint.every_steps=1", "eval.every_steps=0",
    "train.ema_decay=0", "model.stage=1",
)  # fmt: skip


def test_three_nonfinite_steps_end_a_run_also_across_a_resume(
    tiny_runs: Path, tmp_path: Path
) -> None:
    """The first step makes every later loss nonfinite; the second and third change nothing."""
    run = RunFolder(tmp_path / "lost")
    killed = start(tiny_runs, run.root, *DIVERGING, faults="checkpoint.after_commit:kill9@3")
    assert killed.code == -signal.SIGKILL
    ended = start(tiny_runs, run.root, *DIVERGING)
    assert ended.code == 71
    assert ended.complained.startswith("gap_jax: error 71: 3 steps in a row and 3 in all")
    assert ended.complained.count("\n") == 1 and "optim.learning_rate" in ended.complained
    assert "step 4 changed nothing" in ended.said
    assert {path.name for path in run.checkpoints.iterdir()} == {"1", "2", "3"}
    proofs = [prove(run.root, step) for step in (1, 2, 3)]
    counters = {"step", "skipped", "skipped_in_row"}
    for later in proofs[1:]:
        moved = {name for name, digest in later.leaves.items() if digest != proofs[0].leaves[name]}
        assert moved == counters
