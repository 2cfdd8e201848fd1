"""What becomes of a command whose stdout or stderr is full, closed, or read no further."""

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
    """A command, or a program, in a process of its own with some of its files closed."""
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
def test_a_full_stdout_ends_a_command_with_73(words: list[str]) -> None:
    with FULL.open("w") as full:
        done = run(*words, stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (73, 1)
    assert done.stderr.startswith(NO_ROOM)


@needs_full
def test_a_full_stdout_is_not_taken_for_a_file_that_is_written() -> None:
    program = (
        "from pathlib import Path; from data_pipelines import files; from gap_jax import process\n"
        "def command():\n"
        "    with files.writing(Path('people')): print('drawing', flush=True)\n"
        "raise SystemExit(process.run(command))"
    )
    with FULL.open("w") as full:
        done = run(program=program, stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (73, 1)
    assert done.stderr.startswith(NO_ROOM)


@needs_full
def test_a_stderr_that_is_full_or_closed_leaves_the_code() -> None:
    with FULL.open("w") as full:
        assert run("config", "shw", stderr=full).returncode == 64
    assert run("config", "shw", close=(2,)).returncode == 64
    bug = "from gap_jax import process; raise SystemExit(process.run(lambda: 1 // 0))"
    assert run(program=bug, close=(1, 2)).returncode == 70


def test_a_closed_stdout_is_no_output(tmp_path: Path) -> None:
    """And no file of the command gets its number, where other code might write."""
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


def test_an_unbuffered_stdout_stays_unbuffered() -> None:
    """As in a container, whose log would lack the lines before an end that flushes nothing."""
    program = (
        "import os; from gap_jax import process\n"
        "process.run(lambda: print('before the end') or os._exit(0))"
    )
    for setting, expected in (("1", "before the end\n"), ("", "")):
        assert run(program=program, settings={"PYTHONUNBUFFERED": setting}).stdout == expected


def test_a_closed_pipe_ends_a_command_with_0_and_without_a_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run("--version", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_encoding_without_a_character_shows_its_escape() -> None:
    done = run("--version", settings={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and r" \xb7 python" in done.stdout


def test_a_broken_pipe_of_another_kind_is_a_bug() -> None:
    program = (
        "from gap_jax import process\n"
        "def command(): raise BrokenPipeError(32, 'Broken pipe')\n"
        "raise SystemExit(process.run(command))"
    )
    done = run(program=program)
    assert done.returncode == 70 and "unforeseen BrokenPipeError" in done.stderr
