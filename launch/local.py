"""Starts several processes of one run on this machine, to test multi-host runs or one per GPU.

    python launch/local.py --processes=2 --config=configs/gap_pose.py:demo --workdir=runs/two

Each line of output begins with the index of its process. SIGTERM, Ctrl-C and SIGHUP are sent to all
processes. If one fails, the others have --patience seconds to end; the exit code is its code.
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
from typing import IO, NoReturn

POLL_INTERVAL_S = 0.05
FOLLOWING_CODES = (76, 134)  # a process ends with them because another one has ended
OUTPUT_LOCK = threading.Lock()
STDOUT, STDERR = 1, 2


def supervise(
    commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]], patience_s: float
) -> int:
    """Runs the processes; returns the code of the first failure, preferably its cause."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # set by nohup or a shell's &
            signal.signal(number, lambda each, _: signals.append(each))
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # else Ctrl-C is sent twice
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    readers = [
        threading.Thread(target=relay, args=(index, source, sink), daemon=True)
        for index, process in enumerate(processes)
        for source, sink in ((process.stdout, STDOUT), (process.stderr, STDERR))
    ]
    for reader in readers:
        reader.start()
    codes = wait(dict(enumerate(processes)), signals, patience_s)
    for reader in readers:
        reader.join(1.0)  # an orphaned child may hold the pipe open
    causes = [code for code in codes if code not in FOLLOWING_CODES]
    return next(iter(causes + codes), 0)


def wait(
    alive: dict[int, subprocess.Popen[bytes]], signals: list[int], patience_s: float
) -> list[int]:
    """Forwards signals until all processes have ended; returns the codes of failures in order."""
    codes: list[int] = []
    deadline = float("inf")
    while alive:
        while signals:
            number = signals.pop(0)
            for process in alive.values():
                process.send_signal(number)
        for index, process in list(alive.items()):
            code = process.poll()
            if code is not None:
                del alive[index]
            if code:  # -N after signal N, which a shell reports as 128 + N
                codes.append(code if code > 0 else 128 - code)
                print_error(f"process {index} ended with {codes[-1]}")
                deadline = min(deadline, time.monotonic() + patience_s)
        if time.monotonic() > deadline:
            for index, process in alive.items():
                print_error(f"killing process {index}, which did not end within {patience_s:g} s")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            break
        time.sleep(POLL_INTERVAL_S)
    return codes


def relay(index: int, source: IO[bytes] | None, sink: int) -> None:
    """Copies lines with the index of their process in front."""
    for line in source or ():
        with OUTPUT_LOCK, contextlib.suppress(BrokenPipeError):  # continue without a reader
            os.write(sink, b"[%d] %s\n" % (index, line.rstrip(b"\r\n")))


def print_error(message: str) -> None:
    """Prints a line of this launcher on stderr."""
    with OUTPUT_LOCK, contextlib.suppress(BrokenPipeError):
        os.write(STDERR, f"local.py: {message}\n".encode())


class Parser(argparse.ArgumentParser):
    """Refuses mistakes in one line with code 64, like gap_jax."""

    def error(self, message: str) -> NoReturn:
        print_error(f"{message}; see --help")
        sys.exit(64)


def choose_gpus(processes: int) -> list[dict[str, str]]:
    """Returns the environment of each process, with one of the visible GPUs each."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(index) for index in range(processes)]
    if len(names) < processes:
        print_error(
            f"CUDA_VISIBLE_DEVICES={seen} has too few GPUs for --processes={processes}; list more"
        )
        sys.exit(64)
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:processes]]


def main() -> int:
    """Starts the processes and waits for them."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="All other arguments go to python -m gap_jax.main.",
    )
    add = parser.add_argument
    add("--processes", type=int, required=True, metavar="N")
    add("--one-gpu-each", action="store_true", help="process i uses only GPU i")
    add("--patience", type=float, default=40.0, metavar="S", help="seconds from failure to kill")
    add("--dry-run", action="store_true", help="print the commands without running them")
    own, words = parser.parse_known_args()
    if own.processes < 1:
        parser.error(f"--processes={own.processes} must be 1 or more")
    environments = choose_gpus(own.processes) if own.one_gpu_each else [{}] * own.processes
    with socket.socket() as probe:  # finds a free port
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = [f"--coordinator=127.0.0.1:{port}", f"--processes={own.processes}"]
    commands = [
        [sys.executable, "-m", "gap_jax.main", *words, *common, f"--process={index}"]
        for index in range(own.processes)
    ]
    if not own.dry_run:
        return supervise(commands, environments, own.patience)
    for environment, command in zip(environments, commands, strict=True):
        settings = [f"{name}={value}" for name, value in environment.items()]
        print(shlex.join([*settings, *command]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
