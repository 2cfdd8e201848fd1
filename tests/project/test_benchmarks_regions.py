"""The benchmark of regions: its rows assemble, and its table has their ratios."""

import pytest

from benchmarks.__main__ import parse
from benchmarks.region_steps import measure
from benchmarks.sides import TINY, Task

TASK = Task(**{**TINY, "pinned": False})


@pytest.mark.parametrize("name", measure.ROWS)
def test_rows_read_boxes_but_mean(name: str) -> None:
    reads_boxes = name != "mean"
    batch = measure.draw_rows(TASK, measure.REGIONS, reads_boxes)
    assert (batch.people is not None) == reads_boxes
    if batch.people is not None:
        assert batch.people.regions.shape == (TASK.batch, 1, measure.REGIONS, 4)
        assert (batch.people.boxes >= 0).all() and (batch.people.boxes <= TASK.px).all()


@pytest.mark.slow
def test_step_runs_and_table_has_ratios() -> None:
    step = measure.build(TASK, "rstarcnn")
    assert step.prepare()["compile_s"] > 0 and step.time(1)["cpu"] >= 0
    rounds = {"mean": [1.0, 2.0], "rstarcnn": [1.2, 2.2]}
    table = measure.render(measure.Result(TASK, "a machine", rounds, {"mean": 3.0}))
    assert "rstarcnn : mean" in table and "<= 1.25" in table
    assert "rcnn : mean                 skipped" in table
    assert parse(["regions", "--rows", "dense"]).rows == ["dense"]
