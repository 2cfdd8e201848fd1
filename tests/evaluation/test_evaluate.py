"""Scoring examples, storing scores, and `gap_jax evaluate`."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jaxtyping import Array, Float

from data_pipelines import loader, manifest
from data_pipelines.core.errors import DataError
from data_pipelines.example import Entry, HostBatch
from gap_jax import cli
from gap_jax.batch import Batch
from gap_jax.evaluation import evaluate, metrics
from gap_jax.evaluation.evaluate import Scores
from gap_jax.learning.sharding import make_mesh
from gap_jax.learning.state import TrainState, Variables
from gap_jax.saved.model import Weights, Which, open_model
from tests.support.reported_runs import interval_of
from tests.support.saved_runs import model_of, prepare_run, tiny_config
from tests.support.saved_states import assert_same, plan_fault
from tests.support.tiny_data import SIZES, build, tiny_data, with_entries

NOTHING = Variables((), ())
RATED = {3: 0.2, 5: 0.9, 7: None}


def read_colours(variables: Variables, batch: Batch) -> Float[Array, "b k"]:
    """Replaces a network by the mean of each colour."""
    del variables
    return batch.image[0].astype(jnp.float32).mean((1, 2))


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[HostBatch], Mesh]:
    """Makes two batches of eight with nine images, the last one without a label."""
    folder = tmp_path_factory.mktemp("scored")
    raw = tiny_data(folder, sizes={"train": 1, "val": 8})
    labelled = raw.splits["val"].entries[5]
    alone = Entry("alone", labelled.path, -1, labelled.keypoints, 9)
    data = build(folder / "data", with_entries(raw, "val", alone))
    cfg = tiny_config(folder / "data")
    with loader.evaluation_batches(cfg.data, data, batch_size=8) as made:
        return list(made), make_mesh(cfg)


def test_every_stored_example_is_scored_once(batches: tuple[list[HostBatch], Mesh]) -> None:
    made, mesh = batches
    assert [len(batch.id) for batch in made] == [8, 8]
    traced: list[Batch] = []

    @jax.jit
    def step(variables: Variables, batch: Batch) -> Float[Array, "b k"]:
        traced.append(batch)
        return read_colours(variables, batch)

    scores = evaluate.score(step, NOTHING, iter(made), mesh)
    assert scores and len(traced) == 1
    assert scores.ids.tolist() == list(range(9))
    assert scores.labels.tolist() == [i % 3 for i in range(8)] + [-1]
    assert scores.weights.tolist() == [1.0] * 8 + [0.0]
    pictures = np.concatenate([batch.image for batch in made])[:9]
    np.testing.assert_allclose(scores.logits, pictures.mean((1, 2)), rtol=1e-5)
    assert np.array_equal(scores.logits[5], scores.logits[8])
    backwards = evaluate.score(step, NOTHING, made[::-1], mesh)
    assert backwards and all(map(np.array_equal, backwards, scores))


def test_example_that_comes_twice_raises(batches: tuple[list[HostBatch], Mesh]) -> None:
    made, mesh = batches
    with pytest.raises(RuntimeError, match="twice"):
        evaluate.score(read_colours, NOTHING, [*made, made[0]], mesh)
    with pytest.raises(DataError, match="no image"):
        evaluate.score(read_colours, NOTHING, [], mesh)


def test_stop_flag_ends_scoring_before_a_batch(batches: tuple[list[HostBatch], Mesh]) -> None:
    made, mesh = batches
    taken: list[int] = []

    def take() -> Iterator[HostBatch]:
        for batch in made:
            taken.append(len(batch.id))
            yield batch

    answers = iter([False, True])
    assert evaluate.score(read_colours, NOTHING, take(), mesh, lambda: next(answers)) is None
    assert len(taken) == 2


def make_scores(n: int = 40, k: int = 7, *, multi: bool = False) -> Scores:
    """Draws logits that are better than chance; the last five images have no label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, k, n).astype(np.int32)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), labels] += 1
    weights = np.ones(n, np.float32)
    weights[-5:], labels[-5:] = 0, -1
    hot = (labels[:, None] == np.arange(k)).astype(np.int8)
    return Scores(np.arange(n), logits, hot if multi else labels, weights)


