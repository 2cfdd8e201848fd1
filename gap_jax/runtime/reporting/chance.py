"""Notices a run that does no better than guessing, and says what has helped such runs."""

from collections import deque
from typing import NamedTuple

import numpy as np

from data_pipelines.example import LabelKind
from data_pipelines.manifest import Split
from gap_jax.config import Config, TrainConfig

FEWEST_STEPS, SHARE_OF_RUN = 200, 0.1  # a run is judged from the later of the two on
WINDOW_STEPS = 100
BAND = 0.02  # how near the loss of guessing counts as being there
SIGMAS = 3  # of the accuracy over the window's images


class Chance(NamedTuple):
    """What the best guess that never looks at an image reaches."""

    loss: float
    accuracy: float


def chance_level(split: Split, label_kind: LabelKind, train: TrainConfig) -> Chance:
    """Guessing by the classes' shares: ln k and 1/k where all k classes are equally frequent."""
    counts = np.array(split.class_counts, np.float64)
    if label_kind == "multi":
        share = np.clip(counts / max(split.labelled, 1), 1e-12, 1 - 1e-12)
        entropy = -share * np.log(share) - (1 - share) * np.log1p(-share)
        return Chance(float(entropy.mean()), float(share.max()))
    share = counts / max(counts.sum(), 1)
    target = (counts > 0) / max((counts > 0).sum(), 1) if train.class_weights != "none" else share
    target = (1 - train.label_smoothing) * target + train.label_smoothing / len(counts)
    seen = target[target > 0]
    return Chance(float(-(seen * np.log(seen)).sum()), float(share.max()))


class ChanceWatch:
    """Looks at the means over a window of steps, and finds at most once that they are chance's."""

    def __init__(self, chance: Chance, train: TrainConfig) -> None:
        self._chance = chance
        self._first_step = max(FEWEST_STEPS, round(SHARE_OF_RUN * train.steps))
        spread = np.sqrt(chance.accuracy * (1 - chance.accuracy) / train.batch_size / WINDOW_STEPS)
        self._highest_accuracy = chance.accuracy + SIGMAS * float(spread)
        self._window: deque[tuple[float, float]] = deque(maxlen=WINDOW_STEPS)
        self._is_settled = False

    def observe(self, step: int, loss: float, accuracy: float) -> str | None:
        """The step's action loss and accuracy go in; what is wrong comes out, if anything is."""
        self._window.append((loss, accuracy))
        is_full = len(self._window) == WINDOW_STEPS
        if self._is_settled or step < self._first_step or step % WINDOW_STEPS or not is_full:
            return None
        loss, accuracy = np.mean(self._window, axis=0).tolist()
        near = abs(loss - self._chance.loss) <= BAND * self._chance.loss
        self._is_settled = near or accuracy <= self._highest_accuracy
        if not self._is_settled:
            return None
        return (
            f"after {step:,} steps the run is at chance: loss {loss:.3f} and accuracy "
            f"{accuracy:.1%} over the last {WINDOW_STEPS}, guessing reaches "
            f"{self._chance.loss:.3f} and {self._chance.accuracy:.1%}"
        )


def remedies(cfg: Config, train_split: Split, *, weights_loaded: bool) -> list[str]:
    """What this run has not tried yet, the most promising first."""
    tried = {
        "start from trained weights (init.weights)": weights_loaded,
        "model.gate_init=one": cfg.model.pooling == "mean" or cfg.model.gate_init == "one",
        "the pose loss (pose.branch=true)": cfg.pose.branch or not train_split.with_joints,
        "another optim.learning_rate": False,
    }
    return [remedy for remedy, is_tried in tried.items() if not is_tried]
