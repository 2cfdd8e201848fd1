"""Command lines: exit codes, one line on stderr, help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.config import DATASETS
from gap_jax import __version__, cli
from gap_jax.commands.train import PREPARE, name_workdir
from tests.support.tiny_data import prepare_tiny_people

ROOT = Path(__file__).parents[2]
GAP_POSE = f"--config={ROOT / 'configs/gap_pose.py'}"


def type_command(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs python -m in a new process."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line on stderr, from its exit code on."""
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("gap_jax: error ")
    return lines[0].partition(": error ")[2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "64: no --config=FILE was given"),
        ([GAP_POSE, "--config.train.steps=abc"], "64: train.steps='abc' is not of type int"),
        ([GAP_POSE, "--config.train.steps=-5"], "64: train.steps=-5 is out of range"),
        ([GAP_POSE, "--config.optim.learning_rate=nan"], "64: optim.learning_rate=nan is not"),
        ([GAP_POSE, "--config.optim.learnin_rate=1"],
         "64: config has no field 'optim.learnin_rate'; did you mean 'optim.learning_rate'?"),
        ([GAP_POSE, "stray"], "64: unknown argument 'stray'"),
        ([GAP_POSE, "--config.train.steps=1", "--config.train.steps=2"],
         "64: --config.train.steps is given twice"),
        (["--config.train.steps=1", GAP_POSE], "64: --config.train.steps comes before --config"),
        ([GAP_POSE, "--mode=trian"], "64: --mode=trian"),
        ([GAP_POSE, "--wrkdir=x"], "64: unknown flag --wrkdir; did you mean 'workdir'?"),
        ([GAP_POSE, "--workdir=gs://bucket/run"],
         "64: gs://bucket/run needs a package that is not installed: pip install 'gap_jax[gcs]'"),
        ([GAP_POSE, "--workdir=cloud://bucket/run"],
         "64: cloud://bucket/run cannot hold checkpoints"),
        ([GAP_POSE, "--workdir=memory://"], "64: memory:// cannot hold checkpoints"),
        (["--config=configs/gap_pos.py"], "64: config file configs/gap_pos.py does not exist; "
         "did you mean 'configs/gap_pose.py'?"),
        ([f"{GAP_POSE}:demoo"], "64: config variant 'demoo' is unknown; did you mean 'demo'?"),
    ],
)  # fmt: skip
def test_main_refuses_in_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["train", *words]) == 64
    assert refusal(capsys).startswith(line)


