"""The training command with a run that is there already, and with data it cannot use as asked."""

import contextlib
import dataclasses
import json

import pytest

from gap_jax import cli
from gap_jax.errors import ConfigError, PeerLost
from gap_jax.learning.setup import assemble
from gap_jax.runtime.processes import initialise
from gap_jax.runtime.processes.group import Processes
from tests.support.saved_runs import CONFIG, SMALL, prepare_run
from tests.support.step_courses import PEOPLE, configure


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What evaluates a run that has a checkpoint and no evaluation."""
    folder = tmp_path_factory.mktemp("modes")
    run, _ = prepare_run(folder, steps={3: 0.5})
    fields = (*SMALL, f"data.root={folder / 'data'}", "model.stage=2")
    return [
        f"--config={CONFIG}:demo", *(f"--config.{each}" for each in fields),
        f"--workdir={run}", "--mode=evaluate",
    ]  # fmt: skip


def test_a_run_is_evaluated_by_the_words_that_train_it(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words]) == 0
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"mAP", "accuracy", "top5", "classes", "examples", "ci95"} <= numbers.keys()


def test_what_trains_alone_hears_sigterm_in_its_steps(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation asks nobody whether to stop, so it may not leave SIGTERM to JAX."""
    asked: list[bool] = []

    def initialised(*_: object, saves: bool) -> contextlib.AbstractContextManager[Processes]:
        asked.append(saves)
        raise PeerLost("nobody came")

    monkeypatch.setattr(initialise, "initialised", initialised)
    processes = ["--coordinator=localhost:4321", "--processes=2", "--process=0"]
    for mode in ("evaluate", "train"):
        assert cli.main(["train", *words[:-1], f"--mode={mode}", *processes]) == 76
    assert asked == [False, True]


def test_other_words_do_not_evaluate_it(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words, "--config.train.seed=5"]) == 64
    said = capsys.readouterr().err
    assert "holds a run of another config, train.seed: 0 -> 5" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "field", [("train.label_smoothing", 0.1), ("train.class_weights", "balanced")], ids=str
)
def test_what_is_for_single_labels_is_refused_where_there_are_several(
    field: tuple[str, object],
) -> None:
    several = dataclasses.replace(PEOPLE, label_kind="multi")
    with pytest.raises(ConfigError, match="are for single labels, and people has several") as said:
        assemble(configure((field,)), several)
    assert "; set train.label_smoothing=0 and train.class_weights=none" in str(said.value)
    assemble(configure(), several)
