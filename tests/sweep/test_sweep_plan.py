"""The runs of a sweep: budgets, the choice of rates, what is started again, and other sweeps."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.core.errors import CannotWrite, ConfigError, DataError
from gap_jax.config import differences
from gap_jax.sweep.execute import execute
from gap_jax.sweep.plan import SWEEP, Cell, Plan, choose_rate
from gap_jax.sweep.rows import make_rates
from tests.support.swept import SIZES, Recorder, make_plan
from tests.support.tiny_data import prepare_tiny_people, quiet


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "data"
    prepare_tiny_people(folder, sizes=SIZES)
    return folder


def two_rows(data: Path, out: Path, *fields: str, **options: Any) -> Plan:
    return make_plan(data, out, "grid", *fields, over=["model.rank=1,2"], **options)


def by_rate(best: float) -> Callable[[Cell], float]:
    """More skill the nearer a search's rate is to the best one."""
    return lambda cell: 9.0 if cell.cfg.optim.learning_rate == best else 0.0


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({1e-4: 0.2, 1e-3: 0.5, 1e-2: 0.4}, 1e-3),
        ({1e-4: 0.5, 1e-3: 0.5, 1e-2: 0.4}, 1e-4),
        ({1e-2: 0.5, 1e-3: 0.5}, 1e-3),
        ({1e-2: 0.0}, 1e-2),
    ],
)
def test_the_highest_score_wins_and_of_equal_ones_the_lowest_rate(
    scores: dict[float, float], expected: float
) -> None:
    assert choose_rate(scores) == expected


def test_rates_surround_that_of_the_row(data: Path, tmp_path: Path) -> None:
    (row, _) = two_rows(data, tmp_path, "optim.learning_rate=0.01").rows
    assert make_rates(row, ()) == (0.00333, 0.01, 0.03)
    assert make_rates(row, (0.5, 0.1)) == (0.1, 0.5)


def test_every_run_of_a_row_has_the_same_budget(data: Path, tmp_path: Path) -> None:
    fields = ("train.epochs=4", "train.steps=100", "train.early_stop_evals=2", "eval.every_steps=1")
    plan = two_rows(data, tmp_path, *fields)
    steps = {cell.cfg.train.steps for cell in plan.cells}
    assert steps == {8}  # 4 epochs of 15 images in batches of 8, also where 3 are held out
    assert len(plan.searches) == 6 and len(plan.cells) == 10
    for cell in plan.cells:
        assert cell.cfg.train.early_stop_evals == 0 and cell.cfg.eval.every_steps == 0
        assert (cell.cfg.checkpoint.every_steps, cell.cfg.checkpoint.keep) == (8, 1)
    search, final = plan.searches[1].cfg, plan.finals_of(plan.rows[0], 0.004)[1].cfg
    assert set(differences(search, final)) == {"data.held_out", "train.seed"}
    assert (search.data.held_out, final.data.held_out) == (0.2, 0.0)


def test_the_best_rate_of_each_row_is_used(data: Path, tmp_path: Path) -> None:
    plan = two_rows(data, tmp_path, rates=(0.1, 0.2, 0.3))
    best = {"model.rank=1": 0.2, "model.rank=2": 0.3}
    runner = Recorder(plan.data, lambda cell: by_rate(best[cell.row.name])(cell))
    assert execute(plan, runner, quiet) == 0
    assert {row.name: plan.choose(row) for row in plan.rows} == best
    rates = {cell.row.name: cell.cfg.optim.learning_rate for cell in plan.finals()}
    assert rates == best
    assert runner.started == [
        *(f"{name}/search-{rate}" for name in best for rate in (0.1, 0.2, 0.3)),
        *(f"{name}/seed-{seed}" for name in best for seed in (0, 1)),
    ]


def test_complete_runs_are_not_started_again(data: Path, tmp_path: Path) -> None:
    plan = two_rows(data, tmp_path)
    execute(plan, Recorder(plan.data), quiet)
    again = Recorder(plan.data)
    assert execute(plan, again, quiet) == 0
    assert again.started == []
    more = Recorder(plan.data)
    assert execute(two_rows(data, tmp_path, seeds=3), more, quiet) == 0
    assert more.started == ["model.rank=1/seed-2", "model.rank=2/seed-2"]