@pytest.mark.slow
def test_main_in_a_new_process(tmp_path: Path) -> None:
    done = type_command(
        "gap_jax.main", GAP_POSE, "--config.data.area_range=(0.1,0.2,0.3)", cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr == (
        "gap_jax: error 64: data.area_range=(0.1, 0.2, 0.3) has 3 values; it takes 2\n"
    )


@pytest.mark.slow
def test_main_without_data_prints_the_command_to_prepare_it(tmp_path: Path) -> None:
    done = type_command("gap_jax.main", GAP_POSE, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (65, "", 1)
    for hint in (PREPARE["mpii"], PREPARE["people"], "--config=configs/gap_pose.py:demo"):
        assert hint in done.stderr


@pytest.mark.parametrize("name", DATASETS)
def test_proposed_commands_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = PREPARE[name].split()
    assert words[0] == "gap_jax"
    assert cli.main([*words[1:4], "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in words if word.startswith("--"))


@pytest.mark.parametrize(
    ("name", "out"),
    [
        *((name, f"data/{name}") for name in DATASETS if name != "hmdb51"),
        ("hmdb51", "data/hmdb51_splitN"),
    ],
)
def test_help_describes_a_data_set_and_shows_its_folder(
    name: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "prepare", name, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert " Draws " in printed or " Reads " in printed
    assert f"--out DIR folder of the records; {out} " in printed


def test_wrong_or_missing_data_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_tiny_people(tmp_path / "people")
    words = [f"--config.data.root={tmp_path / 'people'}", f"--workdir={tmp_path / 'run'}"]
    capsys.readouterr()
    assert cli.main(["train", f"{GAP_POSE}:mean,objects", *words]) == 64
    assert f"holds people; use {GAP_POSE}:people,mean, set data.name" in refusal(capsys)
    assert cli.main(["train", f"{GAP_POSE}:demo", *words, "--config.data.eval_split=vall"]) == 65
    assert "has no split 'vall'; it has train, val" in refusal(capsys)
    assert (
        cli.main(["train", f"{GAP_POSE}:demo", *words, "--config.init.weights=absent.safetensors"])
        == 66
    )
    assert "absent.safetensors" in refusal(capsys)
    shard = next((tmp_path / "people").rglob("*val.array_record*"))
    shard.unlink()
    assert cli.main(["train", f"{GAP_POSE}:demo", *words]) == 65
    assert f"shard {shard} is missing" in refusal(capsys)
    assert not (tmp_path / "run").exists()


def test_default_workdir_is_named_after_the_config() -> None:
    assert name_workdir("configs/gap_pose.py") == "runs/gap_pose"
    assert name_workdir("a/gap_pose.py:attention,demo") == "runs/gap_pose-attention-demo"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "64: no command was given"),
        (["dta"], "64: unknown command 'dta'; did you mean 'data'?"),
        (["data"], "64: the following arguments are required: ACTION"),
        (["data", "prepare", "peopel"], "64: argument NAME: invalid choice: 'peopel'"),
        (["data", "prepare", "people", "--seed=-1"], "64: argument --seed: -1 must be 0 or more"),
        (["data", "prepare", "people", "--val=0"], "64: argument --val: 0 must be 1 or more"),
        (["data", "prepare", "people", "--seed=x"], "64: argument --seed: invalid"),
        (
            ["data", "prepare", "people", "--sed=1"],
            "64: unknown argument '--sed=1'; did you mean '--seed'?",
        ),
        (
            ["predict", "a.jpg", "--modle", "runs/a", "--", "--b"],
            "64: unknown argument '--modle'; did you mean '--model'?",
        ),
        (
            ["predict", "a.jpg", "--", "--modle"],
            "64: the following arguments are required: --model",
        ),
        (["predict", "--zzz"], "64: unknown argument '--zzz'; see gap_jax predict --help"),
        (
            ["data", "show", "/nowhere", "--confg=x", "--config.data.seed=1"],
            "64: unknown argument '--confg=x'; did you mean '--config'?",
        ),
        (["data", "prepare", "people", "--config.data.name=x"], "64: unknown argument '--config"),
        (["data", "prepare", "mpii"], "64: the following arguments are required: --annotations"),
        (["data", "check", "/nowhere/at/all"], "65: no prepared data in /nowhere/at/all"),
        (
            ["data", "show", "/nowhere", GAP_POSE, "--config.data.bright=1"],
            "64: config has no field",
        ),
        (["config", "show", "configs/none.py"], "64: config file configs/none.py does not exist"),
        (["config", "shw", "x"], "64: argument action: invalid choice: 'shw'"),
    ],
)
def test_commands_refuse_in_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(words)
    message = refusal(capsys)
    assert message.startswith(line)
    assert message.startswith(f"{code}:")
    assert "'shw'" not in message or message.endswith("; did you mean 'show'?")


def test_a_near_data_set_is_proposed_and_help_takes_typing_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["data", "prepare", "foldr"]) == 64
    assert refusal(capsys).endswith("; did you mean 'folder'?")
    assert cli.main(["predict", "--modle", "--help"]) == 0
    assert "--model MODEL" in capsys.readouterr().out


def test_missing_mpii_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "prepare", "mpii", "--annotations", str(tmp_path / "a.mat")]
    words += ["--images", str(tmp_path), "--splits", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 65
    assert str(tmp_path / "a.mat") in refusal(capsys)
    assert list(tmp_path.iterdir()) == []


def test_config_commands(capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"{ROOT / 'configs/gap_pose.py'}:attention"
    assert cli.main(["config", "show", spec, "--config.train.steps=7"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["steps"] == 7
    assert cli.main(["config", "diff", spec, "--against", spec.replace(":attention", ":mean")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "model.pooling: 'mean' -> 'attention'",
        "model.dropout: 0.0 -> 0.8",
    ]
    spec, override = spec.replace(":attention", ":demo"), "--config.train.steps=7"
    assert cli.main(["config", "diff", spec, override]) == 0
    assert capsys.readouterr().out == "train.steps: 495 -> 7\n"
    assert cli.main(["config", "diff", spec]) == 0
    whole = capsys.readouterr().out.splitlines()
    assert len(whole) > 20 and "train.steps: 12000 -> 495" in whole
    assert (
        cli.main(["config", "diff", spec, override, "--against", spec.removesuffix(":demo")]) == 0
    )
    against = capsys.readouterr().out.splitlines()
    assert len(against) == len(whole) and "train.steps: 12000 -> 7" in against
    assert cli.main(["config", "explain", spec.replace(":demo", ":attention")]) == 0
    assert "model.T=3" in capsys.readouterr().out


def test_tilde_in_an_option_is_the_home_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells expand it only at the beginning of an argument."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["config", "show", "gap_pose", "--config.data.root=~/people"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["root"] == str(tmp_path / "people")
    prepare_tiny_people(tmp_path / "people")
    words = ["--config=gap_pose:mean,demo", "--config.data.root=~/people", "--workdir=~/run"]
    (tmp_path / "run").write_text("")
    capsys.readouterr()
    assert cli.main(["train", *words]) == 73
    assert f"cannot write {tmp_path / 'run'}" in refusal(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people", "run"]
    assert cli.main(["config", "diff", "gap_pose", "--against=~nobody-at-all/x.py"]) == 64
    assert "~nobody-at-all/x.py" in refusal(capsys)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"gap_jax {__version__} · python 3.")
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in cli.COMMANDS)
    assert cli.main(["train", "--help"]) == 0
    assert "model.T=3" in capsys.readouterr().out


def test_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "gap_jax", "--version"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.startswith(f"gap_jax {__version__} ")
