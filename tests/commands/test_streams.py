"""Commands whose stdout or stderr is full or closed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
NO_ROOM = "gap_jax: error 73: cannot write to standard output: No space left on device; "
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def run(
    *words: str, program: str = "", close: tuple[int, ...] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a command or a program in a new process with some standard files closed."""
    settings = options.pop("settings", {})
    closing = " ".join(f"{number}>&-" for number in close)
    shell = ["bash", "-c", f'exec "$@" {closing}', "bash"] if close else []
    python = [sys.executable, *(("-c", program) if program else ("-m", "gap_jax"))]
    return subprocess.run(
        [*shell, *python, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        text=True, timeout=60, check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


@needs_full
@pytest.mark.parametrize(
    "words", [["--version"], ["config", "show", "gap_pose"], ["data", "prepare", "--help"]], ids=str
)
def test_full_stdout_ends_a_command_with_73(words: list[str]) -> None:
    with FULL.open("w") as full:
        done = run(*words, stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (73, 1)
    assert done.stderr.startswith(NO_ROOM)


@needs_full
def test_full_stdout_is_not_reported_as_an_output_file() -> None:
    program = (
        "from pathlib import Path; from data_pipelines.core import files\n"
        "from gap_jax import process\n"
        "def command():\n"
        "    with files.writing(Path('people')): print('drawing', flush=True)\n"
        "raise SystemExit(process.run(command))"
    )
    with FULL.open("w") as full:
        done = run(program=program, stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (73, 1)
    assert done.stderr.startswith(NO_ROOM)


@needs_full
def test_full_or_closed_stderr_keeps_the_code() -> None:
    with FULL.open("w") as full:
        assert run("config", "shw", stderr=full).returncode == 64
    assert run("config", "shw", close=(2,)).returncode == 64
    bug = "from gap_jax import process; raise SystemExit(process.run(lambda: 1 // 0))"
    assert run(program=bug, close=(1, 2)).returncode == 70


def test_output_to_a_closed_stdout_is_dropped(tmp_path: Path) -> None:
    """No file of the command gets the descriptor, which other code may write to."""
    program = (
        "import os, sys; from gap_jax import process\n"
        "def command():\n"
        "    print('dropped', flush=True)\n"
        f"    with open({str(tmp_path / 'file')!r}, 'w') as file: return file.fileno() <= 2\n"
        "raise SystemExit(process.run(command))"
    )
    done = run(program=program, close=(0, 1, 2))
    assert done.returncode == 0 and (tmp_path / "file").read_text() == ""
    assert run("--version", close=(1,)).returncode == 0


def test_unbuffered_stdout_stays_unbuffered() -> None:
    """Else the log of a container lacks the lines before an end without a flush."""
    program = (
        "import os; from gap_jax import process\n"
        "process.run(lambda: print('before the end') or os._exit(0))"
    )
    for setting, expected in (("1", "before the end\n"), ("", "")):
        assert run(program=program, settings={"PYTHONUNBUFFERED": setting}).stdout == expected


def test_closed_pipe_ends_a_command_with_0_and_no_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("--version", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_missing_character_of_an_encoding_is_escaped() -> None:
    done = run("--version", settings={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and r" \xb7 python" in done.stdout


def test_other_broken_pipe_is_a_bug() -> None:
    program = (
        "from gap_jax import process\n"
        "def command(): raise BrokenPipeError(32, 'Broken pipe')\n"
        "raise SystemExit(process.run(command))"
    )
    done = run(program=program)
    assert done.returncode == 70 and "unforeseen BrokenPipeError" in done.stderr
