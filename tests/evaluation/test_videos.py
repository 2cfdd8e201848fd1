"""A tiny HMDB51 from videos to an evaluation over frames, from the command line."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines import manifest, records
from data_pipelines.core.errors import CheckpointError, ConfigError
from data_pipelines.decode import decode
from data_pipelines.manifest import Manifest
from data_pipelines.rows import blank_batch
from data_pipelines.transforms import center_crop, make_view
from gap_jax import cli
from gap_jax.config import Config
from gap_jax.evaluation import metrics
from gap_jax.evaluation.evaluate import Scores, average_rows, load_scores
from gap_jax.flags import read_config
from gap_jax.learning.setup import assemble
from gap_jax.learning.sharding import evaluation_mesh, globalise, replicated
from gap_jax.learning.steps import jit_eval_step
from gap_jax.report.splits import describe_mean, interval_over_runs
from gap_jax.saved.model import open_model
from tests.support.reported_runs import draw_scores, make_run
from tests.support.tiny_videos import TAGS, TEST, TRAIN, write_lists, write_videos

SMALL = (
    "data.image_size_px=32", "data.short_side_px=36", "data.limit_width_px=0",
    "model.backbone=small", "model.stage=1", "model.dropout=0", "model.norm_group_size=8",
    "init.weights=", "init.allow_random=True", "train.steps=3", "train.batch_size=8",
    "train.accumulate=1", "eval.every_steps=3", "eval.batch_size=8", "optim.learning_rate=0.05",
)  # fmt: skip
MORE_TESTS = {
    label: {name: tag or (TEST if index % 2 else TRAIN) for index, (name, tag) in
            enumerate(videos.items())}
    for label, videos in TAGS.items()
}  # fmt: skip


def words(root: Path, *fields: str) -> list[str]:
    return [f"--config.{each}" for each in (*SMALL, f"data.root={root}", *fields)]


def configure(root: Path, *fields: str) -> Config:
    return read_config("hmdb51", words(root, *fields))


def prepare(folder: Path, kind: str, out: str, split: int = 1) -> Path:
    root = folder / out
    given = ["--splits", folder / "lists", f"--{kind}", folder / kind, "--split", split]
    assert cli.main(["data", "prepare", "hmdb51", *map(str, given), "--out", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos, their records `data` and a `run` of three steps."""
    folder = tmp_path_factory.mktemp("hmdb51")
    write_lists(folder / "lists", MORE_TESTS)
    write_videos(folder / "videos", MORE_TESTS)
    root = prepare(folder, "videos", "data")
    assert cli.main(["data", "check", str(root)]) == 0
    run = str(folder / "run")
    assert cli.main(["train", "--config=hmdb51", f"--workdir={run}", *words(root)]) == 0
    return folder


def score_single_frames(run: Path, root: Path) -> list[np.ndarray]:
    """Returns the logits of each of 25 stored frames of the test videos, cropped here."""
    opened = open_model(run)
    stated = manifest.load(root)
    source = records.open_split(root, "test", stated)
    mesh, folded = evaluation_mesh(opened.cfg), opened.fold()
    step = jit_eval_step(folded.model, mesh, 1)
    variables = jax.device_put(jax.device_get(folded.variables), replicated(mesh))
    blank = blank_batch(stated, np.zeros((8, 32, 32, 3), np.uint8))
    found = []
    for frame in range(25):
        images = np.zeros((8, 32, 32, 3), np.uint8)
        for row in range(len(source)):
            record = source[row]
            whole = make_view(decode(record["frames"][frame]), record["keypoints"], opened.cfg.data)
            images[row] = center_crop(whole, opened.cfg.data).image
        batch = globalise([blank._replace(image=images)], mesh)
        found.append(np.asarray(step(variables, batch))[: len(source)])
    return found