def test_one_rate_needs_no_search(data: Path, tmp_path: Path) -> None:
    plan = two_rows(data, tmp_path, rates=(0.1,))
    runner = Recorder(plan.data)
    execute(plan, runner, quiet)
    assert not plan.searches and len(runner.started) == 4
    assert {cell.cfg.optim.learning_rate for cell in plan.finals()} == {0.1}


def test_a_diverged_rate_loses_and_is_not_tried_again(data: Path, tmp_path: Path) -> None:
    plan = two_rows(data, tmp_path, rates=(0.1, 0.2))
    fails = Recorder(plan.data, code=lambda cell: 71 * (cell.name == "search-0.1"))
    assert execute(plan, fails, quiet) == 0
    assert {plan.choose(row) for row in plan.rows} == {0.2}
    assert execute(plan, again := Recorder(plan.data), quiet) == 0
    assert again.started == []


def test_a_row_that_diverges_at_every_rate_has_no_final_run(data: Path, tmp_path: Path) -> None:
    plan, lines = two_rows(data, tmp_path, rates=(0.1, 0.2)), list[str]()

    def code(cell: Cell) -> int:
        return 71 * (cell.is_search and cell.row is plan.rows[0])

    assert execute(plan, Recorder(plan.data, code=code), lines.append) == 71
    assert "model.rank=1: diverged at every rate; lower --rates" in lines
    assert {cell.row.name for cell in plan.finals()} == {"model.rank=2"}


def test_a_failed_run_is_named_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    plan, lines = two_rows(data, tmp_path), list[str]()
    cell = plan.searches[1]
    cell.log.parent.mkdir(parents=True)
    cell.log.write_text("step 1\ngap_jax: error 65: a record is damaged\n")
    codes = {cell.label: 65, "model.rank=2/seed-1": 73}
    runner = Recorder(plan.data, code=lambda each: codes.get(each.label, 0))
    assert execute(plan, runner, lines.append) == 65
    shown = f"[2/6] {cell.label}: ended with 65: gap_jax: error 65: a record is damaged"
    assert shown in lines
    assert len(runner.started) == 8  # the row without a chosen rate has no final run
    assert plan.choose(plan.rows[0]) is None


def test_a_folder_of_another_sweep_is_refused(data: Path, tmp_path: Path) -> None:
    two_rows(data, tmp_path).enter()
    two_rows(data, tmp_path, "data.cache=none", seeds=4).enter()
    for fields, options, problem in (
        (("train.steps=4",), {}, r"rows/model.rank=1/train.steps: 3 -> 4; rows/model.rank=2/"),
        ((), {"rates": (0.1,)}, r"rates/model.rank=1: \[0.00133, 0.004, 0.012\] -> \[0.1\]"),
    ):
        with pytest.raises(ConfigError, match=f"{tmp_path} holds another sweep, {problem}"):
            two_rows(data, tmp_path, *fields, **options).enter()
    with pytest.raises(ConfigError, match=r"kind: 'grid' -> 'ranks'"):
        make_plan(data, tmp_path, "ranks").enter()


def test_a_folder_takes_rows_that_were_left_out(data: Path, tmp_path: Path) -> None:
    some = make_plan(data, tmp_path, "ranks", names=["P=4", "P=2"])
    assert [row.name for row in some.runnable] == ["P=2", "P=4"]
    assert {cell.row.name for cell in some.cells} == {"P=2", "P=4"}
    some.enter()
    make_plan(data, tmp_path, "ranks", names=["P=1"]).enter()
    make_plan(data, tmp_path, "ranks").enter()
    with pytest.raises(ConfigError, match=r"rows/P=1/train.steps: 3 -> 4"):
        make_plan(data, tmp_path, "ranks", "train.steps=4", names=["P=2"]).enter()


