"""`gap_jax evaluate RUN --data NEW`: data that the model was not trained on."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import manifest
from data_pipelines.example import RawData
from gap_jax import cli, evaluate_run
from gap_jax.evaluation import evaluate
from gap_jax.evaluation.evaluate import Scores
from tests.support.saved_runs import prepare_run
from tests.support.tiny_data import CLASSES, SIZES, build, names_in, prepare_tiny_people, tiny_data

OTHERS = {**SIZES, "val": 7, "test": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves a run without other data."""
    return prepare_run(tmp_path_factory.mktemp("saved"), steps={2: 0.5})[0]


def rename(raw: RawData, classes: tuple[str, ...]) -> RawData:
    """Lists the classes in another order; every image keeps the name of its class."""
    splits = {
        name: dataclasses.replace(
            split,
            entries=[
                dataclasses.replace(entry, label=classes.index(CLASSES[int(str(entry.label))]))
                for entry in split.entries
            ],
        )
        for name, split in raw.splits.items()
    }
    return dataclasses.replace(raw, classes=classes, splits=splits)


def test_other_data_are_scored_with_their_fingerprint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    data = prepare_tiny_people(tmp_path / "new", sizes=OTHERS)
    command = ["evaluate", str(run), "--data", str(tmp_path / "new")]
    assert cli.main([*command, "--split", "test"]) == cli.main(command) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert f"3 labelled images of test of {tmp_path / 'new'} ({data.fingerprint})" in first
    numbers = json.loads(last)
    assert numbers["examples"] == OTHERS["val"] and numbers["fingerprint"] == data.fingerprint
    assert numbers == evaluate_run(run, data=tmp_path / "new")
    assert "fingerprint" not in evaluate_run(run)
    assert names_in(run / "eval" / "val") == [f"step_00000002-{data.fingerprint}"]
    stored = json.loads(next((run / "eval" / "val").glob("*/metrics.json")).read_text("utf-8"))
    assert stored["fingerprint"] == data.fingerprint


def test_classes_are_compared_by_name(run: Path, tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "raw", sizes=OTHERS)
    turned = rename(raw, (CLASSES[2], CLASSES[0], CLASSES[1]))
    for name, each in (("same", raw), ("turned", turned)):
        build(tmp_path / name, each)
        command = ["evaluate", str(run), "--data", str(tmp_path / name)]
        assert cli.main([*command, "--out", str(tmp_path / f"{name}-scores")]) == 0
    same, other = (evaluate.load_scores(tmp_path / f"{each}-scores") for each in ("same", "turned"))
    for field in Scores._fields:
        np.testing.assert_array_equal(getattr(other, field), getattr(same, field), field)
    tables = [
        (tmp_path / f"{each}-scores/per_class.csv").read_text() for each in ("same", "turned")
    ]
    assert tables[0] == tables[1]


def test_labels_are_renamed_and_missing_ones_stay_missing() -> None:
    ids, logits = np.arange(3), np.zeros((3, 3), np.float32)
    single = Scores(ids, logits, np.array([0, -1, 2], np.int32), np.ones(3, np.float32))
    assert evaluate.reorder_labels(single, [2, 0, 1]).labels.tolist() == [2, -1, 1]
    hot = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]], np.int8)
    renamed = evaluate.reorder_labels(single._replace(labels=hot), [2, 0, 1]).labels
    assert renamed.tolist() == [[0, 0, 1], [1, 0, 0], [1, 1, 0]]
    assert renamed.dtype == np.int8


def test_changed_data_of_the_run_itself_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --data nobody has said that the data differ."""
    moved = shutil.copytree(run.parent, tmp_path / "moved")
    text = (moved / "run" / "config.json").read_text("utf-8")
    own = run.parent / "data"
    (moved / "run" / "config.json").write_text(text.replace(str(own), str(moved / "data")))
    shutil.rmtree(moved / "data")
    data = prepare_tiny_people(moved / "data", sizes=OTHERS)
    capsys.readouterr()
    assert cli.main(["evaluate", str(moved / "run")]) == 66
    line = capsys.readouterr().err
    fingerprint = manifest.load(own).fingerprint
    assert f"fingerprint {fingerprint}; this data has {data.fingerprint}" in line
    assert "or name these with --data DIR" in line and line.count("\n") == 1
