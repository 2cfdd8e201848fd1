"""The end of one of several processes that fails, is stuck, or has lost another."""

import os
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.processes

PROGRAM = """
import contextlib, os, sys, time
from data_pipelines.core.errors import Preempted
from gap_jax.runtime.processes import shutdown
from gap_jax.runtime.processes.group import Exit

class Processes:
    index, is_first, last_heartbeat, is_starting = 1, False, None, True
    def read_exits(self):
        return []
    def report_exit(self, cause):
        os.write(1, f"told {cause.exit_code}: {cause.message}".encode())

processes = Processes()
with shutdown.Watchdog(processes, stuck_after_s=0.5, start_within_s=START):
    BODY
"""
HANG = "time.sleep(60)"
BEAT = "processes.last_heartbeat = time.monotonic(); "
STEP = BEAT + "processes.is_starting = False; "
FAIL = "raise RuntimeError('a slip')"
LOST = "processes.read_exits = lambda: [Exit(0, 71, 'no finite loss')]; "
BLIND = "processes.read_exits = None; "  # the watchdog itself fails


def end(body: str, start_s: float, how: str) -> tuple[int, str, str]:
    """Returns the exit code of a process, its report to the others, and its stderr: a pipe that is
    read, closed by its reader, or full until the end.
    """
    program = PROGRAM.replace("BODY", body).replace("START", str(start_s))
    reading, writing = os.pipe()
    with (
        os.fdopen(reading) as said,
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writing, text=True
        ) as process,
    ):
        os.close(writing)
        if how == "closed":
            said.close()
        text = said.read() if how == "read" else ""
        try:
            told, _ = process.communicate(timeout=40)
        finally:
            process.kill()
        if how == "full":
            text = said.read()
        return process.returncode, told, text


@pytest.mark.parametrize(
    ("body", "start_s", "code", "told", "how"),
    [
        (STEP + HANG, 60, 76, "process 1 made no progress for", "read"),
        (STEP + HANG, 60, 76, "process 1 made no progress for", "closed"),
        (HANG, 0.5, 76, "with a larger runtime.start_within_s", "read"),
        (BEAT + "time.sleep(1.5); " + FAIL, 60, 70, "unforeseen RuntimeError: a slip", "read"),
        (STEP + FAIL, 60, 70, "unforeseen RuntimeError: a slip", "closed"),
        (BLIND + HANG, 60, 70, "unforeseen TypeError", "read"),
    ],
)
def test_process_ends_and_reports_its_exit(
    body: str, start_s: float, code: int, told: str, how: str
) -> None:
    found = end(body, start_s, how)
    assert found[0] == code and found[1].startswith(f"told {code}: ") and told in found[1]
    if how == "read":
        assert f"gap_jax: error {code}: " in found[2] and "line" in found[2].partition("error")[0]


def test_process_ends_with_the_code_of_a_lost_one_and_reports_nothing() -> None:
    code, told, said = end(LOST + HANG, 60, "read")
    assert (code, told) == (71, "")
    assert "gap_jax: error 71: process 0 ended with 71: no finite loss" in said


def test_simultaneous_error_is_raised_in_each_process() -> None:
    code, told, said = end("raise Preempted('stopped at step 3')", 60, "read")
    assert (code, told) == (1, "") and said.endswith("Preempted: stopped at step 3\n")


@pytest.mark.parametrize(("saves", "code"), [(True, 0), (False, 75)])
def test_only_a_run_that_saves_continues_after_sigterm(saves: bool, code: int) -> None:
    """With `saves` JAX catches SIGTERM; a process that never checks JAX's flag would not end."""
    program = (
        "import os, signal, socket, time\n"
        "from gap_jax import process\n"
        "from gap_jax.config import RuntimeConfig\n"
        "from gap_jax.runtime.processes.rendezvous import Rendezvous\n"
        "from gap_jax.runtime.processes.initialise import initialised\n"
        "with socket.create_server(('', 0)) as server:\n"
        "    address = f'localhost:{server.getsockname()[1]}'\n"
        "def wait():\n"
        f"    with initialised(Rendezvous(address, 1, 0), RuntimeConfig(), saves={saves}):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(1)\n"
        "raise SystemExit(process.run(wait))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stderr.count("gap_jax: error 75: ") == (not saves)


def test_process_ends_while_its_stderr_blocks() -> None:
    """A full pipe blocks its writer."""
    begin = time.monotonic()
    code, told, said = end(STEP + "os.write(2, b'x' * 2**16); " + HANG, 60, "full")
    assert code == 76 and told.startswith("told 76: ") and set(said) == {"x"}
    assert time.monotonic() - begin < 30
