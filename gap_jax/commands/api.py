"""Trains and evaluates from Python: in a script, a notebook or a thread.

An error that ends a command with an exit code is raised as a `Refusal` of
`data_pipelines.core.errors`.
"""

from pathlib import Path
from typing import Any

from gap_jax.commands.evaluate import score_model
from gap_jax.config import Config
from gap_jax.runtime.bucket.workdir import open_for_reading
from gap_jax.saved.model import Which, open_model
from gap_jax.train import train


def train_config(cfg: Config, workdir: Path | str) -> dict[str, Any]:
    """Trains a config, or continues the run in `workdir`; returns the last evaluation.

    >>> from gap_jax import read_config, train_config  # gap_jax data prepare people
    >>> small = ["train.steps=2", "model.stage=1", "train.batch_size=8", "data.image_size_px=32"]
    >>> cfg = read_config("gap_pose:demo", [f"--config.{field}" for field in small])
    >>> numbers = train_config(cfg, "runs/small")  # logs its progress
    >>> 0 <= numbers["mAP"] <= 1
    True

    In the main thread the first Ctrl-C saves a checkpoint and raises `Preempted`, and a second one
    interrupts at once. In another thread signals are not caught.
    """
    return train(cfg, workdir)


def evaluate_run(
    workdir: Path | str,
    split: str | None = None,
    *,
    checkpoint: Which = "best",
    data: Path | str | None = None,
) -> dict[str, Any]:
    """Evaluates a run, or an exported model, on a split of its data; by default the run's own.

    >>> from gap_jax import evaluate_run
    >>> evaluate_run("runs/small")["mAP"] == numbers["mAP"]
    True

    `checkpoint` is "best", "latest" or a step; `data` is a folder of other prepared data with the
    same class names. Nothing is written.
    """
    with open_for_reading(str(workdir)) as opened_workdir:
        opened = open_model(opened_workdir.folder, checkpoint=checkpoint)
        place = None if data is None else Path(data)
        return score_model(opened, split or opened.cfg.data.eval_split, place)[1]
