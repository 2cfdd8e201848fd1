"""Several processes of one run on this machine: a rehearsal of many hosts, or one for each GPU.

    python launch/local.py --processes=2 --config=configs/gap_pose.py:demo --workdir=runs/two

Every line of theirs begins with the process's number. SIGTERM, Ctrl-C and SIGHUP reach all of them.
When one fails, the others get the time to end by themselves; the command ends with its code.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO, NoReturn

LOOK_EVERY_S = 0.05
ECHOES = (76, 134)  # what a process ends with because another one has ended
WRITING = threading.Lock()
STDOUT, STDERR = 1, 2


class Processes:
    """Processes that live and end together."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._signals: list[int] = []
        self._codes: list[int] = []  # of the processes that failed, in that order
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and a shell's & set it
                signal.signal(number, self._take)

    def start(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Starts the next process."""
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C comes once, from here
        )
        index = len(self._processes)
        self._processes.append(process)
        for source, sink in ((process.stdout, STDOUT), (process.stderr, STDERR)):
            if source:
                reader = threading.Thread(target=relay, args=(index, source, sink), daemon=True)
                reader.start()
                self._readers.append(reader)

    def wait(self) -> int:
        """Waits for all processes; returns the code of the first failure that has its own cause."""
        alive = dict(enumerate(self._processes))
        deadline = float("inf")
        while alive:
            self._hand_on(alive)
            for index, process in list(alive.items()):
                if process.poll() is not None:
                    del alive[index]
                    if process.returncode:
                        self._codes.append(shell_code(process.returncode))
                        say(f"process {index} ended with {self._codes[-1]}")
            if self._codes and deadline == float("inf"):
                deadline = time.monotonic() + self._patience_s
            if alive and time.monotonic() > deadline:
                self._kill(alive)
                break
            time.sleep(LOOK_EVERY_S)
        for reader in self._readers:
            reader.join(1.0)  # a process that one of them left behind may hold the pipe open
        causes = [code for code in self._codes if code not in ECHOES]
        return next(iter(causes + self._codes), 0)

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals.append(number)

    def _hand_on(self, alive: dict[int, subprocess.Popen[bytes]]) -> None:
        while self._signals:
            number = self._signals.pop(0)
            for process in alive.values():
                process.send_signal(number)

    def _kill(self, alive: dict[int, subprocess.Popen[bytes]]) -> None:
        for index, process in alive.items():
            say(f"process {index} did not end within {self._patience_s:g} s, and is killed")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def relay(index: int, source: IO[bytes], sink: int) -> None:
    """Copies lines, each with the number of its process before it."""
    for line in source:
        with WRITING, contextlib.suppress(BrokenPipeError):  # the run goes on without its reader
            os.write(sink, b"[%d] %s\n" % (index, line.rstrip(b"\r\n")))


def say(message: str) -> None:
    """One line of this launcher's own."""
    with WRITING, contextlib.suppress(BrokenPipeError):
        os.write(STDERR, f"local.py: {message}\n".encode())


def shell_code(returncode: int) -> int:
    """A process's end as a shell tells it: 128 and the signal that ended it."""
    return returncode if returncode >= 0 else 128 - returncode


def find_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes end in one line and 64, as the program's own do."""

    def error(self, message: str) -> NoReturn:
        say(f"{message}; see --help")
        sys.exit(64)


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own options, and the program's words."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="All other words go to python -m gap_jax.main.",
    )
    add = parser.add_argument
    add("--processes", type=int, required=True, metavar="N")
    add("--one-gpu-each", action="store_true", help="process i sees the i-th GPU alone")
    add("--patience", type=float, default=40.0, metavar="S", help="seconds from a failure to kill")
    add("--dry-run", action="store_true", help="print the commands, run nothing")
    own, words = parser.parse_known_args()
    if own.processes < 1:
        parser.error(f"--processes={own.processes} starts nothing")
    return own, words


def choose_gpus(processes: int) -> list[dict[str, str]]:
    """For each process what makes it see one GPU: the next of those that this shell sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(index) for index in range(processes)]
    if len(names) < processes:
        say(f"CUDA_VISIBLE_DEVICES={seen} has no {processes} GPUs for --one-gpu-each")
        sys.exit(64)
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:processes]]


def main() -> int:
    """Starts the processes and waits for it."""
    own, words = parse()
    environments = choose_gpus(own.processes) if own.one_gpu_each else [{}] * own.processes
    common = [f"--coordinator=127.0.0.1:{find_port()}", f"--processes={own.processes}"]
    commands = [
        [sys.executable, "-m", "gap_jax.main", *words, *common, f"--process={index}"]
        for index in range(own.processes)
    ]
    if own.dry_run:
        for environment, command in zip(environments, commands, strict=True):
            settings = [f"{name}={value}" for name, value in environment.items()]
            print(shlex.join([*settings, *command]))
        return 0
    processes = Processes(own.patience)
    for environment, command in zip(environments, commands, strict=True):
        processes.start(command, environment)
    return processes.wait()


if __name__ == "__main__":
    sys.exit(main())
