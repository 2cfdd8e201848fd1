"""Which checkpoints prove a run complete, and which belong to another run."""

import json
import shutil
from pathlib import Path

import pytest

from gap_jax.runtime.rundir import RunDir, examine
from gap_jax.runtime.steps import ARRAYS, FACTS
from tests.saved_states import finish
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
