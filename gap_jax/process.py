"""Runs a command: a refusal or a signal becomes one line on stderr and an exit code.

SIGTERM, Ctrl-C and SIGHUP raise an exception in the main thread, so that partial output is removed.
A thread, which C code on the main thread does not hold up, ends the process at a second signal, or
if it has not ended soon after the first one. What cannot be written to stdout is a refusal, too.
Nothing heavy is imported here, so that the handlers are set before anything else is imported.
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
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn, TextIO

from gap_jax.errors import (
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
    from sys import UnraisableHookArgs

    from _typeshed import ReadableBuffer

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ECHO_S = 2.0  # schedulers send SIGTERM twice, and systemd SIGHUP right after it
END_WITHIN_S = 20.0
SEND_AGAIN_S = 0.1
WRITABLE_S = 5.0  # for the last line, where nobody reads stderr
AGAIN = "run the same command again"


class Stopped(KeyboardInterrupt):
    """A signal told this process to stop."""


class ReaderGone(Refusal):
    """A closed pipe behind stdout, as of `head`; it ends the command with 0 and without a line."""

    exit_code = 0


class Received:
    """The first signal that arrived; a second one ends the process."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._at = 0.0

    def take(self, number: int) -> None:
        """Records a signal; if it is no echo of the first one, ends the command at once."""
        now = time.monotonic()
        if self.first is None:
            self.first, self._at = signal.Signals(number), now
        elif signal.SIGINT in (number, self.first) or now - self._at >= ECHO_S:
            if _command.wake < 0:  # no command: the process, a notebook's, is its owner's
                raise KeyboardInterrupt("stopped at once by a second signal")
            end_at_once("stopped at once by a second signal")


