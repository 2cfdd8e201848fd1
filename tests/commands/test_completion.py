"""Shell completion: real shells offer what the parsers accept, without starting Python."""

import itertools
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.core.settings import list_choices
from gap_jax import cli
from gap_jax.commands.arguments import DESCRIBE, Described
from gap_jax.completion import scripts, table
from gap_jax.config import Config, fields
from gap_jax.flags import read_config
from gap_jax.model_config import ModelConfig
from gap_jax.variants import METHODS, PARTS, SCALES, list_configs, parse_variant
from tests.support import shells

SHELLS = ("bash", "zsh", "fish")
POOLINGS = list(
    next(list_choices(field) for name, field, _ in fields(Config()) if name == "model.pooling")
)
OTHERS = [part for kind, parts in PARTS["gap_pose"].items() if kind != "method" for part in parts]

# a line, and all that is offered at its end
OFFERS: dict[str, list[str]] = {
    "gap_jax ": list(cli.COMMANDS),
    "gap_jax ev": ["evaluate"],
    "gap_jax data prepare o": ["objects"],
    "gap_jax data prepare people --o": ["--out", "--overwrite"],
    "gap_jax data prepare people --out ": ["runs/"],
    "gap_jax data prepare people --out=ru": ["--out=runs/"],
    "gap_jax data prepare people --seed ": [],
    "gap_jax data prepare people --difficulty=h": ["--difficulty=hard"],
    "gap_jax data prepare people --out people --difficulty h": ["hard"],
    "gap_jax train --mode ": ["train", "evaluate"],
    "gap_jax train --config=": ["--config=mine.py", "--config=runs/"]
    + [f"--config={name}" for name in list_configs()],
    "gap_jax train --config=gap_pose:": [
        f"--config=gap_pose:{part}" for part in [*METHODS, *OTHERS]
    ],
    "gap_jax train --config gap_pose:gap,fu": ["gap_pose:gap,full"],
    "gap_jax train --config=configs/gap_pose.py:mean,mpii,ours,": [
        f"--config=configs/gap_pose.py:mean,mpii,ours,{scale}" for scale in SCALES
    ],
    "gap_jax train --config=mine.py:": [],
    "gap_jax train --config.train.ste": ["--config.train.steps="],
    "gap_jax train --config.train.steps=": [],
    "gap_jax demo --config.data.eval_fl": ["--config.data.eval_flip="],
    "gap_jax demo --config.data.eval_flip=": [
        f"--config.data.eval_flip={value}" for value in ("true", "false")
    ],
    "gap_jax config show gap_pose --config.model.pooling=": [
        f"--config.model.pooling={each}" for each in POOLINGS
    ],
    "gap_jax train --config.init.weights=ru": ["--config.init.weights=runs/"],
    "gap_jax config ": ["show", "explain", "diff"],
    "gap_jax config diff gap_pose:pe": ["gap_pose:people"],
    "gap_jax report runs/x --config.": [],
    "gap_jax report runs/x ru": ["runs/"],
    "gap_jax predict --model ru": ["runs/"],
    "gap_jax evaluate --checkpoint b": ["best"],
    "gap_jax sweep t": ["table1", "tune"],
    "gap_jax sweep tune --tr": ["--trials"],
    "gap_jax evaluate ph": ["photo 1.jpg"],
    "gap_jax --v": ["--version"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Writes the scripts, and a folder in which words are completed."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "here" / "runs" / "x").mkdir(parents=True)
    for name in ("photo 1.jpg", "mine.py"):
        (folder / "here" / name).touch()
    found = {"here": folder / "here"}
    for shell in SHELLS:
        found[shell] = folder / f"script.{shell}"
        found[shell].write_text(scripts.write_script(shell))
    return found


def test_bash_offers_all_and_nothing_else(made: dict[str, Path]) -> None:
    """Readline replaces only what follows the last = or : of a line."""
    shells.require("bash")
    found = shells.offer_bash(made["bash"], made["here"], *OFFERS)
    for (line, wanted), offered in zip(OFFERS.items(), found, strict=True):
        word = line.rpartition(" ")[2]
        kept = word[: max(word.rfind("="), word.rfind(":")) + 1]
        plain = [each.removeprefix(kept).removesuffix("/") for each in wanted]
        assert sorted(each.removesuffix("/") for each in offered) == sorted(plain), line


def test_fish_offers_all_and_nothing_else(made: dict[str, Path]) -> None:
    shells.require("fish")
    found = shells.offer_fish(made["fish"], made["here"], *OFFERS)
    for (line, wanted), offered in zip(OFFERS.items(), found, strict=True):
        assert sorted(offered) == sorted(wanted), line


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_completes_the_line(shell: str, made: dict[str, Path]) -> None:
    """Where there is one completion, Tab inserts it; of several, what they have in common."""
    shells.require(shell)
    typed = {line: wanted for line, wanted in OFFERS.items() if wanted}
    found = shells.type_lines(shell, made[shell], made["here"], *typed)
    for (line, wanted), words in zip(typed.items(), found, strict=True):
        shared = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*wanted, strict=False))
        common = "".join(each[0] for each in shared)
        before = line.split()[1:] if line.endswith(" ") else line.split()[1:-1]
        given = [word.removesuffix("/") for word in words if word]
        assert given == [*before, *filter(None, [common.removesuffix("/")])], line


@pytest.mark.parametrize("shell", SHELLS)
def test_completing_is_fast_and_starts_no_python(shell: str, made: dict[str, Path]) -> None:
    shells.require(shell)
    assert not re.search(r"\(\s*(command )?(python|gap_jax)\b", made[shell].read_text())
    if shell == "zsh":  # its start, with compinit, takes longer than a completion
        return
    offer = shells.offer_bash if shell == "bash" else shells.offer_fish
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    offer(made[shell], made["here"], "gap_jax t")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.3, f"{used:.2f} s of a core, with the start of the shell"


@pytest.mark.parametrize("shell", SHELLS)
def test_command_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    assert capsys.readouterr().out == scripts.write_script(shell) + "\n"


def test_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "tcsh"]) == 64
    assert "tcsh" in capsys.readouterr().err


def test_every_command_describes_itself() -> None:
    """Every command is in the table, and none starts its work for it."""
    nodes = {node.path: node for node in table.read_commands()}
    assert {path.split()[0] for path in nodes if path} == set(cli.COMMANDS)
    for name in set(cli.COMMANDS) - {"train"}:
        with pytest.raises(Described):
            cli.import_command(name).run(DESCRIBE)
    assert not [path for path, node in nodes.items() if table.Value("any") in node.places]
    assert nodes["data prepare people"].options and nodes["evaluate"].takes_config


def test_every_offered_part_and_field_is_accepted() -> None:
    for name in list_configs():
        for kind, parts in PARTS[name].items():
            read_config(f"{name}:{parts[-1]}")
            if name == "gap_pose":
                assert getattr(parse_variant(parts[-1], method="gap"), kind) == parts[-1]
    names = {option.names[0] for option in table.read_fields()}
    assert names == {f"--config.{name}=" for name, _, _ in fields(Config())}
    field = next(each for each in table.read_fields() if each.names == ("--config.model.T=",))
    assert str(ModelConfig().T) in field.help


def test_bash_script_passes_shellcheck(made: dict[str, Path]) -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    subprocess.run([checker, "--shell=bash", made["bash"]], check=True, timeout=60)
