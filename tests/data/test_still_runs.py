"""Each data set of still images from its published files to an evaluation by its own metric."""

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from gap_jax import cli
from gap_jax.evaluation.evaluate import Protocol, Scores, load_scores, summarise
from gap_jax.runtime.run_folder import RunFolder
from tests.support.precision import Curve, literal_curve, literal_envelope, literal_voc2007
from tests.support.still_data import (
    ACTIONS,
    VOC_ACTIONS,
    draw_hico_labels,
    write_hico,
    write_stanford40,
    write_voc,
)

SMALL = (
    "data.image_size_px=32", "data.short_side_px=36", "data.limit_width_px=0",
    "model.backbone=small", "model.stage=1", "init.weights=", "init.allow_random=true",
    "train.batch_size=8", "train.accumulate=1", "train.steps=3", "eval.batch_size=8",
)  # fmt: skip


def prepare(name: str, out: Path, *words: str) -> None:
    assert cli.main(["data", "prepare", name, *words, "--out", str(out)]) == 0
    assert cli.main(["data", "check", str(out)]) == 0


def train(spec: str, data: Path, run: Path, split: str, *fields: str) -> tuple[float, Scores]:
    """Takes three steps and returns the evaluation at their end."""
    words = [f"--config.{each}" for each in (*SMALL, f"data.root={data}", *fields)]
    assert cli.main(["train", f"--config={spec}", f"--workdir={run}", *words]) == 0
    (folder,) = (RunFolder(run).evaluation / split).iterdir()
    return read(folder)


def evaluate(run: Path, data: Path, out: Path) -> tuple[float, Scores]:
    assert cli.main(["evaluate", str(run), "--data", str(data), "--out", str(out)]) == 0
    return read(out)


def read(folder: Path) -> tuple[float, Scores]:
    return json.loads((folder / "metrics.json").read_text("utf-8"))["mAP"], load_scores(folder)


def mean_of_classes(
    literal: Callable[[Curve], Fraction | float], logits: np.ndarray, labels: np.ndarray
) -> float:
    """Averages over the classes with a positive; only labels of 0 and 1 count."""
    curves = [literal_curve(*each) for each in zip(logits.T, labels.T, strict=True)]
    return float(np.mean([float(literal(curve)) for curve in curves if curve]))


def count_hico(scores: Scores, anno: np.ndarray, *, known_object: bool = False) -> float:
    """Evaluates as HICO's code: NaN is a negative, or with the object known last; 0 leaves."""
    labels = np.where(np.isnan(anno), 0, np.where(anno == 0, -5, np.maximum(anno, 0))).T
    logits = scores.logits.astype(np.float64)
    if known_object:
        logits = np.where(np.isnan(anno).T, -1e10, logits)
    return mean_of_classes(literal_voc2007, logits, labels.astype(int))


@pytest.mark.slow
def test_hico_from_its_files_to_its_metric(tmp_path: Path) -> None:
    labels = draw_hico_labels(0, 12), draw_hico_labels(1, 14)
    words = [str(each) for pair in write_hico(tmp_path / "raw", *labels).items() for each in pair]
    prepare("hico", tmp_path / "data", *words)
    run, weighted = tmp_path / "run", "train.positive_weight=10"
    found, scores = train("hico:mean", tmp_path / "data", run, "test", weighted)
    assert found == pytest.approx(count_hico(scores, labels[1]), abs=1e-12)
    known = summarise(scores, Protocol("voc2007", unknown="known_object"), resamples=2)["mAP"]
    expected = count_hico(scores, labels[1], known_object=True)
    assert known == pytest.approx(expected, abs=1e-12) and known > found

    relabelled = labels[1].copy()
    relabelled[:, :7] = draw_hico_labels(2, 7)
    write_hico(tmp_path / "raw", labels[0], relabelled, images=False)
    prepare("hico", tmp_path / "other", *words)
    changed, scores = evaluate(run, tmp_path / "other", tmp_path / "changed")
    assert changed == pytest.approx(count_hico(scores, relabelled), abs=1e-12)
    assert changed != found


def list_stanford40(seed: int) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Lists nine images in a split; actions of the test images are drawn."""
    drawn = np.random.default_rng(seed).permutation(9) % 3
    actions = {"train": [ACTIONS[i % 3] for i in range(9)], "test": [ACTIONS[i] for i in drawn]}
    return {
        split: [(f"{split}_{index:03}.jpg", action) for index, action in enumerate(chosen)]
        for split, chosen in actions.items()
    }


@pytest.mark.slow
def test_stanford40_from_its_files_to_its_metric(tmp_path: Path) -> None:
    seen = set()
    for seed in (0, 1):
        listed, data = list_stanford40(seed), tmp_path / f"data{seed}"
        write_stanford40(tmp_path / "raw", listed)
        prepare("stanford40", data, "--root", str(tmp_path / "raw"))
        if seed:
            found, scores = evaluate(tmp_path / "run", data, tmp_path / "scores")
        else:
            found, scores = train("gap_pose:stanford40,mean", data, tmp_path / "run", "test")
        labels = np.array([[done == action for action in ACTIONS] for _, done in listed["test"]])
        logits = scores.logits.astype(np.float64)
        ranked = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        expected = mean_of_classes(literal_envelope, np.round(ranked, 9), labels.astype(int))
        assert found == pytest.approx(expected, abs=1e-12)
        seen.add(found)
    assert len(seen) == 2


def draw_voc(seed: int) -> Mapping[tuple[str, int], list[int]]:
    rng = np.random.default_rng(seed)
    people = [(f"2010_{index // 2:06}", index % 2 + 1) for index in range(10)]
    return {each: rng.choice((1, -1, 0), 4, p=(0.4, 0.4, 0.2)).tolist() for each in people}


@pytest.mark.slow
def test_voc_actions_from_their_files_to_their_metric(tmp_path: Path) -> None:
    seen = set()
    for seed in (0, 1):
        people = {
            "train": draw_voc(9),
            "val": {(f"9{k}", n): v for (k, n), v in draw_voc(seed).items()},
        }
        data = tmp_path / f"data{seed}"
        write_voc(tmp_path / "raw", people)
        prepare("voc_action", data, "--root", str(tmp_path / "raw"))
        if seed:
            found, scores = evaluate(tmp_path / "run", data, tmp_path / "scores")
        else:
            found, scores = train("gap_pose:voc_action,mean", data, tmp_path / "run", "val")
        labels = np.array(list(people["val"].values()))
        counted = np.where(labels == 0, -5, np.maximum(labels, 0))
        expected = mean_of_classes(literal_envelope, scores.logits.astype(np.float64), counted)
        assert found == pytest.approx(expected, abs=1e-12)
        assert scores.logits.shape == (10, len(VOC_ACTIONS))
        seen.add(found)
    assert len(seen) == 2
