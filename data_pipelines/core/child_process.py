"""Asks a child process for a line of JSON, so that a crash or a hang ends only the child."""

import contextlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

from data_pipelines.core.files import escape_control

END_TIMEOUT_S = 2.0
MOST_LINE_BYTES = 2**16


class Lost(Exception):
    """The child crashed or gave no answer in time; the next question needs another one."""


class ChildProcess:
    """Runs a command that answers each message on stdin by a line of JSON on stdout."""

    def __init__(
        self, command: Sequence[str], errors: IO[bytes], env: Mapping[str, str] | None = None
    ) -> None:
        self._command, self._env = command, env
        self._errors = errors  # what the child writes to stderr
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._child is not None

    def start(self) -> None:
        """Starts the child; a Ctrl-C reaches this process only, which ends the child."""
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True, env=self._env,
        )  # fmt: skip

    def ask(self, message: bytes, seconds: float) -> Any:
        """Sends a message and returns the next line; kills a child that takes too long."""
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise Lost("it is not running")
        timer = threading.Timer(seconds, child.kill)
        timer.start()
        try:
            child.stdin.write(message)
            child.stdin.flush()
            return json.loads(child.stdout.readline(MOST_LINE_BYTES))
        except (OSError, ValueError) as error:  # an empty line is no JSON
            late = timer.finished.is_set()
            raise Lost(f"no answer in {seconds:g} s" if late else self._last_line()) from error
        finally:
            timer.cancel()

    def _last_line(self) -> str:
        """Returns the last line that the child wrote to stderr."""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(max(0, self._errors.seek(0, 2) - MOST_LINE_BYTES))
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            return escape_control(lines[-1]) if lines else "it ended without a message"
        return "it ended"

    def stop(self) -> None:
        """Ends the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):  # what was not sent
                if stream is not None:
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(END_TIMEOUT_S)
