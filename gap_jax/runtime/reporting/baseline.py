"""Warns of a run that is no better than predicting the class frequencies."""

from collections import deque
from typing import NamedTuple

import numpy as np

from data_pipelines.example import LabelKind
from data_pipelines.manifest import Split
from gap_jax.config import Config, TrainConfig

FEWEST_STEPS, SHARE_OF_RUN = 200, 0.1  # the comparison starts at the later of the two
WINDOW_STEPS = 100
TOLERANCE = 0.02  # of the baseline's loss
SIGMAS = 3  # of the accuracy over the window's images


class Baseline(NamedTuple):
    """Loss and accuracy of the best prediction that is the same for every image."""

    loss: float
    accuracy: float


def compute_baseline(split: Split, label_kind: LabelKind, train: TrainConfig) -> Baseline:
    """Predicts the class frequencies: ln k and 1/k where all k classes are equally frequent."""
    counts = np.array(split.class_counts, np.float64)
    if label_kind == "multi":
        share = np.clip(counts / max(split.labelled, 1), 1e-12, 1 - 1e-12)
        weighted = train.positive_weight * share
        best = weighted / (weighted + 1 - share)
        loss = -weighted * np.log(best) - (1 - share) * np.log1p(-best)
        return Baseline(float(loss.mean()), float(share.max()))
    share = counts / max(counts.sum(), 1)
    target = (counts > 0) / max((counts > 0).sum(), 1) if train.class_weights != "none" else share
    target = (1 - train.label_smoothing) * target + train.label_smoothing / len(counts)
    seen = target[target > 0]
    return Baseline(float(-(seen * np.log(seen)).sum()), float(share.max()))


class BaselineCheck:
    """Compares means over a window of steps with the baseline, until they are no better once."""

    def __init__(self, baseline: Baseline, train: TrainConfig) -> None:
        self._baseline = baseline
        self._first_step = max(FEWEST_STEPS, round(SHARE_OF_RUN * train.steps))
        variance = baseline.accuracy * (1 - baseline.accuracy)
        spread = np.sqrt(variance / train.batch_size / WINDOW_STEPS)
        self._highest_accuracy = baseline.accuracy + SIGMAS * float(spread)
        self._window: deque[tuple[float, float]] = deque(maxlen=WINDOW_STEPS)
        self._has_warned = False

    def observe(self, step: int, loss: float, accuracy: float) -> str | None:
        """Takes the step's action loss and accuracy; returns the warning if there is one."""
        self._window.append((loss, accuracy))
        is_full = len(self._window) == WINDOW_STEPS
        if self._has_warned or step < self._first_step or step % WINDOW_STEPS or not is_full:
            return None
        loss, accuracy = np.mean(self._window, axis=0).tolist()
        near = abs(loss - self._baseline.loss) <= TOLERANCE * self._baseline.loss
        self._has_warned = near or accuracy <= self._highest_accuracy
        if not self._has_warned:
            return None
        return (
            f"after {step:,} steps the run is no better than predicting the class frequencies: "
            f"loss {loss:.3f} and accuracy {accuracy:.1%} over the last {WINDOW_STEPS} steps, "
            f"that prediction has {self._baseline.loss:.3f} and {self._baseline.accuracy:.1%}"
        )


def remedies(cfg: Config, train_split: Split, *, weights_loaded: bool) -> list[str]:
    """Lists what this run has not tried yet, the most promising first."""
    tried = {
        "start from trained weights (init.weights)": weights_loaded,
        "model.gate_init=one": cfg.model.pooling == "mean" or cfg.model.gate_init == "one",
        "the pose loss (pose.branch=true)": cfg.pose.branch or not train_split.with_joints,
        "another optim.learning_rate": False,
    }
    return [remedy for remedy, is_tried in tried.items() if not is_tried]
