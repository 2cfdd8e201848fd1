"""Small programs that stand where a launcher expects gap_jax, srun, gcloud or kubectl."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
FINAL = (64, 65, 66, 70, 71, 73, 77)  # codes that running again does not mend
AGAIN = (75, 76, 134)

# gap_jax.main as launchers see it: it says where it is and what it was given, and ends as told.
PROGRAM = """
import os, pathlib, signal, sys, time
words = sys.argv[1:]
told = dict(word[2:].split("=", 1) for word in words if "=" in word)
index = int(told.get("process") or os.environ.get("SLURM_PROCID", 0))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
if "deaf" in told and index == int(told["deaf"]):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("words", *words, flush=True)
print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), file=sys.stderr, flush=True)
pathlib.Path(f"pid{index}").write_text(str(os.getpid()))
for number in range(int(told.get("lines", 0))):
    print(number, "." * 100)
if "codes" in told:
    code, _, seconds = told["codes"].split(",")[index].partition("@")
    time.sleep(float(seconds or 0))
    sys.exit(int(code))
"""


def place_program(folder: Path) -> None:
    """Makes `python -m gap_jax.main`, started in the folder, the stand-in."""
    (folder / "gap_jax").mkdir()
    (folder / "gap_jax" / "__init__.py").touch()
    (folder / "gap_jax" / "main.py").write_text(PROGRAM, "utf-8")


def place_command(folder: Path, name: str, script: str) -> None:
    """An executable of that name in folder/bin, which `run` and `start` put on the PATH."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}", "utf-8")
    path.chmod(0o755)


def start(folder: Path, command: Sequence[str], **settings: str) -> subprocess.Popen[str]:
    """A launcher, started in the folder, of whose environment only PATH and settings are left."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment: Mapping[str, str] = {"PATH": path, "PYTHON": sys.executable, **settings}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, command: Sequence[str], **settings: str) -> tuple[int, str, str]:
    """A launcher's code, output and errors."""
    process = start(folder, command, **settings)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def read_pids(folder: Path, count: int) -> list[int]:
    """The stand-ins' process numbers, once all of them run."""
    until = time.monotonic() + 30
    paths = [folder / f"pid{index}" for index in range(count)]
    while not all(path.exists() and path.read_text("utf-8") for path in paths):
        assert time.monotonic() < until, "the processes did not start"
        time.sleep(0.02)
    return [int(path.read_text("utf-8")) for path in paths]
