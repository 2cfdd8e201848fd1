"""Makes runs with an evaluation for reports: on disk, or in memory."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.evaluation import evaluate, metrics
from gap_jax.evaluation.evaluate import Scores
from gap_jax.models.cells import Axis, Grid
from gap_jax.report.runs import ReportedRun
from gap_jax.runtime.run_folder import RunFolder
from tests.support.saved_runs import save_run, tiny_config
from tests.support.tiny_data import CLASSES

NOWHERE = Path("nowhere")


def grid_of(rows: int, columns: int, stride: float) -> Grid:
    """Returns a grid whose first cell is centred on the corner of the image."""
    return Grid(Axis(rows, 0.0, stride), Axis(columns, 0.0, stride))


def draw_scores(labels: np.ndarray, classes: int, *, skill: float, seed: int = 0) -> Scores:
    """Draws random scores with `skill` added to the label's logit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += skill
    weights = np.ones(len(labels), np.float32)
    return Scores(np.arange(len(labels)), logits, labels.astype(np.int32), weights)


def interval_of(
    rule: metrics.Statistic, scores: np.ndarray, labels: np.ndarray, resamples: int = 1000
) -> metrics.Interval:
    """Returns the interval of a score."""
    mean = functools.partial(rule, scores, labels)
    return metrics.resample(mean, len(labels), resamples=resamples).interval()


def paired_interval(
    rule: metrics.Statistic, a: np.ndarray, b: np.ndarray, labels: np.ndarray
) -> metrics.Interval:
    """Returns the interval of a's score minus b's on the same resamples."""
    found = metrics.resample(
        lambda counts: rule(a, labels, counts) - rule(b, labels, counts), len(labels)
    )
    return found.interval(lowest=-1.0)


def make_run(
    scores: Scores, *overrides: str, parts: str = "mean,demo", root: str = "run", **values: Any
) -> ReportedRun:
    """Makes a run in memory, without training or data."""
    cfg = tiny_config(NOWHERE, "model.stage=1", *overrides, parts=parts)
    made = {
        "root": NOWHERE / root, "cfg": cfg, "classes": CLASSES, "fingerprint": "0123",
        "environment": {}, "has_ended": True, "step": 7, "scores": scores, "rows": (),
    }  # fmt: skip
    return ReportedRun(**{**made, **values})


def evaluate_run(root: Path, cfg: Config, data: Manifest, skills: Mapping[int, float]) -> Path:
    """Saves a run with a checkpoint, an evaluation and a row of metrics at each step."""
    save_run(root, cfg, data, skills)
    labels = np.arange(data.splits["val"].examples, dtype=np.int32) % len(data.classes)
    for step, skill in skills.items():
        scores = draw_scores(labels, len(data.classes), skill=skill, seed=step)
        summary = evaluate.summarise(scores, resamples=20)
        evaluate.store(RunFolder(root).scores("val", step), scores, summary, data.classes)
    write_rows(root, {step: {"train/loss_action": 1 / step, "val/mAP": 0.1} for step in skills})
    return root


def write_rows(root: Path, rows: Mapping[int, Mapping[str, float | None]]) -> None:
    """Writes a metrics.jsonl."""
    text = "".join(json.dumps({"step": step, **row}) + "\n" for step, row in rows.items())
    RunFolder(root).metrics.write_text(text, "utf-8")
