"""Runs a command that cannot read or write, or stops it by a signal, and checks its end."""

import contextlib
import dataclasses
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.support.denied_paths import drop_overrides
from tests.support.tiny_training import ROOT, SPEC, overrides

DOCUMENTED = (0, 64, 65, 66, 69, 73, 75, 76, 77)
LONGEST_S = 600
FILE_LIMIT_BYTES = 1000  # of a file, to simulate a full disk
LONG_NAME = "x" * 300
TRACES = ("Traceback", "Exception ignored", "Fatal Python error")

INPUTS = ("run", "data", "other", "photos", "listed")  # folders that every case has its own copy of
SERVE = "serve"  # runs until Ctrl-C, which follows its first page

# {work} is an empty folder, {run} a trained run, {data} its training data, {other} others of the
# same classes, {photos} a folder of photographs, {listed} that of a list of them
COMMANDS: Mapping[str, str] = {
    "--version": "--version",
    "--help": "--help",
    "config show": "config show {config}",
    "config explain": "config explain {config}",
    "config diff": "config diff {config}",
    "weights list": "weights list",
    "weights convert": "weights convert {run} {work}/backbone.safetensors",
    "data prepare": "data prepare people --train=8 --val=4 --test=0 --out={work}/people",
    "data prepare folder": "data prepare folder --root={photos} --out={work}/mine",
    "data prepare csv": "data prepare csv --csv={listed}/photos.csv --root={photos} "
    "--out={work}/mine",
    "data joints": "data joints {photos} --out={work}/joints.json --python={detector}",
    "data check": "data check {data} --html={work}/sheet.html",
    "data show": "data show {data} --config={config} --html={work}/batch.html {small}",
    "train": "train --config={config} --workdir={work}/run {fields}",
    "train --mode=evaluate": "train --mode=evaluate --config={config} --workdir={run} {fields}",
    "evaluate": "evaluate {run} --data={data}",
    "evaluate --out": "evaluate {run} --data={data} --out={work}/scores",
    "evaluate --submission": "evaluate {run} --data={data} --submission={work}/answers.mat",
    "evaluate --data": "evaluate {run} --data={other} --out={work}/scores",
    "predict": "predict {photos} --model={run} --json={work}/answers.json --overlay={work}/looks",
    SERVE: "serve {run} --port={port}",
    "report": "report {run} --data={data} --out={work}/page.html",
    "export": "export {run} --out={work}/export",
    "doctor": "doctor",
    "completion": "completion bash",
    "demo": "demo --quick --out={work}/demo --data={data} {small}",
}
SIGNALS = {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT, "SIGHUP": signal.SIGHUP}
PLACES = (
    "reads another user's folder", "writes another user's folder", "read-only folder",
    "full disk", "full stdout", "closed stdout", "closed pipe",
    "reads a 300-character name", "writes a 300-character name",
)  # fmt: skip


class Case(NamedTuple):
    """A command in a situation; a signal is sent after the share `instant` of its usual time."""

    command: str
    situation: str
    instant: float = 0.0

    @property
    def name(self) -> str:
        """Returns a unique name."""
        return f"{self.command}, {self.situation}, {self.instant:.4f}"


class Verdict(NamedTuple):
    """The result of a case; `fault` is empty if the command kept its promise."""

    name: str
    command: str
    situation: str
    code: int
    fault: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Site:
    """The inputs of all cases; `seconds` is the usual time of each command."""

    root: Path
    seconds: Mapping[str, float]

    def words(self, command: str, work: Path, inputs: Path, port: int) -> list[str]:
        """Returns the arguments of a command with its own copy of the inputs."""
        fields = overrides(inputs / "data")
        small = [each for each in fields if "data.root=" not in each]
        filled = COMMANDS[command].format(
            **{name: inputs / name for name in INPUTS},
            work=work,
            detector=self.root / "detector",
            port=port,
            config=ROOT / SPEC,
            fields=" ".join(fields),
            small=" ".join(small),
        )
        return [sys.executable, "-m", "gap_jax", *filled.split()]


def draw_cases(instants: int, seed: int) -> list[Case]:
    """Draws every command in every situation, and with each signal at random instants."""
    rng = np.random.default_rng(seed)
    cases = [Case(command, place) for place in PLACES for command in COMMANDS]
    for _ in range(instants):  # fewer instants are a prefix of more
        cases += [Case(each, name, float(rng.random())) for name in SIGNALS for each in COMMANDS]
    return cases


