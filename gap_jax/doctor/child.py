"""Runs a program that may hang or crash."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, NamedTuple

from data_pipelines.core.files import escape_control

STDOUT = 1  # named, it is inherited also where it was closed and reopened
KILL_TIMEOUT_S = 2.0
MOST_BYTES = 2**20  # that are read of its output
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
NOT_STARTED = "it cannot be started"


class Outcome(NamedTuple):
    """What a program printed, and how it ended; `fault` is "" if it ended with 0 in time."""

    lines: tuple[str, ...]
    fault: str


def run_program(
    command: Sequence[str], *, seconds: float, flags: str = "", shown: bool = False
) -> Outcome:
    """Runs a program for at most `seconds`; kills it and its children then.

    Its output is returned, or `shown`. JAX gets XLA's `flags`, and takes memory as it needs it. A
    process that waits for a broken driver cannot be killed; it is left behind.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    environment = {**os.environ, PREALLOCATE: "false", "XLA_FLAGS": flags}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stderr=errors,
                stdout=STDOUT if shown else output, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Outcome((), f"{NOT_STARTED}: {error.strerror or error}")
        code = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(seconds)
        finally:
            with contextlib.suppress(OSError):  # also processes that it started
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_TIMEOUT_S)
        lines, last = _read_lines(output), _read_lines(errors)[-1:]
    if code is None:
        return Outcome(lines, f"no answer within {seconds:g} s")
    end = f"it ended with {code}"
    if code < 0:
        end = f"it was ended by signal {-code}, {signal.strsignal(-code)}"
    return Outcome(lines, ": ".join([end, *map(escape_control, last)]) if code else "")


def _read_lines(file: IO[bytes]) -> tuple[str, ...]:
    file.seek(0)
    return tuple(file.read(MOST_BYTES).decode("utf-8", "replace").strip().splitlines())
