"""Unusable paths end every command with one line and the exit code of the path's role."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gap_jax import cli
from tests.support.denied_paths import make_unusable, unprivileged
from tests.support.reported_runs import evaluate_run
from tests.support.saved_runs import CONFIG, SMALL, tiny_config
from tests.support.tiny_data import prepare_tiny_people

pytestmark = pytest.mark.slow

WRITE, DATA, WEIGHTS, CONFIG_FILE = 73, 65, 66, 64
KINDS = ("permission", "long", "loop", "file above", "no utf-8")
MPII = "data prepare mpii --splits derive "
# {path} is unusable; {run}, {data} and {config} are good
COMMANDS = {
    "train --config={config}:demo {fields} --workdir={path}": WRITE,
    "train --config={config}:demo {fields} --workdir={path}/run": WRITE,
    "train --config={config}:demo --config.data.root={path}": DATA,
    "train --config={config}:demo {fields} --config.init.weights={path} --workdir={out}": WEIGHTS,
    "train --config={path}": CONFIG_FILE,
    "evaluate {path}": WEIGHTS,
    "evaluate {run} --data {path}": DATA,
    "evaluate {run} --out {path}": WRITE,
    "evaluate {run} --out {path}/scores": WRITE,
    "evaluate {path} --config={config}:demo {fields}": WEIGHTS,
    "evaluate {run} --config={path}": CONFIG_FILE,
    "predict {path} --model {run}": DATA,
    "predict {data} --model {path}": WEIGHTS,
    "predict {data} --model {run} --json {path}/a.json": WRITE,
    "predict {data} --model {run} --overlay {path}/looks": WRITE,
    "report {path}": WEIGHTS,
    "report {run} --data {path}": DATA,
    "report {run} --out {path}/page.html": WRITE,
    "export {path} --out {out}": WEIGHTS,
    "export {run} --out {path}": WRITE,
    "export {run} --out {path}/export": WRITE,
    "weights convert {path} {out}": WEIGHTS,
    "weights convert {run} {path}/a.safetensors": WRITE,
    "config show {path}": CONFIG_FILE,
    "demo --data {out} --out {path}": WRITE,
    "config explain {path}:demo": CONFIG_FILE,
    "config diff {config} --against {path}": CONFIG_FILE,
    "data prepare people --train=1 --val=1 --test=0 --out {path}": WRITE,
    "data prepare people --train=1 --val=1 --test=0 --out {path}/people": WRITE,
    MPII + "--annotations {path} --images {run} --out {out}": DATA,
    MPII + "--annotations {data}/manifest.json --images {path} --out {out}": DATA,
    MPII + "--annotations {config} --images {run} --out {path}": WRITE,
    MPII + "--annotations {config} --images {run} --out {path}/mpii": WRITE,
    "data check {path}": DATA,
    "data check {data} --html {path}/page.html": WRITE,
    "data joints {path} --out {out}": DATA,
    "data joints {run} --out {path}": WRITE,
    "data joints {run} --out {path}/joints.json": WRITE,
    "data show {path} --config={config}:demo": DATA,
    "data show {data} --config={path}": CONFIG_FILE,
    "data show {data} --config={config}:demo {small} --html {path}/page.html": WRITE,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Makes good paths, and `unusable` ones by kind."""
    folder = tmp_path_factory.mktemp("paths")
    data = prepare_tiny_people(folder / "data")
    run = evaluate_run(folder / "run", tiny_config(folder / "data", "model.stage=2"), data, {3: 1})
    small = " ".join(f"--config.{each}" for each in SMALL)
    unusable = make_unusable(folder)
    yield {
        "run": run, "data": folder / "data", "config": CONFIG, "out": folder / "out",
        "small": small, "fields": f"{small} --config.data.root={folder / 'data'}",
        "unusable": unusable,
    }  # fmt: skip
    (folder / "locked").chmod(0o700)


ROLES = {code: command for command, code in reversed(COMMANDS.items())}  # one command of each code
CASES = [
    (command, kind)
    for command in COMMANDS
    for kind in (KINDS if command in ROLES.values() else KINDS[:2])
]


@pytest.mark.parametrize(("command", "kind"), CASES)
def test_unusable_path_ends_in_one_line(
    command: str, kind: str, places: dict, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = places["unusable"][kind]
    words = command.format(path=path, **places).split()
    with unprivileged():
        code = cli.main(words)
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (COMMANDS[command], 1), err
    assert not places["out"].exists()
