"""The lock of a workdir: one run at a time, freed by the kernel however the run ends."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from data_pipelines import files
from gap_jax.errors import WorkdirInUse

LOCK = ".lock"


@contextlib.contextmanager
def hold(workdir: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Holds the workdir, or refuses at once naming who does.

    The file stays behind: only the kernel's lock on it counts. Of several processes of one run
    the first holds it.
    """
    path = workdir.absolute() / LOCK
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkdirInUse(
                f"{path.parent} is in use by {_read_owner(path)}; "
                "wait for that run, end it, or choose another --workdir"
            ) from error
        except OSError as error:
            warn(f"{path.parent} has no locks ({error.strerror}); nothing stops a second run in it")
        with files.writing(path):
            _write_owner(file)
        yield


def describe_owner() -> dict[str, str | int]:
    """Who holds a lock: this process."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def name_owner(content: bytes) -> str:
    """Whoever wrote a lock's content."""
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']} since {owner['started']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just taken it"


def _write_owner(file: TextIO) -> None:
    file.truncate(0)
    file.write(json.dumps(describe_owner()))
    file.flush()


def _read_owner(path: Path) -> str:
    try:
        return name_owner(path.read_bytes())
    except OSError:
        return name_owner(b"")
