"""The run's folder: its files, and which starts may continue the run."""

import copy
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.config import DATASETS
from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, CheckpointError, ConfigError, Refusal
from data_pipelines.manifest import Manifest, Split
from gap_jax.config import Config
from gap_jax.runtime.run_folder import (
    Opening,
    RunFolder,
    enter,
    examine,
    load_classes,
    load_config,
)
from tests.support.other_values import COMPANIONS, LEAVES
from tests.support.saved_states import finish

CLASSES = ("jumping", "résumé, reading", "模型を見る", "waiting")
ENVIRONMENT = {"versions": {"jax": "0"}, "command": "python -m gap_jax.main"}

MAY_CHANGE = {
    "data.root", "data.cache", "data.workers", "train.steps", "train.log_every_steps",
    "eval.every_steps", "eval.batch_size", "checkpoint.every_steps", "checkpoint.keep", "mesh.fsdp",
    "model.remat", "runtime.compile_cache", "runtime.profile_start_step", "runtime.profile_steps",
    "train.early_stop_evals", "runtime.start_within_s", "runtime.stuck_after_s",
}  # fmt: skip


def people(classes: tuple[str, ...] = CLASSES, examples: int = 10) -> Manifest:
    counts = tuple(range(1, len(classes) + 1))
    splits = {
        name: Split(size, size, size // 2, counts, "", ())
        for name, size in (("train", examples), ("val", 4))
    }
    return Manifest("people", "single", classes, 2, splits, {})


def config(**values: Any) -> Config:
    cfg = Config()
    for name, value in values.items():
        group, _, field = name.partition("__")
        setattr(getattr(cfg, group), field, value)
    return cfg.resolved()


def start(folder: Path, cfg: Config | None = None, data: Manifest | None = None) -> Opening:
    opening = enter(folder, cfg or config(), data or people(), ENVIRONMENT)
    RunFolder(folder).step_log.write_text('{"step": 1}\n', "utf-8")  # a step was taken
    return opening


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every default; tests read it and do not change it."""
    folder = tmp_path_factory.mktemp("runs") / "ünï 模型 #%'"
    start(folder)
    return folder


def test_fresh_run_writes_its_description(begun: Path) -> None:
    run = RunFolder(begun)
    assert load_config(run) == config()
    assert load_classes(run) == CLASSES
    assert "模型を見る" in run.classes.read_text("utf-8")
    rows = json.loads(run.classes.read_text("utf-8"))["classes"]
    assert rows[2] == {"name": "模型を見る", "train": 3, "val": 3}
    story = json.loads(run.record.read_text("utf-8"))
    assert story["fingerprint"] == people().fingerprint
    assert story["format_version"] == 1
    (attempt,) = story["attempts"]
    assert attempt["command"] == ENVIRONMENT["command"]
    assert attempt["data"] == str(Path("data/mpii").absolute())


@pytest.mark.parametrize("name", LEAVES)
def test_every_field_is_accepted_or_refused_by_name(begun: Path, name: str) -> None:
    group, _, field = name.partition(".")
    companions = COMPANIONS.get(name, {})
    cfg = config(**{f"{group}__{field}": LEAVES[name]}, **companions)
    old = getattr(getattr(Config(), group), field)
    line = f"{name}: {old!r} -> {LEAVES[name]!r}"
    if name in MAY_CHANGE:
        assert examine(begun, cfg, people()).changes == {name: line}
    else:
        more = ".*" if companions else ""
        with pytest.raises(
            ConfigError, match=f"another config, {more}{re.escape(line)}; {more}use its"
        ):
            examine(begun, cfg, people())


def test_refusal_names_every_changed_field(begun: Path) -> None:
    cfg = config(train__seed=7, optim__momentum=0.5, train__log_every_steps=3)
    with pytest.raises(ConfigError) as refusal:
        examine(begun, cfg, people())
    assert "optim.momentum: 0.9 -> 0.5; train.seed: 0 -> 7; use" in str(refusal.value)
    assert "log_every" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_steps_only_grow_and_not_under_a_cosine(begun: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"12000 -> 11999 \(it may only grow\)"):
        examine(begun, config(train__steps=11_999), people())
    start(tmp_path, config(optim__schedule="cosine"))
    with pytest.raises(ConfigError, match=r"train.steps: 12000 -> 12001 \(the cosine depends"):
        examine(tmp_path, config(optim__schedule="cosine", train__steps=12_001), people())


def test_fields_that_were_ignored_before_are_read_as_defaults(tmp_path: Path) -> None:
    start(tmp_path, config(model__pooling="attention"))
    run = RunFolder(tmp_path)
    content = json.loads(run.config.read_text("utf-8"))
    content["model"] |= {"T": 2, "widths": [128, 64], "sketch_features": 9}
    run.config.write_text(json.dumps(content), "utf-8")
    assert load_config(run) == config(model__pooling="attention")
    assert not start(tmp_path, config(model__pooling="attention")).is_new


def test_second_start_is_another_attempt_with_its_changes(tmp_path: Path) -> None:
    assert start(tmp_path).is_new
    cfg = config(train__steps=13_000, data__root="elsewhere")
    opening = start(tmp_path, cfg)
    assert not opening.is_new
    run = RunFolder(tmp_path)
    assert load_config(run) == cfg
    attempts = json.loads(run.record.read_text("utf-8"))["attempts"]
    assert [each["config_changes"] for each in attempts] == [
        [],
        ["data.root: '' -> 'elsewhere'", "train.steps: 12000 -> 13000"],
    ]
    assert attempts[1]["data"] == str(Path("elsewhere").absolute())


def test_complete_run_is_recognised_and_may_be_prolonged(tmp_path: Path) -> None:
    start(tmp_path)
    run = RunFolder(tmp_path)
    finish(run, 9_000)  # stopped early
    before = contents(tmp_path)
    assert start(tmp_path).completed_step == 9_000
    assert contents(tmp_path) == before
    longer = config(train__steps=13_000)
    assert start(tmp_path, longer).completed_step is None
    assert start(tmp_path, longer).completed_step is None
    finish(run, 13_000)
    assert start(tmp_path, longer).completed_step == 13_000


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ((*CLASSES[:1], *CLASSES[2:], CLASSES[1]), "'résumé, reading' moved from 1 to 3, "),
        (CLASSES[1:], "'jumping' is gone, 'résumé, reading' moved from 1 to 0, "),
        (("a", *CLASSES), "'a' is new, 'jumping' moved from 0 to 1"),
        (tuple(f"class {k}" for k in range(50)), "is gone, 'class 0' is new and 49 more"),
    ],
)  # fmt: skip
def test_other_classes_are_refused_by_name(
    begun: Path, classes: tuple[str, ...], line: str
) -> None:
    with pytest.raises(CheckpointError, match=line) as refusal:
        examine(begun, config(), people(classes))
    assert refusal.value.exit_code == 66
    assert "\n" not in str(refusal.value)


def test_other_data_with_the_same_classes_is_refused(begun: Path, tmp_path: Path) -> None:
    other = people(examples=11)
    line = f"fingerprint {people().fingerprint} and these have {other.fingerprint}"
    with pytest.raises(CheckpointError, match=line):
        examine(begun, config(), other)
    start(tmp_path)
    run = RunFolder(tmp_path)
    run.classes.unlink()
    with pytest.raises(CheckpointError, match=line):
        start(tmp_path, data=other)


def test_folder_that_is_no_run_stays_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CannotWrite, match=r"no run and stays untouched; choose another --workdir"):
        start(tmp_path)
    assert list(contents(tmp_path)) == [str(tmp_path / "thesis.tex")]
    with pytest.raises(CannotWrite, match=r"thesis\.tex"):
        start(tmp_path / "thesis.tex")
    repository = tmp_path / "repository"
    (repository / ".git").mkdir(parents=True)
    with pytest.raises(CannotWrite, match="no run"):
        start(repository)


def test_lock_and_partial_files_do_not_prevent_a_start(tmp_path: Path) -> None:
    for name in (".lock", ".abc.partial"):
        (tmp_path / name).write_text("")
    assert start(tmp_path).is_new


@pytest.mark.parametrize("writes", range(4))
def test_start_continues_after_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    monkeypatch.setattr(files, "write_atomically", killed_at(writes))
    with pytest.raises(KeyboardInterrupt) if writes < 3 else nullcontext():
        start(tmp_path)
    monkeypatch.undo()
    start(tmp_path)
    run = RunFolder(tmp_path)
    assert load_classes(run) == CLASSES
    finish(run, 12_000)
    longer = config(train__steps=13_000)
    monkeypatch.setattr(files, "write_atomically", killed_at(writes))
    with pytest.raises(KeyboardInterrupt) if writes < 3 else nullcontext():
        start(tmp_path, longer)
    monkeypatch.undo()
    assert start(tmp_path, longer).completed_step is None
    assert load_config(run) == longer


def killed_at(writes: int) -> Callable[[Path, str], None]:
    left = [None] * writes
    write = files.write_atomically

    def write_or_die(path: Path, content: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        write(path, content)

    return write_or_die


@pytest.mark.parametrize("name", ["config.json", "classes.json", "run.json"])
@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format_version": 2}', '{"format_version": 1, "x": 1}', "\xff"]
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str) -> None:
    start(tmp_path)
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(Refusal, match=rf"{name} (cannot be used|is not a config)") as refusal:
        start(tmp_path)
    assert refusal.value.exit_code == 66


def test_config_without_a_newer_field_is_read(tmp_path: Path) -> None:
    start(tmp_path)
    run = RunFolder(tmp_path)
    content = json.loads(run.config.read_text("utf-8"))
    del content["optim"]["clip_norm"], content["mesh"]
    run.config.write_text(json.dumps(content))
    assert load_config(run) == config()
    for group, name in (("optim", "learnin_rate"), ("train", "steps")):
        broken = copy.deepcopy(content)
        broken[group][name] = -1
        run.config.write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match=rf"config.json is not a config .*{name}"):
            load_config(run)


def test_every_data_set_can_be_started(tmp_path: Path) -> None:
    for name in DATASETS:
        start(tmp_path / name, config(data__name=name))
        with pytest.raises(ConfigError, match=f"data.name: '{name}' -> "):
            start(tmp_path / name, config(data__name=DATASETS[DATASETS.index(name) - 1]))


def test_attempt_without_a_step_allows_another_config(tmp_path: Path) -> None:
    enter(tmp_path, config(), people(), ENVIRONMENT)
    run = RunFolder(tmp_path)
    run.first_batch.parent.mkdir()
    run.first_batch.write_bytes(b"of another config")
    other = config(pose__kernel_size=3)
    opening = enter(tmp_path, other, people(), ENVIRONMENT)
    assert opening.is_new and load_config(run) == other
    assert not run.first_batch.exists()


def test_early_stopping_fixes_evaluation_steps(tmp_path: Path) -> None:
    start(tmp_path, config(train__early_stop_evals=3))
    patient = config(train__early_stop_evals=5)
    assert len(examine(tmp_path, patient, people()).changes) == 1
    with pytest.raises(ConfigError, match=r"eval.every_steps: 1000 -> 500 \(train.early"):
        examine(tmp_path, config(train__early_stop_evals=3, eval__every_steps=500), people())
    finish(RunFolder(tmp_path), 400)
    assert start(tmp_path, patient).completed_step is None, "more patience goes on"