class _Command:
    """The command that this process runs, with the exception of the signal that stops it."""

    def __init__(self) -> None:
        self.is_ending = False
        self.code: int | None = None  # once it has ended
        self.stopped: Stopped | None = None
        self._number = signal.SIGTERM  # the signal that `stopped` names
        self.sent_again = 0  # signals that this process sent to itself
        self._raises_again = False
        self.start_by: float | None = None
        self.has_begun: Callable[[], bool] = bool
        self.wake = -1  # where a byte has the thread look at `start_by`

    def stop(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: raises once, and again where Python swallowed the exception."""
        del frame
        if self.code is not None:
            os._exit(self.code)
        if self.is_ending:
            return
        if self.stopped is None:
            self._number = signal.Signals(number)
            self.stopped = Stopped(f"stopped by {self._number.name}; {AGAIN}")
        elif not self._raises_again:
            return
        self._raises_again = False
        raise self.stopped

    def notice_unraisable(self, unraisable: "UnraisableHookArgs") -> None:
        """The hook for exceptions in callbacks of C code, which cannot raise them."""
        if not self._sends_again(unraisable.exc_value):
            sys.__unraisablehook__(unraisable)

    def notice_printed(
        self, kind: type[BaseException], value: BaseException, trace: TracebackType | None
    ) -> None:
        """The hook for exceptions that C code prints where it cannot raise them."""
        if not self._sends_again(value):
            sys.__excepthook__(kind, value, trace)

    def _sends_again(self, error: BaseException | None) -> bool:
        if self.stopped is None or error is not self.stopped:
            return False
        self._raises_again = True
        self.sent_again += 1
        threading.Timer(SEND_AGAIN_S, os.kill, (os.getpid(), self._number)).start()
        return True


_command = _Command()


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command; a refusal becomes one line, an unforeseen exception a traceback and 70."""
    try:
        try:
            code = command() or 0
        except SystemExit as end:  # of argparse and absl
            code = end.code or 0
            if not isinstance(code, int):
                raise ConfigError(code) from end
        if sys.stdout is not None:
            sys.stdout.flush()
        _command.is_ending = True  # no call before it, as Python runs signal handlers after calls
    except (Exception, KeyboardInterrupt) as error:
        _command.is_ending = True
        code, message = describe(_command.stopped or error)  # C code may raise another in its place
        if code == BUG:
            traceback.print_exc()
        if code:
            print_error(code, message)
    return code


def run(command: Callable[[], int | None]) -> int:
    """Runs the command of this process: `exit_code`, with signals from the first instant on."""

    def start() -> int | None:
        _open_streams()
        _take_signals()
        return command()

    _command.code = exit_code(start)
    return _command.code


def list_signals() -> list[signal.Signals]:
    """Lists the signals that stop a command: nohup and a shell's `&` have a process ignore some.

    None outside the main thread, where Python sets no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]


def limit_start(seconds: float, has_begun: Callable[[], bool]) -> None:
    """Ends this process with its stacks and 76 unless `has_begun` so many seconds later.

    A thread that cannot start, where memory is limited, leaves others waiting for it for ever.
    """
    if _command.wake < 0:  # a library's process is its owner's
        return
    _command.has_begun = has_begun
    _command.start_by = time.monotonic() + seconds
    os.write(_command.wake, b"\0")


def end_at_once(reason: str, code: int = PREEMPTED) -> NoReturn:
    """Writes one line past all buffers and ends the process without cleaning up."""
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed or full
        if select.select([], [2], [], WRITABLE_S)[1]:
            os.write(2, f"gap_jax: error {code}: {reason}; {AGAIN}\n".encode())
    os._exit(code)


class _Output(io.FileIO):
    """Standard output, whose failure is not taken for one of the files that a command writes."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes bytes; after a failure everything else is dropped."""
        try:
            return super().write(data) or 0
        except OSError as error:
            _discard(self.fileno())
            if isinstance(error, BrokenPipeError):
                raise ReaderGone from error
            raise CannotWrite(
                f"cannot write to standard output: {error.strerror}; make room or redirect it"
            ) from error


class _Errors(io.FileIO):
    """Standard error; what cannot be written there is dropped, so that the exit code stays."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes bytes."""
        try:
            return super().write(data) or 0
        except OSError:
            _discard(self.fileno())
            return len(memoryview(data))


def _open_streams() -> None:
    """Opens closed standard files on /dev/null, before another file gets their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest free number
    sys.stdout = _open_stream(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _open_stream(_Errors(2, "w", closefd=False), sys.stderr)


def _open_stream(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace",  # names of files and classes, where the encoding is ASCII
        line_buffering=raw.isatty()
        or isinstance(raw, _Errors)
        or (isinstance(before, io.TextIOWrapper) and before.write_through),  # python -u
    )


def _discard(number: int) -> None:
    """Has what is still in a buffer go nowhere, or Python would fail with 120 at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _take_signals() -> None:
    numbers = list_signals()
    sys.unraisablehook = _command.notice_unraisable
    sys.excepthook = _command.notice_printed
    source, sink = os.pipe()
    _command.wake = sink
    os.set_blocking(sink, False)
    signal.set_wakeup_fd(sink, warn_on_full_buffer=False)  # C code writes each signal there
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_listen, args=(source, numbers), name="signals", daemon=True).start()
    for number in numbers:
        signal.signal(number, _command.stop)
        atexit.register(signal.signal, number, signal.SIG_IGN)  # Python's end would reset it


def _listen(source: int, numbers: list[signal.Signals]) -> None:
    """Ends the process where the handler in the main thread does not."""
    received, end_at = Received(), None
    while True:
        limits = [each for each in (end_at, _command.start_by) if each is not None]
        patience_s = max(0.0, min(limits) - time.monotonic()) if limits else None
        if not select.select([source], [], [], patience_s)[0]:
            if end_at is not None and time.monotonic() >= end_at:
                end_at_once(f"still running {END_WITHIN_S:g} s after a signal")
            _check_start()
            continue
        for number in os.read(source, 64):
            if number not in numbers:
                continue
            if _command.sent_again:
                _command.sent_again -= 1
                continue
            received.take(number)
            if signal.getsignal(number) == _command.stop:  # no training loop that saves first
                end_at = time.monotonic() + END_WITHIN_S


def _check_start() -> None:
    _command.start_by = None
    if _command.has_begun():
        return
    with contextlib.suppress(OSError, ValueError):
        os.set_blocking(2, False)  # where nobody reads it
        faulthandler.dump_traceback(2)
        os.set_blocking(2, True)
    end_at_once(
        "no first step within runtime.start_within_s; above is where each thread was: give it more "
        "memory or threads (ulimit -v, -u), or a larger limit",
        PEER_LOST,
    )
