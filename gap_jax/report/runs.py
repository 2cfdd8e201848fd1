"""Reads runs for a report; refuses runs that cannot be compared."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.core import files
from data_pipelines.core.errors import CheckpointError, ConfigError, DataError
from data_pipelines.pictures.drawing import shorten
from gap_jax.config import Config
from gap_jax.evaluation import evaluate
from gap_jax.evaluation.evaluate import Scores
from gap_jax.learning.state import describe_model
from gap_jax.runtime import run_folder
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.saved.model import PREPROCESSING, refuse_absent

STEP = "step_"
FIX = "name the folder of a run"

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """A run as read from its folder."""

    root: Path
    cfg: Config
    classes: tuple[str, ...]  # shortened for the page
    fingerprint: str
    environment: Row  # of the latest attempt
    has_ended: bool
    step: int  # of the last evaluation
    scores: Scores
    rows: tuple[Row, ...]  # of metrics.jsonl

    def count_parameters(self) -> int:
        """Counts the trained parameters, including scales and shifts of batch norm."""
        _, shapes = describe_model(self.cfg, len(self.classes))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes.params))


def read_runs(roots: Sequence[Path]) -> tuple[ReportedRun, ...]:
    """Reads runs that were scored on the same images, in the given order."""
    runs = read_each(roots)
    for run in runs[1:]:
        _check_same_images(runs[0], run)
    return runs


def read_each(roots: Sequence[Path]) -> tuple[ReportedRun, ...]:
    """Reads runs, each once, in the given order."""
    found: set[Path] = set()
    for root in roots:
        with files.reading(root, CheckpointError):
            path = Path(os.path.realpath(root))
        if path in found:
            raise ConfigError(f"{root} is given twice; name each run once")
        found.add(path)
    return tuple(_read_run(RunFolder(root)) for root in roots)


def _read_run(run: RunFolder) -> ReportedRun:
    refuse_absent(run.root, fix=FIX)
    if not files.is_file(run.config, CheckpointError):
        raise CheckpointError(f"{run.root} is no run: it holds no {run.config.name}; {FIX}")
    if files.is_file(run.root / PREPROCESSING, CheckpointError):
        raise CheckpointError(f"{run.root} is an exported model and holds no scores; name its run")
    cfg, classes = run_folder.load_config(run), run_folder.load_classes(run)
    step, scores = _read_last_evaluation(run, cfg.data)
    if scores.logits.shape[1] != len(classes):
        raise DataError(
            f"the scores of {run.root} at step {step} are of {scores.logits.shape[1]} classes and "
            f"the run has {len(classes)}; evaluate again"
        )
    record = run_folder.load_record(run)
    if not record["attempts"]:
        raise CheckpointError(f"{run.record} lists no attempt of the run; restore it")
    return ReportedRun(
        root=run.root,
        cfg=cfg,
        classes=tuple(map(shorten, classes)),
        fingerprint=record["fingerprint"],
        environment=record["attempts"][-1],
        has_ended=record["completed_step"] is not None,
        step=step,
        scores=scores,
        rows=tuple(_read_rows(run.metrics)),
    )


def _read_last_evaluation(run: RunFolder, data: DataConfig) -> tuple[int, Scores]:
    """Reads the last evaluation, as choosing the best would bias the score upwards."""
    split = data.scored_split
    names = [path.name.removeprefix(STEP) for path in (run.evaluation / split).glob(f"{STEP}*")]
    steps = [int(name) for name in names if name.isdecimal()]
    if not steps and data.held_out:  # gap_jax evaluate scores whole splits
        raise DataError(
            f"{run.root} has no evaluation of its held-out images; run its gap_jax train again, "
            "which evaluates at its end"
        )
    if not steps:
        raise DataError(
            f"{run.root} has no evaluation of split {split!r}; "
            f"run gap_jax evaluate {run.root} --checkpoint latest"
        )
    return max(steps), evaluate.load_scores(run.scores(split, max(steps)))


def _read_rows(path: Path) -> list[Row]:
    """Reads the valid lines of metrics.jsonl; a killed run may leave an incomplete one."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def _check_same_images(first: ReportedRun, other: ReportedRun) -> None:
    clash = None
    if first.fingerprint != other.fingerprint:
        clash = f"data with fingerprints {first.fingerprint} and {other.fingerprint}"
    elif first.cfg.data.scored_split != other.cfg.data.scored_split:
        clash = f"splits {first.cfg.data.scored_split!r} and {other.cfg.data.scored_split!r}"
    elif not np.array_equal(first.scores.ids, other.scores.ids):
        clash = f"{len(first.scores.ids):,} and {len(other.scores.ids):,} images, not the same ones"
    elif not np.array_equal(first.scores.labels, other.scores.labels):
        clash = "other labels"
    elif (one := evaluate.Protocol.of(first.cfg)) != (two := evaluate.Protocol.of(other.cfg)):
        clash = f"{one} and {two}"
    if clash:
        raise CheckpointError(
            f"{first.root} and {other.root} were evaluated on {clash}; "
            "report them separately, or evaluate both on the same images"
        )