def test_a_damaged_or_foreign_folder_is_refused(data: Path, tmp_path: Path) -> None:
    plan = two_rows(data, tmp_path / "out")
    plan.enter()
    (plan.out / SWEEP).write_text("[]")
    with pytest.raises(DataError, match=r"sweep.json is damaged; restore it"):
        plan.enter()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    with pytest.raises(CannotWrite, match=r"run holds a run; choose another --out"):
        two_rows(data, tmp_path / "run").enter()
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"cannot (read|write)"):
        two_rows(data, tmp_path / "file").enter()


def test_lost_metrics_of_a_complete_run_are_named(data: Path, tmp_path: Path) -> None:
    plan = two_rows(data, tmp_path, rates=(0.1,))
    execute(plan, Recorder(plan.data), quiet)
    for path in tmp_path.rglob("metrics.json"):
        path.write_text("{")
    with pytest.raises(DataError, match=r"metrics.json is not readable; remove .*seed-0 to run"):
        plan.finals()[0].read_metrics()


def test_the_plan_is_described_with_its_cost(data: Path, tmp_path: Path) -> None:
    plan = two_rows(data, tmp_path)
    plan = dataclasses.replace(
        plan,
        rows=(
            *plan.rows,
            plan.rows[0]._replace(name="pose", cfg=None, reason="people has no joints"),
        ),
    )
    lines = [*plan.describe()]
    assert lines == [
        "model.rank=1: 3 steps, learning rates 0.00133, 0.004, 0.012",
        "model.rank=2: 3 steps, learning rates 0.00133, 0.004, 0.012",
        "pose: not run: people has no joints",
        "6 runs choose a learning rate, 4 use it: 30 steps, 240 images trained on and 42 evaluated;"
        " 10 of 10 runs are left",
    ]  # 30 x 8; 6 x 3 held out + 4 x 6 of val


def test_maps_are_extracted_once_before_the_runs(data: Path, tmp_path: Path) -> None:
    fields = (
        "data.cache=features", "model.norm=frozen", "optim.frozen=('backbone',)",
        "data.brightness=0.0", "data.feature_views=2", "model.stage=1",
    )  # fmt: skip
    plan = two_rows(data, tmp_path, *fields)
    assert len(plan.list_extractions()) == 2  # random backbones of two seeds
    given = two_rows(data, tmp_path, *fields, "init.weights=drawn_objects")
    (only,) = given.list_extractions()
    assert not only.is_search  # whose held-out images need no maps of val
    assert only.command[1:4] == ["-m", "gap_jax", "features"]
    assert not any("workdir" in word for word in only.command)
    flipped = two_rows(data, tmp_path, *fields, "init.weights=drawn_objects", "data.eval_flip=true")
    assert [each.is_search for each in flipped.list_extractions()] == [False, True]
    overrides = (*fields, "init.weights=drawn_objects")
    spec, over = "gap_pose:rstarcnn,demo", ["data.regions=2,3"]
    regions = make_plan(data, tmp_path, "grid", *overrides, spec=spec, over=over)
    assert len(regions.list_extractions()) == 1  # regions are drawn from the stored boxes
    for values in (
        "data.resize=opencv,legacy", "data.swap_on_flip=true,false",
        "data.feature_views=2,3", "data.feature_dtype=float16,float32", "model.stage=1,2",
    ):  # fmt: skip
        apart = make_plan(data, tmp_path, "grid", *overrides, over=[values])
        assert len(apart.list_extractions()) == 2, values
    runner = Recorder(plan.data, code=lambda cell: 66 * cell.name.startswith("features"))
    assert execute(plan, runner, quiet) == 66
    assert runner.started == [
        "model.rank=1/features-seed-0", "model.rank=1/features-seed-1",
    ]  # fmt: skip


def test_sweep_json_lists_what_determines_the_numbers(data: Path, tmp_path: Path) -> None:
    plan = two_rows(data, tmp_path)
    plan.enter()
    held = json.loads((tmp_path / SWEEP).read_text())
    assert held["data"] == plan.data.fingerprint and held["held_out"] == 0.2
    assert held["rows"]["model.rank=2"]["model.rank"] == 2
    assert "train.seed" not in held["rows"]["model.rank=1"]