@pytest.mark.slow
def test_evaluation_is_the_mean_of_25_single_frames(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained / "run" / "eval" / "test" / "step_00000003"
    summary, scores = json.loads((folder / "metrics.json").read_text()), load_scores(folder)
    single = score_single_frames(trained / "run", trained / "data")
    expected = np.mean(single, axis=0, dtype=np.float64)
    np.testing.assert_allclose(scores.logits, expected, rtol=0, atol=1e-6)
    assert np.std(single, axis=0).max() > 1e-3, "frames differ"
    hits = expected.argmax(1) == scores.labels
    assert (summary["accuracy"], summary["examples"]) == (hits.mean(), len(hits))
    assert summary["views"] == "center+25frames"
    assert cli.main(["report", "--mean", str(trained / "run")]) == 64
    assert "a mean needs two runs or more" in capsys.readouterr().err
    assert scores.labels.tolist() == [0, 1, 1]


@pytest.mark.slow
def test_relabelled_lists_change_the_evaluation(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classes' names are exchanged, in the lists and the folders."""
    other = {"jump": MORE_TESTS["brush_hair"], "brush_hair": MORE_TESTS["jump"]}
    write_lists(tmp_path / "lists", other)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "jump").symlink_to(trained / "videos" / "brush_hair")
    (tmp_path / "videos" / "brush_hair").symlink_to(trained / "videos" / "jump")
    root = prepare(tmp_path, "videos", "data")
    own = trained / "run" / "eval" / "test" / "step_00000003" / "metrics.json"
    assert cli.main(["evaluate", str(trained / "run"), "--data", str(root)]) == 0
    changed = json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"]
    found = json.loads(own.read_text())["accuracy"]
    assert found + changed == pytest.approx(1) and found != changed


@pytest.mark.slow
def test_clips_train_and_are_evaluated_as_clips(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ("model.frames=3", "model.temporal=attention")
    run = str(tmp_path / "run")
    every = words(trained / "data", *fields)
    assert cli.main(["train", "--config=hmdb51", f"--workdir={run}", *every]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["views"], summary["examples"]) == ("center+3frames", 3)
    assert (tmp_path / "run" / "samples").is_dir()


@pytest.mark.slow
def test_data_with_fewer_frames_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--splits", trained / "lists", "--videos", trained / "videos", "--split", 1]
    words = ["data", "prepare", "hmdb51", *map(str, given), "--out", str(tmp_path / "few")]
    assert cli.main([*words, "--frames-per-video", "1"]) == 64
    assert "--frames-per-video 1 must be in 2..100" in capsys.readouterr().err
    assert cli.main([*words, "--frames-per-video", "3"]) == 0
    evaluate = ["evaluate", str(trained / "run"), "--data", str(tmp_path / "few")]
    assert cli.main(evaluate) == 64
    assert "data.eval_frames=25 and hmdb51 holds 3 frames" in capsys.readouterr().err
    empty = ["--frames", str(tmp_path), "--overwrite"]
    assert cli.main([*words[:5], *words[7:], *empty]) == 65
    assert "none of the 7 listed videos can be read in" in capsys.readouterr().err
    assert cli.main([*words, "--frames", str(tmp_path)]) == 64


def test_settings_that_the_videos_cannot_serve_are_refused() -> None:
    stated = Manifest("hmdb51", "single", ("a", "b"), 0, {}, {}, frames=25)
    frozen = ("data.cache=features", "optim.frozen=('backbone',)", "model.norm=frozen")
    for fields, message in (
        (("data.eval_frames=30",), "data.eval_frames=30 and hmdb51 holds 25 frames of each video"),
        (("model.frames=30",), "model.frames=30 and hmdb51 holds 25 frames of each video"),
        (frozen, "data.cache=features stores maps of images, and hmdb51 holds videos"),
    ):
        with pytest.raises(ConfigError, match=message):
            assemble(configure(Path("none"), *fields), stated)


def test_rows_of_an_example_are_averaged_in_float64() -> None:
    ids = np.repeat(np.arange(3), 4)
    logits = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    labels, weights = np.repeat(np.array([2, 0, 1], np.int32), 4), np.ones(12, np.float32)
    found = average_rows(Scores(ids, logits, labels, weights), 4)
    assert found.ids.tolist() == [0, 1, 2] and found.labels.tolist() == [2, 0, 1]
    expected = logits.astype(np.float64).reshape(3, 4, 5).mean(1)
    np.testing.assert_array_equal(found.logits, expected.astype(np.float32))
    for rows in (1, 3, 6):
        with pytest.raises(RuntimeError, match="twice"):
            average_rows(Scores(ids, logits, labels, weights), rows)


def test_mean_over_splits_is_that_of_their_runs() -> None:
    runs = [
        make_run(
            draw_scores(np.arange(30) % 3, 3, skill=skill, seed=seed),
            root=f"run{seed}",
            fingerprint=f"{seed}",
        )
        for seed, skill in enumerate((0.5, 1.0, 2.0))
    ]
    text = describe_mean(runs)
    values = [metrics.accuracy(run.scores.logits, run.scores.labels) for run in runs]
    mean, low, high = (100 * each for each in interval_over_runs(values))
    assert text.startswith(f"accuracy {mean:.1f} ({low:.1f} to {high:.1f}): the mean of ")
    assert ", ".join(f"{100 * value:.1f}" for value in values) in text
    assert mean == pytest.approx(100 * np.mean(values)) and "over 3 runs" in text
    with pytest.raises(ConfigError, match="needs two runs or more"):
        describe_mean(runs[:1])
    with pytest.raises(CheckpointError, match="two of the 2 runs were trained on the same data"):
        describe_mean([runs[0], runs[0]])
    other = make_run(runs[1].scores, "optim.momentum=0.5", root="other", fingerprint="9")
    with pytest.raises(CheckpointError, match=r"differ in optim.momentum=0.5"):
        describe_mean([runs[0], other])
