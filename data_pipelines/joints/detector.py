"""Drives a detector of landmarks in a child process, so that its crash ends only the child."""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.core.files import escape_control

SCRIPT = Path(__file__).with_name("blazepose.py")
PACKAGE = "mediapipe==0.10.14"
SETUP = f"python3.12 -m venv mp && mp/bin/pip install {PACKAGE}"
START_TIMEOUT_S, PICTURE_TIMEOUT_S, END_TIMEOUT_S = 120.0, 30.0, 2.0
MOST_LINE_BYTES = 2**16

Landmarks = Float[np.ndarray, "33 3"]


class Lost(Exception):
    """The child crashed or gave no answer in time; the next picture starts another one."""


class Detector:
    """Finds the landmarks of one person in each picture.

    `python` is a Python that has the detector's package: it needs an older protobuf than Grain, so
    it is installed in an environment of its own.
    """

    def __init__(self, python: str = sys.executable, script: Path = SCRIPT) -> None:
        self.version = ""
        self._command = [python, "-I", str(script)]
        self._child: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()

    def __enter__(self) -> "Detector":
        try:
            self._start()
        except OSError as error:
            raise ConfigError(
                f"--python {self._command[0]} cannot be started ({error.strerror}); {_advise()}"
            ) from error
        except Lost as error:
            self._stop()
            raise ConfigError(
                f"{self._command[0]} has no {PACKAGE} that works ({error}); {_advise()}"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._errors.close()

    def find(self, picture: UInt8[np.ndarray, "h w 3"]) -> Landmarks | None:
        """Returns x and y as shares of the picture, and visibilities; None without a person."""
        height, width, _ = picture.shape
        head = json.dumps({"height": height, "width": width}) + "\n"
        try:
            if self._child is None:
                self._start()
            answer = self._ask(head.encode() + picture.tobytes(), PICTURE_TIMEOUT_S)
        except (Lost, OSError) as error:
            self._stop()
            raise DataError(f"the detector failed on it ({error})") from error
        if answer is None:
            return None
        try:
            found = np.array(answer, np.float64).reshape(33, 3)
        except (ValueError, TypeError) as error:
            raise DataError("the detector gave no landmarks for it") from error
        if not np.isfinite(found).all():
            raise DataError("the detector gave landmarks that are not finite")
        return found

    def _start(self) -> None:
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,  # a Ctrl-C reaches this process only, which ends the child
        )  # fmt: skip
        self.version = str(self._ask(b"", START_TIMEOUT_S))

    def _ask(self, message: bytes, seconds: float) -> Any:
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

    def _stop(self) -> None:
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


def _advise() -> str:
    return f"on Python 3.9 to 3.12: {SETUP}, then add --python mp/bin/python"
