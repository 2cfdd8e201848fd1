"""The lock of a workdir, for one run at a time."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from data_pipelines.core import files

LOCK = ".lock"


def acquire(workdir: Path, warn: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
    """Acquires the lock of a workdir, or refuses at once; only the first process calls this."""
    folder = workdir.absolute()
    advice = "wait for that run, end it, or choose another --workdir"
    return files.locked(folder, folder / LOCK, advice=advice, warn=warn)
