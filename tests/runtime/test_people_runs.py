"""A run reads the boxes of people, on images and on stored maps alike."""

import json
from pathlib import Path

import numpy as np

from gap_jax.flags import read_config
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.saved.model import open_model
from gap_jax.train import train
from gap_jax.weights.native import name_arrays
from tests.support.stored_maps import words_of
from tests.support.tiny_data import build, tiny_data

STEPS = 3
FIELDS = (
    "data.image_size_px=32", "data.short_side_px=32", "data.flip=false", "data.brightness=0.0",
    "data.preprocessing=reference", "data.feature_views=1", "data.regions=3", "model.dropout=0.0",
    "model.region_side=2", "model.region_widths=(6,5)", "model.region_channels=4",
    f"train.steps={STEPS}", "optim.learning_rate=0.01", "eval.every_steps=0",
    f"checkpoint.every_steps={STEPS}",
)  # fmt: skip


def test_training_and_evaluation_on_maps_equal_those_on_images(tmp_path: Path) -> None:
    """With one view of square images both see the same pixels, boxes and secondary regions."""
    build(tmp_path / "data", tiny_data(tmp_path, width_px=44, height_px=44))
    found = {}
    for cache in ("none", "features"):
        words = words_of(tmp_path / "data", *FIELDS, f"data.cache={cache}")
        words = [each for each in words if "pose." not in each and "widths=(8" not in each]
        train(read_config("gap_pose:rstarcnn,demo", words), tmp_path / cache)
        run = RunFolder(tmp_path / cache)
        rows = [json.loads(line) for line in run.step_log.read_text("utf-8").splitlines()]
        arrays = name_arrays(open_model(run.root, checkpoint="latest").variables)
        with np.load(run.scores("val", STEPS) / "scores.npz") as scores:
            found[cache] = rows, arrays, scores["logits"]
    (rows, arrays, logits), (others, theirs, due) = found["features"], found["none"]
    assert len(rows) == STEPS + 1  # and an evaluation
    for row, other in zip(rows[:STEPS], others[:STEPS], strict=True):
        assert row["ids_sha256"] == other["ids_sha256"]
        loss = float.fromhex(other["loss_hex"])
        np.testing.assert_allclose(float.fromhex(row["loss_hex"]), loss, rtol=1e-5)
    assert arrays.keys() == theirs.keys()
    for name, array in arrays.items():
        scale = max(np.abs(theirs[name]).max(), 1e-3)
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-5 * scale, err_msg=name)
    np.testing.assert_allclose(logits, due, rtol=0, atol=1e-5 * np.abs(due).max())
    assert (np.asarray(arrays["pooling/secondary/bias"]) != 0).all(), "regions were trained on"