def test_summary_counts_labelled_images() -> None:
    scores = make_scores()
    summary = evaluate.summarise(scores)
    labels = scores.labels[:-5]
    ranked = metrics.ranking_scores(scores.logits[:-5], labels)
    interval = interval_of(metrics.resampled_map, ranked, labels)
    assert summary == {
        "mAP": interval.estimate,
        "accuracy": float((scores.logits[:-5].argmax(1) == labels).mean()),
        "top5": metrics.accuracy(ranked, labels, 5),
        "classes": 7,
        "skipped_classes": 7 - len(set(labels.tolist())),
        "examples": 35,
        "unlabelled": 5,
        "ci95": [interval.low, interval.high],
        "rule": "envelope",
        "ranking": "softmax",
        "views": "center",
    }
    assert summary["accuracy"] < summary["top5"]
    multi = evaluate.summarise(make_scores(multi=True))
    assert (multi["accuracy"], multi["top5"], multi["classes"]) == (None, None, 7)
    assert 0 < multi["mAP"] < 1 and multi["ci95"][0] < multi["mAP"] < multi["ci95"][1]


@pytest.mark.parametrize(("classes", "expected"), [(5, False), (6, True)])
def test_top5_needs_more_than_five_classes(classes: int, expected: bool) -> None:
    summary = evaluate.summarise(make_scores(k=classes))
    assert (summary["top5"] is not None) == expected
    assert summary["accuracy"] is not None


def test_summary_without_labels_is_refused() -> None:
    scores = make_scores()
    with pytest.raises(DataError, match="no labelled image"):
        evaluate.summarise(scores._replace(weights=np.zeros(40, np.float32)))
    with pytest.raises(DataError, match="none of the 35 labelled images is of any class"):
        evaluate.summarise(scores._replace(labels=np.zeros((40, 7), np.int8)))


@pytest.mark.parametrize("multi", [False, True])
def test_stored_scores_give_the_same_numbers(tmp_path: Path, multi: bool) -> None:
    scores = make_scores(multi=multi)
    names = ["=1+1", *(f"class, {k}" for k in range(5)), "\x1b[31m"]
    summary = evaluate.summarise(scores)
    folder = tmp_path / "eval" / "val" / "step_00000005"
    evaluate.store(folder, scores, summary, names)
    read = evaluate.load_scores(folder)
    for field, was in zip(read, scores, strict=True):
        assert field.dtype == was.dtype and np.array_equal(field, was)
    held = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert held == {"format_version": 1, **evaluate.summarise(read)}
    with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["'=1+1", *names[1:-1], r"\x1b[31m"]
    precisions = [float(row["average_precision"]) for row in rows if row["average_precision"]]
    assert np.mean(precisions) == pytest.approx(summary["mAP"])
    assert sum(int(row["positives"]) for row in rows) == 35
    evaluate.store(folder, scores._replace(logits=-scores.logits), summary, names)
    assert np.array_equal(evaluate.load_scores(folder).logits, -scores.logits)


def test_failed_store_keeps_the_previous_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = make_scores()
    summary, names = evaluate.summarise(scores), list("abcdefg")
    evaluate.store(tmp_path / "x", scores, summary, names)
    plan_fault(monkeypatch, "files.before_rename:raise")
    with pytest.raises(RuntimeError):
        evaluate.store(tmp_path / "x", scores._replace(ids=scores.ids + 1), summary, names)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert evaluate.load_scores(tmp_path / "x").ids[0] == 0


def test_damaged_scores_are_refused(tmp_path: Path) -> None:
    scores = make_scores()
    evaluate.store(tmp_path / "x", scores, evaluate.summarise(scores), list("abcdefg"))
    path = tmp_path / "x" / "scores.npz"
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", whole[:100], whole[:-30], flipped, b"PK\x03\x04 is no archive"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is damaged .*evaluate again"):
            evaluate.load_scores(tmp_path / "x")
    fields: dict[str, Any] = scores._asdict()
    for wrong in ({"labels": scores.labels[:-1]}, {"ids": scores.ids.astype(np.int32)},
                  {"logits": scores.logits[0]}, {"format_version": np.int64(2)}):  # fmt: skip
        np.savez(path, **{"format_version": np.int64(1), **fields, **wrong})
        with pytest.raises(DataError, match="does not hold scores of format 1"):
            evaluate.load_scores(tmp_path / "x")
    np.savez(path, **{name: field for name, field in fields.items() if name != "weights"})
    with pytest.raises(DataError, match="is damaged"):
        evaluate.load_scores(tmp_path / "x")
    path.unlink()
    with pytest.raises(DataError, match=r"holds no scores\.npz"):
        evaluate.load_scores(tmp_path / "x")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, TrainState]]:
    """Saves a run with averages; the middle step is the best, the last was not evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    return prepare_run(folder, "train.ema_decay=0.9", "eval.max_examples=2", steps=RATED)


def type_evaluate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Returns the exit code, the last printed line and stderr."""
    capsys.readouterr()
    code = cli.main(["evaluate", *words])
    printed = capsys.readouterr()
    return code, printed.out.splitlines()[-1] if printed.out else "", printed.err


