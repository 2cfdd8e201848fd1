"""Drives a detector of landmarks in a child process, so that its crash ends only the child."""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.core.child_process import ChildProcess, Lost
from data_pipelines.core.errors import ConfigError, DataError

SCRIPT = Path(__file__).with_name("blazepose.py")
PACKAGE = "mediapipe==0.10.14"
SETUP = f"python3.12 -m venv mp && mp/bin/pip install {PACKAGE}"
START_TIMEOUT_S, PICTURE_TIMEOUT_S = 120.0, 30.0

Landmarks = Float[np.ndarray, "33 3"]


class Detector:
    """Finds the landmarks of one person in each picture."""

    def __init__(self, python: str, script: Path, errors: IO[bytes]) -> None:
        self.version = ""
        self._child = ChildProcess([python, "-I", str(script)], errors)

    def find(self, picture: UInt8[np.ndarray, "h w 3"]) -> Landmarks | None:
        """Returns x and y as shares of the picture, and visibilities; None without a person."""
        height, width, _ = picture.shape
        head = json.dumps({"height": height, "width": width}) + "\n"
        try:
            if not self._child.is_running:
                self.start()
            answer = self._child.ask(head.encode() + picture.tobytes(), PICTURE_TIMEOUT_S)
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
        self._child.start()
        self.version = str(self._child.ask(b"", START_TIMEOUT_S))

    def stop(self) -> None:
        """Ends the child."""
        self._child.stop()


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
