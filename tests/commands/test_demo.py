"""The demo on tiny people: training, report, resumption, and the commands that it prints."""

import functools
from pathlib import Path

import pytest

from gap_jax import cli, demo
from gap_jax.flags import read_config
from gap_jax.runtime.run_folder import RunFolder
from tests.campaigns import notebook
from tests.support.saved_runs import SMALL
from tests.support.tiny_data import names_in, prepare_tiny_people

TINY = [
    f"--config.{each}"
    for each in (*SMALL, "model.stage=1", "init.weights=", "init.allow_random=True",
                 "optim.warmup_steps=0", "train.steps=2", "eval.every_steps=2")
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepares people in the folder of the demo."""
    folder = tmp_path_factory.mktemp("demo")
    prepare_tiny_people(folder / "people")
    return folder


def run_demo(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    paths = ["--out", str(folder / "runs"), "--data", str(folder / "people")]
    assert cli.main(["demo", "--quick", *paths, *words, *TINY]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_demo_trains_and_reports_and_repeats_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_once = functools.cache(demo.write_report)  # a second page is the same
    monkeypatch.setattr(demo, "write_report", lambda roots, *rest: write_once(tuple(roots), *rest))
    before = names_in(folder / "people")
    printed = run_demo(folder, capsys)
    assert names_in(folder / "people") == before  # they may be read-only
    assert (folder / "runs" / "contact_sheet.html").is_file()
    run = RunFolder(folder / "runs" / "gap_pose")
    assert (folder / "runs" / "report-quick.html").stat().st_size > 0
    for stage in ("[1/4] draw and", "[2/4] check", "[3/4] train gap_pose", "[4/4] report"):
        assert stage in printed
    end = printed.rpartition("[4/4]")[2]
    assert "mAP" in end and "s in all: draw and" in end
    commands = [line.split() for line in end.splitlines() if line.startswith("  gap_jax")]
    assert len(commands) > 2 and all(words[1] in cli.COMMANDS for words in commands)
    step_log = run.step_log.read_bytes()
    assert "is complete at step 2" in run_demo(folder, capsys)
    assert run.step_log.read_bytes() == step_log


@pytest.mark.slow
def test_the_notebook_runs_on_the_demo(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_demo(folder, capsys)
    for name, target in {"runs/demo": "runs", "data/people": "people"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(folder / target)
    monkeypatch.chdir(tmp_path)
    cells = notebook.read_cells()
    stored = [[list(each.get("data", ())) for each in cell.get("outputs", ())] for cell in cells]
    notebook.execute(cells)
    found = [[list(each.get("data", ())) for each in cell.get("outputs", ())] for cell in cells]
    assert found == stored and notebook.PAGE.stat().st_size < 600_000


def test_every_head_has_its_own_config() -> None:
    for heads, _, _ in (demo.QUICK, demo.DEFAULT, demo.FULL):
        configs = [
            read_config(spec, [f"--config.{each}" for each in overrides])
            for spec, overrides in map(demo.describe_head, heads)
        ]
        assert all(cfg.train.steps == configs[0].train.steps for cfg in configs)
        assert all(cfg.init.weights == "drawn_objects" for cfg in configs)
        assert len({repr(cfg) for cfg in configs}) == len(heads)


def test_two_scales_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--quick", "--full"]) == 64
    assert "not allowed with" in capsys.readouterr().err