@pytest.mark.slow
def test_evaluate_scores_the_whole_split_with_the_chosen_average(
    saved: tuple[Path, dict[int, TrainState]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, states = saved
    code, line, _ = type_evaluate(capsys, str(run), "--split", "train")
    assert code == 0
    place = run / "eval" / "train" / "step_00000005"
    scores = evaluate.load_scores(place)
    assert json.loads(line) == evaluate.summarise(scores)
    assert {"mAP", "accuracy", "top5", "classes", "examples", "ci95"} <= json.loads(line).keys()
    assert scores.ids.tolist() == list(range(SIZES["train"])) and scores.weights.all()

    cfg = tiny_config(run.parent / "data", "data.eval_split=train")
    data = manifest.load(run.parent / "data")
    with loader.evaluation_batches(cfg.data, data, batch_size=SIZES["train"]) as batches:
        image = next(batches).image
    outputs, _ = jax.jit(model_of(run).apply)(states[5].ema, jnp.asarray(image))
    np.testing.assert_allclose(scores.logits, outputs.logits, rtol=1e-4, atol=1e-6)


def test_run_is_opened_at_any_step(saved: tuple[Path, dict[int, TrainState]]) -> None:
    run, states = saved
    chosen: dict[Which, int] = {"best": 5, "latest": 7, 3: 3}
    both: tuple[Weights, ...] = ("ema", "raw")
    for which, step in chosen.items():
        for weights in both:
            opened = open_model(run, checkpoint=which, weights=weights)
            assert (opened.origin.step, opened.origin.weights) == (step, weights)
            expected = states[step].ema if weights == "ema" else states[step].variables
            assert_same(opened.variables, expected)
            assert opened.classes == ("jumping", "résumé, reading", "waiting")


def test_evaluate_refuses_in_one_line(
    saved: tuple[Path, dict[int, TrainState]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = saved
    raw = tiny_data(tmp_path / "raw")
    moved = ("waiting", "jumping", "flying")
    build(tmp_path / "moved", type(raw)(**{**vars(raw), "classes": moved}))
    for words, expected in (
        ((str(tmp_path / "none"),), "66: there is no file or folder {}none; name the folder of"),
        ((str(run / "config.json"),), f"66: {run}/config.json is a file; add the config"),
        ((str(run), "--checkpoint", "bets"), "64: argument --checkpoint: 'bets' must be best"),
        ((str(run), "--checkpoint", "4"), "66: no good checkpoint 4 in "),
        ((str(run), "--split", "vall"), "65: "),
        ((str(run), "--data", str(tmp_path)), "65: no prepared data in "),
        (
            (str(run), "--data", str(tmp_path / "moved")),
            f"66: {run} was trained on other classes: 'résumé, reading' is gone, 'flying' is new, "
            "'jumping' moved from 0 to 1, 'waiting' moved from 2 to 0;",
        ),
    ):
        code, _, err = type_evaluate(capsys, *words)
        assert err.count("\n") == 1 and err.startswith(f"gap_jax: error {code}: ")
        assert err.removeprefix("gap_jax: error ").startswith(expected.format(f"{tmp_path}/"))


def test_best_checkpoint_without_evaluations_is_refused(
    saved: tuple[Path, dict[int, TrainState]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(saved[0], tmp_path / "run")
    for step in (3, 5):
        shutil.rmtree(run / "checkpoints" / str(step))
    code, _, err = type_evaluate(capsys, str(run))
    assert code == 66 and "has been evaluated; use --checkpoint latest" in err
    (run / "checkpoints").rename(run / "elsewhere")
    code, _, err = type_evaluate(capsys, str(run), "--checkpoint", "latest")
    assert code == 66 and "train until one is saved" in err
