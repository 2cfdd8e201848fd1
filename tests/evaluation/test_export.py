"""Exported models: logits, independence of the run, refusal of damage."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jaxtyping import Float

from data_pipelines import manifest
from data_pipelines.core.errors import CheckpointError, ConfigError
from gap_jax import cli
from gap_jax.learning.state import TrainState
from gap_jax.runtime import checkpoint_folders as folders
from gap_jax.saved import model
from gap_jax.saved.export import export
from gap_jax.saved.model import open_model
from gap_jax.weights.native import name_arrays
from tests.support.saved_runs import model_of, prepare_run
from tests.support.tiny_data import CLASSES, names_in

RATED = {2: 0.5, 4: 0.1}
IMAGE = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, TrainState]]:
    """Saves a run with averages whose first step is the best."""
    return prepare_run(tmp_path_factory.mktemp("run"), "train.ema_decay=0.9", steps=RATED)


@pytest.fixture(scope="module")
def exported(run: tuple[Path, dict[int, TrainState]]) -> Path:
    """Exports that run."""
    export(run[0], run[0].parent / "exported")
    return run[0].parent / "exported"


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """Copies the export, to be damaged."""
    return shutil.copytree(exported, tmp_path / "copy")


def logits(apply: Any, variables: Any) -> Float[np.ndarray, "b k"]:
    outputs, _ = apply(variables, jnp.asarray(IMAGE))
    return np.asarray(outputs.logits)


def assert_close(found: Float[np.ndarray, "b k"], expected: Float[np.ndarray, "b k"]) -> None:
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_export_gives_the_logits_of_the_average(
    run: tuple[Path, dict[int, TrainState]], copy: Path
) -> None:
    folder, states = run
    opened = open_model(copy)
    apply = jax.jit(model_of(folder).apply)
    before = logits(apply, states[2].ema)
    assert_close(logits(jax.jit(opened.model.apply), opened.variables), before)
    assert np.abs(before - logits(apply, states[2].variables)).max() > 0.01 * np.abs(before).max()
    assert opened.classes == CLASSES and opened.is_exported
    origin = opened.origin
    assert (origin.run, origin.step, origin.weights, origin.metrics) == (
        "run", 2, "ema", {"mAP": 0.5},
    )  # fmt: skip
    assert origin.fingerprint == manifest.load(folder.parent / "data").fingerprint
    assert not jax.tree.leaves(opened.variables.stats)
    assert not [name for name in name_arrays(opened.variables) if "/norm/" in name]


@pytest.mark.slow
def test_command_exports_raw_weights_of_a_chosen_step_and_folds_weight_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("model.space=weight", "model.gate_init=paper", "train.ema_decay=0.5")
    folder, states = prepare_run(tmp_path, *settings, steps={1: 0.5, 4: 0.1})
    out = tmp_path / "deep" / "out"
    words = ["export", str(folder), "--out", str(out), "--weights", "raw", "--checkpoint", "latest"]
    capsys.readouterr()
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert f"exported step 4 of {folder} (raw weights, 3 classes) to {out}" in printed
    opened = open_model(out, checkpoint=4, weights="raw")
    saliency = [name for name in name_arrays(opened.variables) if "saliency" in name]
    assert saliency == ["pooling/saliency/kernel"]
    assert_close(
        logits(jax.jit(opened.model.apply), opened.variables),
        logits(jax.jit(model_of(folder).apply), states[4].variables),
    )
    assert cli.main(words) == 73
    assert "exists already and stays untouched" in capsys.readouterr().err


def test_export_holds_one_step_and_one_kind_of_weights(exported: Path) -> None:
    with pytest.raises(ConfigError, match="of step 2 and its ema weights only"):
        open_model(exported, checkpoint=4)
    with pytest.raises(ConfigError, match="of step 2 and its ema weights only"):
        open_model(exported, weights="raw")


def test_files_of_an_export(exported: Path) -> None:
    assert names_in(exported) == [
        "arrays", "classes.json", "config.json", "manifest.json", "preprocess.json",
    ]  # fmt: skip
    held = json.loads((exported / "manifest.json").read_text("utf-8"))
    assert held["format_version"] == 1 and held["formats"] == ["orbax"]
    files = {
        path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()
    }
    assert held["files"].keys() == files - {"manifest.json"}
    preprocess = json.loads((exported / "preprocess.json").read_text("utf-8"))
    assert preprocess["short_side_px"] == 36 and preprocess["center_crop_px"] == [32, 32]
    assert preprocess["mean"] == [128.0] * 3 and preprocess["limit_width_px"] == 0
    classes = json.loads((exported / "classes.json").read_text("utf-8"))["classes"]
    assert [each["name"] for each in classes] == list(CLASSES)
    with ocp.StandardCheckpointer() as orbax:  # without gap_jax
        arrays = orbax.restore(exported / "arrays")
    opened = open_model(exported)
    assert arrays.keys() == held["leaves"].keys() == name_arrays(opened.variables).keys()
    assert arrays["backbone/layers/0/conv/bias"].shape == (24,)


def rewrite(exported: Path, name: str, text: str) -> None:
    """Changes a file and its digest, as an attacker could."""
    (exported / name).write_text(text, "utf-8")
    held = json.loads((exported / "manifest.json").read_text("utf-8"))
    held["files"] = model.digest_files(exported)
    (exported / "manifest.json").write_text(json.dumps(held), "utf-8")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("arrays/_METADATA", "no JSON", r"arrays cannot be read \(JSONDecodeError: "),
        ("arrays/manifest.ocdbt", "", r"arrays cannot be read \("),
        ("classes.json", '{"format_version": 1, "classes": []}', "it lists no classes"),
    ],
)
def test_export_that_does_not_parse_is_refused(copy: Path, name: str, text: str, line: str) -> None:
    assert (copy / name).is_file()
    rewrite(copy, name, text)
    with pytest.raises(CheckpointError, match=line):
        open_model(copy)


def test_checkpoint_that_does_not_parse_or_names_no_classes_is_refused(
    run: tuple[Path, dict[int, TrainState]], tmp_path: Path
) -> None:
    broken = shutil.copytree(run[0], tmp_path / "run")
    folders.write_metadata(broken / "checkpoints/2", _read(broken, 2, classes=[]))
    with pytest.raises(CheckpointError, match=r"checkpoint 2 .* names no classes"):
        open_model(broken, checkpoint=2)
    (broken / "checkpoints/4/state/_METADATA").write_text("no JSON", "utf-8")
    folders.write_metadata(broken / "checkpoints/4", _read(broken, 4))
    with pytest.raises(CheckpointError, match=r"checkpoints/4/state cannot be read"):
        open_model(broken, checkpoint=4)


def _read(run: Path, step: int, **changes: Any) -> folders.Metadata:
    """Reads a step's metadata and applies changes and the current digests."""
    folder = run / "checkpoints" / str(step)
    metadata = folders.read_metadata(folder)
    return dataclasses.replace(
        metadata, run={**metadata.run, **changes}, files=folders.digest_files(folder)
    )
