"""The forecast of a run's time: what is left to do, and a pace that is measured once."""

from typing import Any

import pytest

from gap_jax.runtime.reporting.forecast import forecast
from gap_jax.runtime.reporting.progress import Pace
from tests.support.tiny_run import Clock, config, people

FORECAST = (  # after 9 steps: 11 steps, and an evaluation of 10 images, which are 10 / 4 / 3 steps
    "about 0:00:12 to the end: 11 steps of 1 s, and 0:00:01 of evaluation (1 x 10 images); after "
    "Ctrl-C the same command goes on"
)


@pytest.mark.parametrize(
    ("fields", "step", "words"),
    [
        ({}, 9, "91 steps of 2 s, and 0:00:33 of evaluation (10 x 20 images)"),
        ({}, 10, "90 steps of 2 s, and 0:00:30 of evaluation (9 x 20 images)"),
        ({"optim__frozen": ("backbone",)}, 9, "about 0:04:42 to the end"),
        ({"eval__max_examples": 6}, 9, "0:00:10 of evaluation (10 x 6 images)"),
        ({"eval__every_steps": 0}, 9, "0:00:03 of evaluation (1 x 20 images)"),
        ({"data__held_out": 0.5}, 9, "0:00:17 of evaluation (10 x 10 images)"),
        ({"data__eval_flip": True}, 9, "0:01:07 of evaluation"),
    ],
)
def test_forecast_counts_the_steps_and_evaluations_left(
    fields: dict[str, Any], step: int, words: str
) -> None:
    cfg = config(**{"train__steps": 100, "eval__every_steps": 10, **fields})
    assert words in forecast(cfg, people((10, 10)), step, 2.0)


def test_pace_is_measured_once_without_the_first_step_and_evaluations() -> None:
    for evaluated, expected in ((False, [None] * 8 + [2.0, None]), (True, [None] * 10)):
        clock = Clock()
        pace = Pace(clock)
        found = []
        for step in range(10):
            clock.now += 2 if step else 50  # the first step waits for its images
            pace.count_step()
            found.append(pace.seconds_per_step())
            if evaluated and step == 3:
                with pace.timing("eval"):
                    clock.now += 100
        assert found == expected
