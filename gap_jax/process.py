"""Runs a command: a refusal or a signal becomes one line on stderr and an exit code.

SIGTERM, Ctrl-C and SIGHUP raise an exception in the main thread, so that partial output is removed.
A thread, which C code on the main thread does not hold up, ends the process at a second signal, or
if it has not ended soon after the first one. Nothing heavy is imported here: it comes first.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gap_jax.errors import BUG, PREEMPTED, describe, say

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

ECHO_S = 2.0  # schedulers may send SIGTERM twice at once
END_WITHIN_S = 20.0
SEND_AGAIN_S = 0.1
WRITABLE_S = 5.0  # for the last line, where nobody reads stderr
AGAIN = "run the same command again"


class Stopped(KeyboardInterrupt):
    """A signal told this process to stop."""


class Received:
    """The first signal that arrived, and whether another one is its echo."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._at = 0.0

    def is_second(self, number: int) -> bool:
        """Takes a signal in; whether it asks for an immediate end."""
        now = time.monotonic()
        if self.first is None:
            self.first, self._at = signal.Signals(number), now
            return False
        return not (number == self.first == signal.SIGTERM and now - self._at < ECHO_S)


class _Command:
    """The command that this process runs, with the exception of the signal that stops it."""

    def __init__(self) -> None:
        self.code: int | None = None  # once it has ended
        self.stopped: Stopped | None = None
        self.sent_again = 0  # signals that this process sent to itself
        self._raises_again = False

    def stop(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: raises once, and again where Python swallowed the exception."""
        del frame
        if self.code is not None:
            os._exit(self.code)
        if self.stopped is None:
            self.stopped = Stopped(f"stopped by {signal.Signals(number).name}; {AGAIN}")
        elif not self._raises_again:
            return
        self._raises_again = False
        raise self.stopped

    def notice_swallowed(self, unraisable: "UnraisableHookArgs") -> None:
        """The hook for exceptions in callbacks of C code, which cannot raise them."""
        if self.stopped is None or unraisable.exc_value is not self.stopped:
            sys.__unraisablehook__(unraisable)
            return
        self._raises_again = True
        self.sent_again += 1
        threading.Timer(SEND_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()


_command = _Command()


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command; a refusal becomes one line, an unforeseen exception a traceback and 70."""
    try:
        return command() or 0
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, and so has the wish for more
        return 0
    except (Exception, KeyboardInterrupt) as error:
        code, message = describe(_command.stopped or error)  # C code may raise another in its place
        if code == BUG:
            traceback.print_exc()
        say(code, message)
        return code


def run(command: Callable[[], int | None]) -> int:
    """Runs the command of this process: `exit_code`, with signals from the first instant on."""

    def start() -> int | None:
        _take_signals()
        return command()

    _command.code = exit_code(start)
    return _command.code


def list_signals() -> list[signal.Signals]:
    """The signals that stop a command; nohup has a process ignore SIGHUP."""
    ignores = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignores else [signal.SIGHUP])]


def end_at_once(reason: str) -> NoReturn:
    """Writes one line past all buffers and ends the process without cleaning up."""
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed or full
        if select.select([], [2], [], WRITABLE_S)[1]:
            os.write(2, f"gap_jax: error {PREEMPTED}: {reason}; {AGAIN}\n".encode())
    os._exit(PREEMPTED)


def _take_signals() -> None:
    numbers = list_signals()
    sys.unraisablehook = _command.notice_swallowed
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    signal.set_wakeup_fd(sink, warn_on_full_buffer=False)  # C code writes each signal there
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_listen, args=(source, numbers), name="signals", daemon=True).start()
    for number in numbers:
        signal.signal(number, _command.stop)


def _listen(source: int, numbers: list[signal.Signals]) -> None:
    """Ends the process where the handler in the main thread does not."""
    received, end_at = Received(), None
    while True:
        patience_s = None if end_at is None else max(0.0, end_at - time.monotonic())
        if not select.select([source], [], [], patience_s)[0]:
            end_at_once(f"still running {END_WITHIN_S:g} s after a signal")
        for number in os.read(source, 64):
            if number not in numbers:
                continue
            if _command.sent_again:
                _command.sent_again -= 1
            elif received.is_second(number):
                end_at_once("stopped at once by a second signal")
            elif signal.getsignal(number) == _command.stop:  # no training loop that saves first
                end_at = time.monotonic() + END_WITHIN_S
