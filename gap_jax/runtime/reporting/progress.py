"""How fast a run goes, how long it still takes, and the line that says so."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

COMPILE, DATA = "compile", "data"  # spans of time that are treated apart
SHOWN = {
    "train/epoch": "epoch",
    "train/loss": "loss",
    "train/loss_action": "loss_action",
    "train/loss_pose": "loss_pose",
    "train/accuracy": "accuracy",
    "train/lr": "lr",
    "perf/images_per_sec": "images_per_s",
    "perf/data_wait_frac": "data_wait",
}


class Pace:
    """Where an attempt's time goes, by a clock that never runs backwards.

    Waiting for data counts as training; every other span of time stands aside from its rates.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = self._lap_start = clock()
        self._spans: Counter[str] = Counter()
        self._lap_spans: Counter[str] = Counter()
        self._steps = self._lap_steps = 0

    @contextlib.contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Books the block's time under `name`; do not nest."""
        start = self._clock()
        try:
            yield
        finally:
            self._book(name, self._clock() - start)

    def _book(self, name: str, seconds: float) -> None:
        for spans in (self._spans, self._lap_spans):
            spans.update({name: seconds})

    def count_step(self) -> None:
        """One more training step is done."""
        self._steps += 1
        self._lap_steps += 1

    def end_lap(self, images_per_step: int, devices: int) -> dict[str, float]:
        """The perf/ metrics since the last lap ended."""
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
        """Seconds to the end at this attempt's average pace, evaluations included."""
        spent = self._clock() - self._start - self._spans[COMPILE]
        return spent / max(self._steps, 1) * remaining_steps

    def summary(self) -> str:
        """Where the seconds of the attempt went, as one line."""
        total = self._clock() - self._start
        spans = {**self._spans, "train": total - sum(self._spans.values())}
        parts = [f"{name}_s={spent:.1f}" for name, spent in sorted(spans.items())]
        return " ".join([f"time total_s={total:.1f}", *parts])


class Progress(NamedTuple):
    """How far a run is; `row` is its latest row of metrics, `is_due` whether it is a new one."""

    step: int
    steps: int
    row: Mapping[str, float | int]
    eta_s: float
    is_due: bool

    def line(self) -> str:
        """Words of the form name=value, none of which holds a space."""
        words = [f"{name}={value}" for name, value in self.words().items()]
        return " ".join([f"step={self.step}/{self.steps}", *words])

    def words(self) -> dict[str, str]:
        """What is shown beside the step."""
        shown = {SHOWN[name]: number(float(self.row[name])) for name in SHOWN if name in self.row}
        return {**shown, "eta": duration(self.eta_s)}


def number(value: float) -> str:
    """Four digits, never with an exponent where a whole number will do."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """h:mm:ss, however many hours."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
