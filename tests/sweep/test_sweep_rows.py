"""The rows of each kind of sweep, the values of --over, and what is refused by name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from data_pipelines import manifest
from data_pipelines.core.errors import ConfigError
from data_pipelines.manifest import Manifest
from gap_jax.config import Config, differences
from gap_jax.flags import read_config, spell_overrides
from gap_jax.sweep import rows as rows_module
from gap_jax.sweep.rows import KINDS, POSE_WEIGHTS, REDUCTIONS, TABLE1, Row, make_rows, parse_over
from tests.support.swept import SIZES, SPEC, words_of
from tests.support.tiny_data import prepare_tiny_people


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("rows") / "data"
    prepare_tiny_people(data, sizes=SIZES)
    return data


@pytest.fixture(scope="module")
def stated(folder: Path) -> Manifest:
    return manifest.load(folder)


def config_of(row: Row) -> Config:
    assert row.cfg
    return row.cfg


def rows_of(
    folder: Path, stated: Manifest, kind: str, *fields: str, **options: Any
) -> dict[str, Any]:
    over = [parse_over(each) for each in options.get("over", ())]
    spec = str(options.get("spec", SPEC))
    return {row.name: row for row in make_rows(kind, spec, words_of(folder, *fields), stated, over)}


def without_joints(data: Manifest) -> Manifest:
    splits = {name: dataclasses.replace(it, with_joints=0) for name, it in data.splits.items()}
    return dataclasses.replace(data, splits=splits)


def test_table_has_the_methods_of_the_config_parts(folder: Path, stated: Manifest) -> None:
    rows = rows_of(folder, stated, "table1")
    assert list(rows) == list(TABLE1)
    words = [word for word in words_of(folder) if "widths" not in word]
    for name in ("mean", "max", "attention", "attention_pose"):
        expected = read_config(f"gap_pose:{name},demo", words)
        assert not differences(expected, config_of(rows[name])), name
    control = differences(
        config_of(rows["attention_pose"]), config_of(rows["attention_pose_weight0"])
    )
    assert control == {"pose.weight": "pose.weight: 0.1 -> 0.0"}
    reading = differences(config_of(rows["gap"]), config_of(rows["gap_weight_space"]))
    assert set(reading) == {"model.space", "model.gate_init"}
    assert config_of(rows["gap"]).model.widths == (8, 4)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("data.regions=4", {"rstarcnn"}),
        ("model.region_side=3", {"rcnn", "rstarcnn", "attention_people"}),
        ("model.over_people=mean", {"rcnn", "rstarcnn", "attention_people"}),
        ("model.region_grow=1.2", {"attention_people"}),
    ],
)
def test_overrides_of_boxes_reach_the_rows_that_read_them(
    field: str, expected: set[str], folder: Path, stated: Manifest
) -> None:
    group, name = field.partition("=")[0].split(".")
    plain, changed = rows_of(folder, stated, "table1"), rows_of(folder, stated, "table1", field)
    assert not [row.reason for row in changed.values() if row.cfg is None]
    found = {
        row
        for row in changed
        if getattr(getattr(config_of(changed[row]), group), name)
        != getattr(getattr(config_of(plain[row]), group), name)
    }
    assert found == expected


def test_rows_that_read_boxes_are_only_quoted_where_they_are_refused(
    folder: Path, stated: Manifest
) -> None:
    rows = rows_of(folder, stated, "table1", "data.eval_flip=true")
    quoted = {name: row.reason for name, row in rows.items() if row.cfg is None}
    assert list(quoted) == ["rcnn", "rstarcnn", "attention_people"]
    assert all("data.eval_flip=true" in reason for reason in quoted.values())
    rows = rows_of(folder, dataclasses.replace(stated, max_people=0), "table1")
    reason = "no image of people has people"
    assert {name: row.reason for name, row in rows.items() if row.cfg is None} == dict.fromkeys(
        quoted, reason
    )
    names = ("train", "val", "test")
    splits = dict.fromkeys(names, stated.splits["train"])
    video = dataclasses.replace(stated, name="hmdb51", frames=25, splits=splits)
    words = [f"--config.data.root={folder}"]
    rows = {row.name: row for row in make_rows("table1", "hmdb51", words, video)}
    assert [name for name, row in rows.items() if row.cfg is None] == list(quoted)


def test_pose_rows_without_joints_are_only_listed(folder: Path, stated: Manifest) -> None:
    rows = rows_of(folder, without_joints(stated), "table1")
    quoted = {name: row.reason for name, row in rows.items() if row.cfg is None}
    assert list(quoted) == ["attention_pose_weight0", "attention_pose", "gap_pose"]
    assert set(quoted.values()) == {"people has no joints"}


def test_joints_are_those_of_the_split_that_a_row_trains_on(
    folder: Path, stated: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = dataclasses.replace(stated.splits["train"], with_joints=0)
    data = dataclasses.replace(stated, splits={**stated.splits, "train": blind})
    monkeypatch.setattr(rows_module, "POSE_WEIGHTS", (1.0,))
    for kind, spec in (("table1", SPEC), ("fig2", "gap_pose:attention_pose,demo")):
        seen = rows_of(folder, data, kind, "data.train_split=val", spec=spec)
        assert all(row.cfg for row in seen.values())
        rows = rows_of(folder, data, kind, spec=spec)
        assert {row.reason for row in rows.values() if not row.cfg} == {"people has no joints"}
    over = ["data.train_split=train,val"]
    train, val = rows_of(folder, data, "grid", over=over).values()
    assert not train.cfg and val.cfg
    with pytest.raises(ConfigError, match=r"^row data.train_split=all: people has no split 'all'"):
        rows_of(folder, data, "grid", over=["data.train_split=train,all"])


@pytest.mark.parametrize(
    ("kind", "fields", "over", "problem"),
    [
        (
            "table1",
            ("model.space=weight", "model.gate_init=paper"),
            (),
            r"^rows gap and gap_weight_space are the same run; leave out the override that makes ",
        ),
        ("table1", ("pose.weight=0",), (), r"^rows attention_pose_weight0 and attention_pose are "),
        (
            "grid",
            (),
            ["eval.every_steps=1,2"],
            r", as no number depends on eval.every_steps; leave out one of them$",
        ),
        ("grid", (), ["optim.warmup_steps=1,01"], r"^rows \S+=1 and \S+=01 are the same run; "),
        (
            "grid",
            ("train.steps=3",),
            ["train.epochs=1,4,5"],  # 15 images in batches of 8: 2, 8 and 10 steps
            r"^rows train.epochs=4 and train.epochs=5 are the same run, as no number depends on ",
        ),
        ("grid", (), ["init.weights=a b,a_b"], r"^two rows are named init.weights=a_b; "),
    ],
)
def test_rows_that_would_be_the_same_run_are_refused(
    folder: Path,
    stated: Manifest,
    kind: str,
    fields: tuple[str, ...],
    over: list[str],
    problem: str,
) -> None:
    with pytest.raises(ConfigError, match=problem):
        rows_of(folder, stated, kind, *fields, over=over)


def test_pose_weights_are_swept_for_each_reduction(
    folder: Path, stated: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(folder, stated, "fig2")
    found = [(row.cfg.pose.reduction, row.cfg.pose.weight) for row in rows.values()]
    assert found == [(each, weight) for each in REDUCTIONS for weight in POSE_WEIGHTS]
    assert tuple(pytest.approx(10.0**-power) for power in range(9)) == POSE_WEIGHTS
    assert {row.cfg.model.pooling for row in rows.values()} == {"gap"}
    monkeypatch.setattr(rows_module, "POSE_WEIGHTS", (1.0,))
    swept = rows_of(folder, stated, "fig2", spec="gap_pose:attention_pose,demo")
    assert {row.cfg.model.pooling for row in swept.values()} == {"attention"}
    other = rows_of(folder, stated, "fig2", spec="gap_pose:mean,demo")
    assert all(row.cfg.model.pooling == "gap" and row.cfg.pose.branch for row in other.values())


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ("(8,4)", [(), (8,), (8, 4), (8, 4, 2), (8, 4, 2, 1), (8, 4, 2, 1, 1)]),
        ("()", [()] * 6),
    ],
)
def test_layers_halve_the_first_width(
    folder: Path, stated: Manifest, widths: str, expected: list[tuple[int, ...]]
) -> None:
    rows = rows_of(folder, stated, "fig3", f"model.widths={widths}")
    assert [row.cfg.model.T for row in rows.values()] == list(range(6))
    assert [row.cfg.model.widths for row in rows.values()] == expected
    assert not any(row.cfg.pose.branch for row in rows.values())


def test_ranks(folder: Path, stated: Manifest) -> None:
    rows = rows_of(folder, stated, "ranks")
    assert {name: row.cfg.model.rank for name, row in rows.items()} == {
        f"P={rank}": rank for rank in range(1, 6)
    }
    assert {row.cfg.model.pooling for row in rows.values()} == {"attention"}


def test_grid_is_the_product(folder: Path, stated: Manifest) -> None:
    over = ["model.T=1,2", "model.widths=(),(4,2)"]
    fine = ["model.T=2", "model.widths=(),(4,2)", "optim.name=sgd,adamw"]
    with pytest.raises(ConfigError, match=r"^row model.T=1,model.widths=_4,2_: model.widths=\(4,"):
        rows_of(folder, stated, "grid", over=over)
    rows = rows_of(folder, stated, "grid", over=fine)
    found = [(row.cfg.model.widths, row.cfg.optim.name) for row in rows.values()]
    assert found == [((), "sgd"), ((), "adamw"), ((4, 2), "sgd"), ((4, 2), "adamw")]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "grid"])
def test_overrides_spell_the_config(
    folder: Path, stated: Manifest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "POSE_WEIGHTS", (1e-8,))
    for row in rows_of(folder, stated, kind, "optim.frozen=('backbone',)").values():
        again = read_config(row.spec, spell_overrides(row.base, row.cfg))
        assert not differences(row.cfg, again)


def test_published_values_only_stand_beside_their_data_and_metric(
    folder: Path, stated: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = dataclasses.replace(stated, name="mpii")
    rows = rows_of(folder, paper, "table1")
    assert rows["mean"].published == 26.2 and rows["gap_pose"].published == 31.6
    assert rows["max"].published is None
    assert rows["rcnn"].published == 16.5 and rows["rstarcnn"].published == 21.7
    rows = rows_of(folder, dataclasses.replace(paper, format_version=1), "table1")
    reason = "the records of mpii have no boxes of people"
    assert rows["rstarcnn"] == Row("rstarcnn", rows["rstarcnn"].spec, None, reason, 21.7)
    assert [name for name, row in rows.items() if row.cfg is None] == [
        "rcnn", "rstarcnn", "attention_people",
    ]  # fmt: skip
    assert [
        row.published for row in rows_of(folder, paper, "ranks").values()
    ] == [30.3, 29.2, None, None, 30.0]  # fmt: skip
    monkeypatch.setattr(rows_module, "RANKS", (1, 2))
    for data, field in (
        (stated, "eval.batch_size=8"),
        (paper, "data.eval_split=train"),
        (paper, "eval.average_precision=step"),
        (paper, "eval.max_examples=3"),
    ):
        other = rows_of(folder, data, "ranks", field)
        assert not any(row.published for row in other.values()), field
        assert list(other) == ["P=1", "P=2"]


def test_a_refused_config_names_its_row(folder: Path, stated: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"^row mean: train.batch_size=9 cannot be divided"):
        rows_of(folder, stated, "table1", "train.batch_size=9", "train.accumulate=2")
    with pytest.raises(ConfigError, match=r"^row mean: model.pooling=max would replace the row's"):
        rows_of(folder, stated, "table1", "model.pooling=max")


def test_a_file_without_methods_is_refused(folder: Path, stated: Manifest, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from gap_jax.config import Config\n\ndef get_config(parts=''):\n    return Config()\n"
    )
    message = rf"^row mean: {file} does not take the method mean as its part; "
    with pytest.raises(ConfigError, match=message):
        rows_of(folder, stated, "table1", spec=str(file))
    fields = ("model.widths=(4,4,2)", "pose.branch=false")  # no widths where none are read
    rows = rows_of(folder, stated, "grid", *fields, spec=str(file), over=["model.pooling=mean,gap"])
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model.TT=1", r"config has no field 'model.TT'; did you mean 'model.T'"),
        ("model.T", r"--over model.T must be FIELD=VALUE,VALUE"),
        ("model.T=1,", r"--over model.T=1, must be FIELD=VALUE,VALUE"),
        ("model.T=1,1", r"--over model.T=1,1 names a value twice"),
        ("optim.learning_rate=1", r"a sweep chooses optim.learning_rate; use --rates"),
        ("train.seed=1", r"a sweep chooses train.seed; use --seeds"),
    ],
)
def test_a_wrong_field_of_a_grid_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_over(text)


def test_commas_in_brackets_separate_no_values() -> None:
    assert parse_over("model.widths=(8,4),(2,),()") == ("model.widths", ("(8,4)", "(2,)", "()"))
