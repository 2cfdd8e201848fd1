"""Evaluation protocols of a config: rules, rankings, unlabelled images and views."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gap_jax import cli
from gap_jax.config import Config, EvalConfig, TrainConfig
from gap_jax.evaluation import evaluate
from gap_jax.evaluation.evaluate import Protocol, Scores
from gap_jax.saved.export import describe_preprocessing
from tests.support.saved_runs import prepare_run
from tests.support.tiny_data import SIZES


def draw_scores() -> Scores:
    """Draws 30 images of 4 classes; the last five have no label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 30).astype(np.int32)
    labels[-5:] = -1
    logits = rng.normal(scale=2, size=(30, 4)).astype(np.float32)
    return Scores(np.arange(30), logits, labels, (labels >= 0).astype(np.float32))


def of(**values: Any) -> Protocol:
    cfg = Config(eval=EvalConfig(**values))
    return Protocol.of(cfg.resolved())


def test_summary_follows_the_config_and_names_its_rule() -> None:
    from sklearn.metrics import average_precision_score

    scores = draw_scores()
    softmax = np.exp(scores.logits.astype(np.float64))
    softmax /= softmax.sum(1, keepdims=True)
    seen = {}
    for ranking, ranked in (("softmax", softmax), ("logits", scores.logits)):
        summary = evaluate.summarise(scores, of(average_precision="step", ranking=ranking))
        assert (summary["rule"], summary["ranking"]) == ("step", ranking)
        each = [average_precision_score(scores.labels[:25] == k, ranked[:25, k]) for k in range(4)]
        assert summary["mAP"] == pytest.approx(np.mean(each), abs=1e-12)
        seen[ranking] = summary
        low, high = summary["ci95"]
        assert low < summary["mAP"] < high
    assert seen["softmax"]["mAP"] != seen["logits"]["mAP"]
    assert seen["softmax"]["ci95"] != seen["logits"]["ci95"]
    others = [
        evaluate.summarise(scores, of(average_precision=r)) for r in ("envelope", "eleven_point")
    ]
    assert len({each["mAP"] for each in (seen["softmax"], *others)}) == 3
    assert len({each["ci95"][0] for each in (seen["softmax"], *others)}) == 3


def test_class_table_follows_the_rule(tmp_path: Path) -> None:
    scores = draw_scores()
    for rule in ("envelope", "step"):
        protocol = of(average_precision=rule)
        summary = evaluate.summarise(scores, protocol)
        evaluate.store(tmp_path / rule, scores, summary, list("abcd"), protocol)
        lines = (tmp_path / rule / "per_class.csv").read_text().splitlines()[1:]
        assert np.mean([float(line.split(",")[2]) for line in lines]) == pytest.approx(
            summary["mAP"]
        )


def test_reference_counts_unlabelled_images_as_errors() -> None:
    """They are also negatives of every class."""
    scores = draw_scores()
    masked = evaluate.summarise(scores)
    cfg = Config(train=TrainConfig(unlabelled="reference")).resolved()
    counted = evaluate.summarise(scores, Protocol.of(cfg))
    assert (masked["examples"], counted["examples"]) == (25, 30)
    assert masked["unlabelled"] == counted["unlabelled"] == 5
    assert counted["accuracy"] == pytest.approx(masked["accuracy"] * 25 / 30)
    everywhere_negative = scores._replace(weights=np.ones(30, np.float32))
    assert counted["mAP"] == evaluate.summarise(everywhere_negative)["mAP"] < masked["mAP"]


def test_views_are_named() -> None:
    cfg = Config()
    cfg.data.eval_crops, cfg.data.eval_flip = "five", True
    assert Protocol.of(cfg.resolved()).views == "five+flip"
    assert Protocol.of(Config().resolved()) == evaluate.PAPER


def test_export_describes_the_resize() -> None:
    described = set()
    for rule in ("opencv", "legacy", "antialias"):
        cfg = Config()
        cfg.data.resize = rule
        described.add(describe_preprocessing(cfg.resolved())["interpolation"])
    assert len(described) == 3 and "bilinear" in described


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Returns the lines that `gap_jax evaluate` prints."""
    capsys.readouterr()
    assert cli.main(["evaluate", *words]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_evaluate_stores_other_views_beside_the_runs_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = prepare_run(tmp_path, steps={5: 0.5}, sizes={**SIZES, "val": 2})
    line, *_, numbers = evaluated(capsys, str(run))
    assert line.endswith("images of val; mAP over 2 of 3 classes; no image of val is of 'waiting'")
    own = json.loads(numbers)
    other = json.loads(evaluated(capsys, str(run), "--crops", "three", "--flip")[-1])
    assert (own["views"], other["views"]) == ("center", "three+flip")
    folder = run / "eval" / "val"
    kept, averaged = (
        evaluate.load_scores(folder / f"step_00000005{end}") for end in ("", "-three+flip")
    )
    np.testing.assert_array_equal(kept.ids, averaged.ids)
    assert np.abs(kept.logits - averaged.logits).max() > 1e-4
    assert cli.main(["evaluate", str(run), "--crops", "four"]) == 64
