"""The training command with an existing run, and with several labels per image."""

import contextlib
import dataclasses
import json

import pytest

from data_pipelines.core.errors import ConfigError, PeerLost
from gap_jax import cli
from gap_jax.learning.setup import assemble
from gap_jax.runtime.processes import initialise
from gap_jax.runtime.processes.group import Processes
from tests.support.saved_runs import CONFIG, SMALL, prepare_run
from tests.support.step_courses import PEOPLE, configure


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Returns the arguments that evaluate a run with a checkpoint and no evaluation."""
    folder = tmp_path_factory.mktemp("modes")
    run, _ = prepare_run(folder, steps={3: 0.5})
    fields = (*SMALL, f"data.root={folder / 'data'}", "model.stage=2")
    return [
        f"--config={CONFIG}:demo", *(f"--config.{each}" for each in fields),
        f"--workdir={run}", "--mode=evaluate",
    ]  # fmt: skip


@pytest.mark.slow
def test_training_command_evaluates_its_run(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words]) == 0
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"mAP", "accuracy", "top5", "classes", "examples", "ci95"} <= numbers.keys()


def test_only_training_joins_with_saves(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation has no stop flag, so JAX must not take SIGTERM."""
    joined_with_saves: list[bool] = []

    def initialised(*_: object, saves: bool) -> contextlib.AbstractContextManager[Processes]:
        joined_with_saves.append(saves)
        raise PeerLost("no other process")

    monkeypatch.setattr(initialise, "initialised", initialised)
    processes = ["--coordinator=localhost:4321", "--processes=2", "--process=0"]
    for mode in ("evaluate", "train"):
        assert cli.main(["train", *words[:-1], f"--mode={mode}", *processes]) == 76
    assert joined_with_saves == [False, True]


def test_other_arguments_do_not_evaluate_a_run(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words, "--config.train.seed=5"]) == 64
    err = capsys.readouterr().err
    assert "holds a run of another config, train.seed: 0 -> 5" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "field", [("train.label_smoothing", 0.1), ("train.class_weights", "balanced")], ids=str
)
def test_fields_for_single_labels_are_refused_with_several(
    field: tuple[str, object],
) -> None:
    several = dataclasses.replace(PEOPLE, label_kind="multi")
    with pytest.raises(ConfigError, match="are for single labels, and people") as refusal:
        assemble(configure((field,)), several)
    assert "; set train.label_smoothing=0 and train.class_weights=none" in str(refusal.value)
    assemble(configure(), several)


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("train.unknown", "negative", "masked"),
        ("train.positive_weight", 10.0, "1.0"),
        ("eval.unknown", "known_object", "ignored"),
    ],
)
def test_fields_for_several_labels_are_refused_with_one(name: str, value: object, fix: str) -> None:
    with pytest.raises(ConfigError, match="is for several labels of an image, and") as refusal:
        assemble(configure(((name, value),)), PEOPLE)
    assert str(refusal.value).endswith(f"; set {name}={fix}")
    assemble(configure(((name, value),)), dataclasses.replace(PEOPLE, label_kind="multi"))
