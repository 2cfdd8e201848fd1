"""Two processes that train, save, evaluate and stop as one run, by the real command."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gap_jax.evaluation.evaluate import load_scores
from gap_jax.runtime.run_folder import RunFolder
from tests.campaigns.processes_meshes import read_ids
from tests.support.processes import begin_processes, distance, finish_processes
from tests.support.tiny_training import STEPS, End

pytestmark = pytest.mark.processes


def train(folder: Path, workdir: Path, *fields: str, **options: Any) -> list[End]:
    data = folder / "data"
    return finish_processes(begin_processes(data, workdir, *fields, **options, forked=True))


def test_run_moves_from_two_processes_to_one(tiny_runs: Path, tmp_path: Path) -> None:
    """Stopped by a signal to one of two it ends alone, as a run of one; two evaluate it."""
    unbroken, moved = tiny_runs / "unbroken", tmp_path / "moved"
    first = train(tiny_runs, moved, faults={1: "train.step:term@2"})
    assert [end.code for end in first] == [75, 75]
    stops = {end.complained.splitlines()[-1] for end in first}
    assert len(stops) == 1 and "stopped by the scheduler at step" in stops.pop()
    saved = max(int(path.name) for path in RunFolder(moved).checkpoints.iterdir())
    assert 2 <= saved < STEPS - 4

    (alone,) = train(tiny_runs, moved, processes=1, devices=4)
    assert alone.code == 0 and json.loads(alone.said.splitlines()[-1])["examples"] == 4

    assert read_ids(moved) == read_ids(unbroken)
    assert len(read_ids(moved)) == STEPS
    assert 0 < distance(unbroken, moved, STEPS) < 1e-5
    scores, expected = (
        load_scores(RunFolder(run).scores("val", STEPS)) for run in (moved, unbroken)
    )
    np.testing.assert_array_equal(scores.ids, expected.ids)
    np.testing.assert_array_equal(scores.labels, expected.labels)
    np.testing.assert_allclose(scores.logits, expected.logits, rtol=1e-4, atol=1e-5)
    again = train(tiny_runs, moved, words=["--mode=evaluate"])
    assert [end.code for end in again] == [0, 0]
    assert "mAP" not in again[1].said, "only the first process prints"
    assert again[0].said.splitlines()[-1] == alone.said.splitlines()[-1]
    log = RunFolder(moved).of_process(1).log.read_text("utf-8")
    assert "compiled: " in log and "time total_s=" in log


def test_processes_that_differ_write_nothing(tiny_runs: Path, tmp_path: Path) -> None:
    ends = train(tiny_runs, tmp_path / "run", fields_of={1: "optim.learning_rate=0.5"})
    for end in ends:
        assert end.code == 64 and end.complained.count("gap_jax: error") == 1
        assert "optim.learning_rate is 0.004 in process 0 on " in end.complained
        assert "and 0.5 in process 1 on " in end.complained
    assert not (tmp_path / "run").exists()


def test_failure_of_one_process_is_reported_by_the_other(tiny_runs: Path, tmp_path: Path) -> None:
    """A failure of the first process, too, which ends the coordinator."""
    ends = train(tiny_runs, tmp_path / "run", faults={0: "train.step:raise@2"})
    assert [end.code for end in ends] == [70, 70]
    last = ends[1].complained.splitlines()[-1]
    assert last.startswith("gap_jax: error 70: process 0 ended with 70: unforeseen RuntimeError")


def test_two_processes_store_the_maps_of_one_and_train_on_them(
    tiny_runs: Path, tmp_path: Path
) -> None:
    """The files are equal to the bit, though each process computes one of two."""
    fields = (
        "data.cache=features", "data.feature_views=4", "optim.frozen=('backbone',)",
        "model.norm=frozen", "train.steps=4", "checkpoint.every_steps=4", "eval.every_steps=0",
    )  # fmt: skip
    stored, proofs = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        shutil.copytree(tiny_runs / "data", folder / "data")
        ends = train(folder, folder / "run", *fields, processes=processes, devices=2)
        assert [end.code for end in ends] == [0] * processes
        features = folder / "data" / "features"
        found = filter(Path.is_file, features.rglob("*"))
        stored.append({path.relative_to(features): path.read_bytes() for path in found})
        proofs.append(read_ids(folder / "run"))
    assert stored[0] == stored[1]
    assert sum(path.suffix == ".npy" for path in stored[0]) == 2 + 1
    assert proofs[0] == proofs[1]
    assert len(proofs[0]) == 4
    assert distance(tmp_path / "1/run", tmp_path / "2/run", 4) < 1e-5
