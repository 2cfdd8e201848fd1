"""Drives a detector of landmarks in a child process, so that its crash ends only the child."""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
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
    """Finds the landmarks of one person in each picture."""

    def __init__(self, python: str, script: Path, errors: IO[bytes]) -> None:
        self.version = ""
        self._command = [python, "-I", str(script)]
        self._errors = errors  # what the child writes to stderr
        self._child: subprocess.Popen[bytes] | None = None

    def find(self, picture: UInt8[np.ndarray, "h w 3"]) -> Landmarks | None:
        """Returns x and y as shares of the picture, and visibilities; None without a person."""
        height, width, _ = picture.shape
        head = json.dumps({"height": height, "width": width}) + "\n"
        try:
            if self._child is None:
                self.start()
            answer = self._ask(head.encode() + picture.tobytes(), PICTURE_TIMEOUT_S)
        except (Lost, OSError) as error:
            self.stop()
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

    def start(self) -> None:
        """Starts the child, which loads the package and names its version."""
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


@contextlib.contextmanager
def open_detector(python: str = sys.executable, script: Path = SCRIPT) -> Iterator[Detector]:
    """Starts the detector with a Python that has its package, and ends it.

    The package needs an older protobuf than Grain, so it is installed in its own environment.
    """
    with tempfile.TemporaryFile() as errors:
        detector = Detector(python, script, errors)
        try:
            try:
                detector.start()
            except OSError as error:
                raise ConfigError(
                    f"--python {python} cannot be started ({error.strerror}); {_advise()}"
                ) from error
            except Lost as error:
                raise ConfigError(
                    f"{python} has no {PACKAGE} that works ({error}); {_advise()}"
                ) from error
            yield detector
        finally:
            detector.stop()


def _advise() -> str:
    return f"on Python 3.9 to 3.12: {SETUP}, then add --python mp/bin/python"
