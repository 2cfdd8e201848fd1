"""Measures a run's speed and remaining time, and formats its progress."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

COMPILE, DATA = "compile", "data"  # spans of time with a rule of their own
TIMED_STEPS = 8
TRAIN_SHOWN = ("epoch", "loss", "loss_action", "loss_pose", "accuracy", "lr")
SHOWN = {
    **{f"train/{name}": name for name in TRAIN_SHOWN},
    "perf/images_per_sec": "images_per_s",
    "perf/data_wait_frac": "data_wait",
}


class Pace:
    """Measures where an attempt's time goes; of its spans, only DATA counts as training time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = self._lap_start = clock()
        self._spans = defaultdict[str, float](float)
        self._lap_spans = defaultdict[str, float](float)
        self._steps = self._lap_steps = 0
        self._first_step_end = 0.0

    @contextlib.contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Adds the block's time to the span `name`; do not nest."""
        start = self._clock()
        try:
            yield
        finally:
            spent = self._clock() - start
            self._spans[name] += spent
            self._lap_spans[name] += spent

    def count_step(self) -> None:
        self._steps += 1
        self._lap_steps += 1
        if self._steps == 1:
            self._first_step_end = self._clock()

    def seconds_per_step(self) -> float | None:
        """Returns the pace after the first `TIMED_STEPS` steps, unless they were interrupted.

        It is returned once. The first step, which waits for images and memory, is left out.
        """
        if self._steps != 1 + TIMED_STEPS or self._spans.keys() - {COMPILE, DATA}:
            return None
        return (self._clock() - self._first_step_end) / TIMED_STEPS

    def end_lap(self, images_per_step: int, devices: int) -> dict[str, float]:
        """Returns the perf/ metrics since the last lap ended, and starts another lap."""
        now = self._clock()
        aside = {name: spent for name, spent in self._lap_spans.items() if name != DATA}
        training_s = max(now - self._lap_start - sum(aside.values()), 1e-9)
        steps_per_sec = self._lap_steps / training_s
        rates = {
            "perf/images_per_sec": steps_per_sec * images_per_step,
            "perf/images_per_sec_per_device": steps_per_sec * images_per_step / devices,
            "perf/steps_per_sec": steps_per_sec,
            "perf/data_wait_frac": self._lap_spans[DATA] / training_s,
            **{f"perf/{name}_sec": spent for name, spent in aside.items()},
        }
        self._lap_start, self._lap_steps = now, 0
        self._lap_spans.clear()
        return rates

    def eta_s(self, remaining_steps: int) -> float:
        """Estimates the seconds to the end from this attempt's average pace with evaluations."""
        spent = self._clock() - self._start - self._spans.get(COMPILE, 0.0)
        return spent / max(self._steps, 1) * remaining_steps

    def summary(self) -> str:
        """Lists the seconds of each span in one line."""
        total = self._clock() - self._start
        spans = {**self._spans, "train": total - sum(self._spans.values())}
        parts = [f"{name}_s={spent:.1f}" for name, spent in sorted(spans.items())]
        return " ".join([f"time total_s={total:.1f}", *parts])


class Progress(NamedTuple):
    """A run's step, its latest row of metrics, and whether that row is new (`is_due`)."""

    step: int
    steps: int
    row: Mapping[str, float | int]
    eta_s: float
    is_due: bool

    def line(self) -> str:
        """Formats everything as name=value, without spaces in either."""
        words = [f"{name}={value}" for name, value in self.texts().items()]
        return " ".join([f"step={self.step}/{self.steps}", *words])

    def texts(self) -> dict[str, str]:
        """Formats what is shown beside the step, by name."""
        shown = {SHOWN[name]: number(float(self.row[name])) for name in SHOWN if name in self.row}
        return {**shown, "eta": duration(self.eta_s)}


def number(value: float) -> str:
    """Formats four digits, or the whole number from 10,000 to a billion."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Formats h:mm:ss, with any number of hours."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
