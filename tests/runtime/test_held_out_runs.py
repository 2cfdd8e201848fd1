"""Runs that hold out a part of their training images: scores, their folder, and stored maps."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines import manifest, records
from data_pipelines.core.errors import ConfigError
from data_pipelines.loader import split_held_out
from gap_jax import cli
from gap_jax.evaluation import evaluate
from gap_jax.evaluation.evaluate import Scores, score_split
from gap_jax.learning.setup import assemble
from gap_jax.runtime.extraction import store_maps
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.train import train
from tests.support.saved_runs import tiny_config
from tests.support.tiny_data import prepare_tiny_people, quiet

SIZES = {"train": 15, "val": 4, "test": 0}
FIELDS = ("model.stage=1", "init.weights=", "init.allow_random=true", "data.held_out=0.2")
FROZEN = (
    "optim.frozen=('backbone',)", "model.norm=frozen", "data.feature_dtype=float32",
    "data.feature_views=2", "data.brightness=0.0",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out") / "data"
    prepare_tiny_people(folder, sizes=SIZES)
    return folder


@pytest.mark.parametrize("fields", [(), ("data.eval_flip=true",), ("data.eval_crops=full",)])
def test_held_out_scores_on_maps_equal_those_on_images(data: Path, fields: tuple[str, ...]) -> None:
    found: list[Scores | None] = []
    variables: Any = None
    for cache in ("features", "none"):
        cfg = tiny_config(data, *FIELDS, *FROZEN, *fields, f"data.cache={cache}")
        setup = assemble(cfg, prepared := manifest.load(data))
        variables = variables or setup.initial_variables()
        maps = None
        if cache == "features":
            stored = store_maps(setup, variables, log=quiet)
            assert (stored.evaluation is stored.training) == (not fields)
            assert stored.evaluation.origin["split"] == "train"
            maps = stored.evaluation
        found.append(
            score_split(
                cfg, prepared, setup.eval_step, setup.fold(variables), setup.mesh, maps=maps
            )
        )
    ours, theirs = (each for each in found if each is not None)
    assert ours.ids.tolist() == split_held_out(cfg.data, 15)[1]
    assert np.array_equal(ours.ids, theirs.ids) and np.array_equal(ours.labels, theirs.labels)
    assert np.abs(ours.logits - theirs.logits).max() <= 1e-5 * np.abs(theirs.logits).max()
    folders = {path.name.split("-")[0] for path in (data / "features").iterdir()}
    assert folders == {"train"}


def test_nobody_takes_the_scores_for_those_of_val(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny_config(data, *FIELDS, "train.steps=2", "eval.every_steps=0", "data.cache=none")
    summary = train(cfg, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert summary["examples"] == 3
    assert [path.name for path in run.evaluation.iterdir()] == ["train-held_out"]
    assert '"train-held_out/mAP"' in run.metrics.read_text()
    text = " ".join(run.preflight.read_text().split())
    assert "15 images in train, 3 of them held out and evaluated instead of val" in text
    assert "2 steps = 1.3 epochs" in text  # 2 x 8 images of 12
    assert cli.main(["report", str(run.root)]) == 0
    page = (run.root / "report.html").read_text()
    assert "split train-held_out: 3 labelled images" in page
    assert "mAP on train-held_out" in page
    source = records.open_split(data, "train", manifest.load(data))
    held = {str(source[position]["id"]) for position in split_held_out(cfg.data, 15)[1]}
    assert set(re.findall(r"\w+\.jpg", page)) == held
    scores = run.scores(cfg.data.scored_split, 2)
    shutil.move(scores, tmp_path / "lost")
    assert cli.main(["report", str(run.root)]) == 65
    assert "no evaluation of its held-out images; run its gap_jax train" in capsys.readouterr().err
    shutil.move(tmp_path / "lost", scores)
    assert cli.main(["evaluate", str(run.root), "--checkpoint", "latest"]) == 0
    assert evaluate.load_scores(run.scores("val", 2)).ids.tolist() == [0, 1, 2, 3]
    changed = tiny_config(data, *FIELDS[:-1], "train.steps=2", "eval.every_steps=0")
    with pytest.raises(ConfigError, match=r"data.held_out: 0.2 -> 0.0"):
        train(changed, run.root)
