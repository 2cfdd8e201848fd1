"""Runs a command: turns a refusal or a signal into one line on stderr and an exit code.

SIGTERM, Ctrl-C and SIGHUP raise an exception in the main thread, so that partial output is removed.
C code there may block it; so a thread ends the process at a second signal, or after END_TIMEOUT_S.
This module imports nothing heavy, so that the handlers are set before other imports.
"""

import atexit
import contextlib
import faulthandler
import io
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

from data_pipelines.core.errors import (
    BUG,
    PEER_LOST,
    PREEMPTED,
    CannotWrite,
    ConfigError,
    Refusal,
    describe,
    print_error,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DUPLICATE_SIGNAL_S = 2.0  # schedulers send SIGTERM twice, systemd adds SIGHUP
END_TIMEOUT_S = 20.0
RESEND_DELAY_S = 0.1
STDERR_TIMEOUT_S = 5.0  # for the final line if stderr is not read
RETRY_HINT = "run the same command again"


class Stopped(KeyboardInterrupt):
    """A signal stops this process."""


class StdoutClosed(Refusal, exit_code=0):
    """The reader of stdout closed the pipe, as `head` does; the command ends with 0 and no line."""


class StopFlag:
    """Whether a signal asks to stop; a second one ends the process."""

    def __init__(self) -> None:
        self._first: signal.Signals | None = None
        self._at = 0.0

    def is_stopping(self) -> bool:
        return self._first is not None

    @property
    def cause(self) -> str:
        """The name of the signal, or the scheduler."""
        return self._first.name if self._first else "the scheduler"

    def take(self, number: int, _frame: FrameType | None = None) -> None:
        """Records the first signal; ends the process at a second one that is no duplicate."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._at = signal.Signals(number), now
        elif signal.SIGINT in (number, self._first) or now - self._at >= DUPLICATE_SIGNAL_S:
            if _command.wake < 0:  # the process runs no command, but a notebook
                raise KeyboardInterrupt("stopped at once by a second signal")
            end_at_once("stopped at once by a second signal")


class _Command:
    """The command that this process runs, with the exception of the signal that stops it."""

    def __init__(self) -> None:
        self.is_ending = False
        self.code: int | None = None  # once it has ended
        self.stopped: Stopped | None = None
        self._number = signal.SIGTERM  # the signal that `stopped` names
        self.resent = 0  # signals that this process sent to itself
        self._raises_again = False
        self.start_by: float | None = None
        self.has_begun: Callable[[], bool] = bool
        self.wake = -1  # pipe: a byte makes the thread read `start_by`

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: raises once, and once more if Python dropped the exception.

        It waits for the end of an import: C++ modules abort if their initialisation raises.
        """
        if self.code is not None:
            os._exit(self.code)
        if self.is_ending:
            return
        if self.stopped is None:
            self._number = signal.Signals(number)
            self.stopped = Stopped(f"stopped by {self._number.name}; {RETRY_HINT}")
        elif not self._raises_again:
            return
        self._raises_again = False
        if not _is_importing(frame):
            raise self.stopped
        self._resend_later()

    def resend(self, error: BaseException | None) -> bool:
        """Sends the signal again if C code dropped its exception; returns whether it did."""
        if self.stopped is None or error is not self.stopped:
            return False
        self._resend_later()
        return True

    def _resend_later(self) -> None:
        self._raises_again = True
        self.resent += 1
        threading.Timer(RESEND_DELAY_S, os.kill, (os.getpid(), self._number)).start()


def _is_importing(frame: FrameType | None) -> bool:
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


_command = _Command()


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command; prints one line for a refusal, and a traceback for another exception (70)."""
    try:
        try:
            code = command() or 0
        except SystemExit as end:  # of argparse and absl
            code = end.code or 0
            if not isinstance(code, int):
                raise ConfigError(code) from end
        if sys.stdout is not None:
            sys.stdout.flush()
        _command.is_ending = True  # no call here: signal handlers run after calls
    except (Exception, KeyboardInterrupt) as error:
        _command.is_ending = True
        code, message = describe(_command.stopped or error)  # C code may replace the exception
        if code == BUG:
            traceback.print_exc()
        if code:
            print_error(code, message)
    return code


def run(command: Callable[[], int | None]) -> int:
    """Runs the command of this process with signal handlers and safe standard streams."""

    def start() -> int | None:
        _open_streams()
        _take_signals()
        return command()

    _command.code = exit_code(start)
    return _command.code


def list_signals() -> list[signal.Signals]:
    """Lists the stop signals, without those that nohup or a shell's `&` ignores."""
    if threading.current_thread() is not threading.main_thread():
        return []  # only the main thread can set handlers
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def limit_start(seconds: float, has_begun: Callable[[], bool]) -> None:
    """Ends this process with its stacks and 76 if `has_begun` is false after `seconds`."""
    # with limited memory a thread may fail to start, and other threads wait for it forever
    if _command.wake < 0:  # the process runs no command, but a notebook
        return
    _command.has_begun = has_begun
    _command.start_by = time.monotonic() + seconds
    os.write(_command.wake, b"\0")


def end_at_once(reason: str, code: int = PREEMPTED) -> NoReturn:
    """Writes one line without buffering and ends the process without cleanup."""
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed or full
        if select.select([], [2], [], STDERR_TIMEOUT_S)[1]:
            os.write(2, f"gap_jax: error {code}: {reason}; {RETRY_HINT}\n".encode())
    os._exit(code)


class _Stream(io.FileIO):
    """Standard output or error; a failed write to stdout is a refusal, to stderr has no effect."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes bytes; after a failure all further bytes are discarded."""
        try:
            return super().write(data) or 0
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)  # a failing flush would end Python with 120
            os.dup2(null, self.fileno())
            os.close(null)
            if self.fileno() == 2:
                return len(memoryview(data))
            if isinstance(error, BrokenPipeError):
                raise StdoutClosed from error
            raise CannotWrite(
                f"cannot write to standard output: {error.strerror}; make room or redirect it"
            ) from error


