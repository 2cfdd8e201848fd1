"""Starts modules in forks of a process that has imported the product: an import takes 3 s."""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import TimeoutExpired

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["gap_jax.commands.train", "gap_jax.commands.api"])


class Forked:
    """A program that runs, with those methods of `subprocess.Popen` that tests need."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._output = tempfile.TemporaryDirectory()
        self._streams = [Path(self._output.name) / name for name in ("stdout", "stderr")]
        self._process = FORKS.Process(
            target=run, args=(list(command), dict(environment), list(map(str, self._streams)))
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, -n of a program that signal n ended, None of one that runs."""
        return self._process.exitcode

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The same, as a call."""
        return self.returncode

    def kill(self) -> None:
        """Ends the program at once."""
        self._process.kill()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for the end; stdout and stderr."""
        self._process.join(timeout)
        if self._process.is_alive():
            raise TimeoutExpired("a forked program", timeout)
        said, complained = (each.read_text() for each in self._streams)
        self._output.cleanup()
        return said, complained

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the program still runs."""
        if self._process.is_alive():
            os.kill(self.pid, number)


def run(command: list[str], environment: dict[str, str], streams: list[str]) -> None:
    """Becomes the program: PYTHON -m MODULE with words behind it."""
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    _, _, name, *words = sys.orig_argv = command
    sys.argv = [name, *words]
    code = 0
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