def try_case(case: Case, site: Site) -> Verdict:
    """Runs a command in its situation and checks its end."""
    with tempfile.TemporaryDirectory(prefix="gap_jax-commands-") as made:
        home = Path(made)
        work, inputs = home / "work", home / "inputs"
        work.mkdir()
        for name in INPUTS:
            shutil.copytree(site.root / name, inputs / name)
        with contextlib.ExitStack() as opened:
            options = _arrange(case.situation, work, inputs, opened)
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            command = site.words(case.command, *_place(case.situation, work, inputs), port)
            start = time.monotonic()
            code, err = _run(command, options, site, case, port)
            seconds = time.monotonic() - start
        fault = judge(code, err)
        if case.situation in SIGNALS and (left := [*home.rglob("*.partial*")]):
            fault = fault or f"leaves {left[0].relative_to(home)}"
        return Verdict(case.name, case.command, case.situation, code, fault, round(seconds, 2))


def _place(situation: str, work: Path, inputs: Path) -> tuple[Path, Path]:
    if situation == "writes a 300-character name":
        return work / LONG_NAME, inputs
    if situation == "reads a 300-character name":
        return work, inputs / LONG_NAME
    return work, inputs


def _arrange(
    situation: str, work: Path, inputs: Path, opened: contextlib.ExitStack
) -> dict[str, object]:
    """Prepares the folders of a situation; returns options of `subprocess.Popen`."""
    match situation:
        case "reads another user's folder":
            return _forbid([inputs], 0, opened)
        case "writes another user's folder":
            return _forbid([work], 0, opened)
        case "read-only folder":
            folders = [path for path in inputs.rglob("*") if path.is_dir()]
            return _forbid([work, *folders], 0o555, opened)
        case "full disk":
            limits = (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES)
            return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)}
        case "full stdout":
            return {"stdout": opened.enter_context(Path("/dev/full").open("w"))}
        case "closed stdout":
            return {"preexec_fn": lambda: os.close(1)}
        case "closed pipe":
            reader, writer = os.pipe()
            os.close(reader)
            opened.callback(os.close, writer)
            return {"stdout": writer}
    return {}


def _forbid(folders: Sequence[Path], mode: int, opened: contextlib.ExitStack) -> dict[str, object]:
    """Denies access to folders until `opened` closes."""
    for folder in reversed(folders):
        folder.chmod(mode)
    for folder in reversed(folders):
        opened.callback(folder.chmod, 0o755)
    return {"preexec_fn": drop_overrides}


def _run(
    command: Sequence[str], options: Mapping[str, object], site: Site, case: Case, port: int
) -> tuple[int, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    settings: dict[str, Any] = {"stdout": subprocess.DEVNULL, **options}
    with tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, cwd="/", env=environment, stderr=err, **settings)
        try:
            if case.situation in SIGNALS and _wait_for_handler(process):
                time.sleep(case.instant * site.seconds[case.command])
                process.send_signal(SIGNALS[case.situation])
            elif case.command == SERVE and _wait_for_page(process, port):
                process.send_signal(signal.SIGINT)
            process.wait(LONGEST_S)
        finally:
            process.kill()
        err.seek(0)
        return process.returncode, err.read()


def _wait_for_handler(process: subprocess.Popen[Any]) -> bool:
    """Waits until the program handles SIGTERM; returns whether it still runs."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = re.search(r"SigCgt:\s*(\w+)", status.read_text("ascii"))
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return True
        time.sleep(0.002)
    return False


def _wait_for_page(process: subprocess.Popen[Any], port: int) -> bool:
    """Waits until the program answers on its port; returns whether it still runs."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=LONGEST_S).close()
            return True
        time.sleep(0.1)
    return False


def judge(code: int, err: str) -> str:
    """Describes a wrong end; empty for a documented code with its one line."""
    if code not in DOCUMENTED:
        return f"its code is not documented: {err.strip()[-300:]}"
    if any(each in err for each in TRACES):
        return f"prints a traceback: {err.strip()[-300:]}"
    lines = re.findall(r"^gap_jax: error (\d+): ", err, re.MULTILINE)
    if lines != ([str(code)] if code else []):
        return f"prints {len(lines)} lines of an exit code: {err.strip()[-300:]}"
    return ""