def _open_streams() -> None:
    """Opens closed standard files on /dev/null, before another file gets their descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
    sys.stdout = _open_stream(1, sys.stdout)
    sys.stderr = _open_stream(2, sys.stderr)


def _open_stream(number: int, before: TextIO | None) -> io.TextIOWrapper:
    raw = _Stream(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace",  # for names of files and classes in an ASCII terminal
        line_buffering=raw.isatty()
        or number == 2
        or (isinstance(before, io.TextIOWrapper) and before.write_through),  # python -u
    )


def _take_signals() -> None:
    numbers = list_signals()
    # C code that cannot raise an exception passes it to one of these hooks
    sys.unraisablehook = lambda it: _command.resend(it.exc_value) or sys.__unraisablehook__(it)
    sys.excepthook = lambda kind, value, trace: (
        _command.resend(value) or sys.__excepthook__(kind, value, trace)
    )
    source, sink = os.pipe()
    _command.wake = sink
    os.set_blocking(sink, False)
    signal.set_wakeup_fd(sink, warn_on_full_buffer=False)  # the C handler writes each signal there
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_listen, args=(source, numbers), name="signals", daemon=True).start()
    for number in numbers:
        signal.signal(number, _command.stop)
        atexit.register(signal.signal, number, signal.SIG_IGN)  # Python resets handlers at exit


def _listen(source: int, numbers: list[signal.Signals]) -> None:
    """Ends the process if the handler in the main thread does not."""
    received, end_at = StopFlag(), None
    while True:
        limits = [each for each in (end_at, _command.start_by) if each is not None]
        timeout_s = max(0.0, min(limits) - time.monotonic()) if limits else None
        if not select.select([source], [], [], timeout_s)[0]:
            if end_at is not None and time.monotonic() >= end_at:
                end_at_once(f"still running {END_TIMEOUT_S:g} s after a signal")
            _check_start()
            continue
        for number in os.read(source, 64):
            if number not in numbers:
                continue
            if _command.resent:
                _command.resent -= 1
                continue
            received.take(number)
            if signal.getsignal(number) == _command.stop:  # the training loop saves first
                end_at = time.monotonic() + END_TIMEOUT_S


def _check_start() -> None:
    _command.start_by = None
    if _command.has_begun():
        return
    with contextlib.suppress(OSError, ValueError):
        os.set_blocking(2, False)  # stderr may not be read
        faulthandler.dump_traceback(2)
        os.set_blocking(2, True)
    end_at_once(
        "no first step within runtime.start_within_s; the stacks of all threads are above: give "
        "the run more memory or threads (ulimit -v, -u), or raise the limit",
        PEER_LOST,
    )
