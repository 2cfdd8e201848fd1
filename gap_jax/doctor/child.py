"""Runs a program that may hang or crash, and reads its lines as they come."""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, NamedTuple

from data_pipelines.core.files import escape_control

KILL_TIMEOUT_S = 2.0
MOST_BYTES = 2**20  # of its output
TAIL_BYTES = 4096
NOT_STARTED = "it cannot be started"


class Outcome(NamedTuple):
    """What a program printed, and how it ended; `fault` is "" if it ended with 0 in time."""

    lines: tuple[str, ...]
    fault: str


def run_program(
    command: Sequence[str],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], object] = bool,
) -> Outcome:
    """Runs a program for at most `seconds`; kills it and its children then, and does not wait.

    A process that waits for a broken driver cannot be killed; it is left behind.
    """
    with contextlib.ExitStack() as opened:
        errors = opened.enter_context(tempfile.TemporaryFile())
        output, sink = os.pipe()
        opened.callback(os.close, output)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=errors,
                env=environment and dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            return Outcome((), f"{NOT_STARTED}: {error.strerror or error}")
        finally:
            os.close(sink)
        lines: list[str] = []
        try:
            code = _read(process, output, time.monotonic() + seconds, lines, on_line)
        finally:
            with contextlib.suppress(OSError):  # also processes that it started
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_TIMEOUT_S)
        fault = f"no answer within {seconds:g} s" if code is None else _describe(code, errors)
        return Outcome(tuple(lines), fault)


def _read(
    process: subprocess.Popen[bytes],
    output: int,
    stop_at: float,
    lines: list[str],
    on_line: Callable[[str], object],
) -> int | None:
    """Reads lines until the program closes its output; returns its exit code, None if too late."""
    left, text = MOST_BYTES, b""
    while True:
        wait_s = stop_at - time.monotonic()
        if wait_s <= 0 or not select.select([output], [], [], wait_s)[0]:
            return None
        read = os.read(output, 2**16)[:left]
        left -= len(read)
        *whole, text = (text + read).split(b"\n")
        for line in whole if read else [text] * bool(text):
            lines.append(line.decode("utf-8", "replace"))
            on_line(lines[-1])
        if not read:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(max(0.0, stop_at - time.monotonic()))
            return None


def _describe(code: int, errors: IO[bytes]) -> str:
    """Describes the end of a program by its exit code and its last line on stderr."""
    if code == 0:
        return ""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - TAIL_BYTES))
    written = errors.read().decode("utf-8", "replace").strip().splitlines()
    end = f"it ended with {code}"
    if code < 0:
        end = f"it was ended by signal {-code}, {signal.strsignal(-code)}"
    return f"{end}: {escape_control(written[-1])}" if written else end
