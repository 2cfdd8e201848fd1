"""How the processes of a run end: together when all is done, and soon after each other otherwise.

A thread in each process reads why others ended, and whether this one still moves. It needs neither
the devices nor the main thread, which may both be waiting for a process that is gone.
"""

import contextlib
import faulthandler
import os
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn

import jax

from gap_jax.errors import BUG, PEER_LOST, Diverged, PeerLost, Preempted, Refusal, describe, say
from gap_jax.runtime.processes.group import Cause, Processes

LOOK_EVERY_S = 0.5
ECHO_S = 1.5  # after another's note, in which this process may come to the same end by itself
SPEAK_S = 5.0  # for last words, which nobody may be left to read
TELL_S = 3.0  # while the first process stays, whose end takes all notes away
TOGETHER = (Preempted, Diverged)  # all processes come to these at the same step
OF_PEERS = re.compile("gloo|nccl|coordinat|barrier|unavailable|connection|heartbeat", re.IGNORECASE)


class Watchdog:
    """Ends this process when another one has ended, or when it gives no sign of life any more.

    The first sign is due `start_within_s` after the beginning, every other one `stuck_after_s`
    after the one before it.
    """

    def __init__(
        self, processes: Processes, *, stuck_after_s: float, start_within_s: float
    ) -> None:
        self._processes = processes
        self._stuck_after_s = stuck_after_s
        self._start_within_s = start_within_s
        self._begun = time.monotonic()
        self._is_over = threading.Event()
        self._last_words = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="gang", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._is_over.set()
        self._thread.join()

    def end(self, error: BaseException) -> NoReturn:
        """Tells an error here and to the others, and ends the process at once.

        Leaving the interpreter in order would wait for the others in JAX's own barrier.
        """
        code, message = self._explain(error)
        with self._last_words:
            is_echo = isinstance(error, PeerLost) or self._is_of_peers(error)
            details = partial(traceback.print_exception, error) if code == BUG else None
            self._leave(code, message, details, is_own=not is_echo)

    def _explain(self, error: BaseException) -> tuple[int, str]:
        """A failed collective is the echo of another process's end, which may have left a note."""
        if isinstance(error, SystemExit):
            return BUG, f"the program left early, with {error.code}; please report it"
        if not self._is_of_peers(error):
            return describe(error)
        self._is_over.wait(LOOK_EVERY_S)  # the note may still be on its way
        return self._explain_loss(str(error).splitlines()[0])

    def _is_of_peers(self, error: BaseException) -> bool:
        is_jax = isinstance(error, jax.errors.JaxRuntimeError)
        return is_jax and OF_PEERS.search(str(error)) is not None

    def _explain_loss(self, symptom: str) -> tuple[int, str]:
        """A cause keeps its code, by which a launcher knows whether another start can help."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # of a coordinator that is gone
            for cause in self._processes.read_causes():
                return cause.exit_code, str(cause)
        return PEER_LOST, (
            f"another process of the run is gone ({symptom}); see the other processes' logs and "
            "run the same command again"
        )

    def _watch(self) -> None:
        try:
            self._look_until_over()
        except Exception as error:  # without a watch the process might wait for ever
            self.end(error)

    def _look_until_over(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            if (silent_s := self._find_silence()) is not None:
                field = (
                    "start_within_s" if self._processes.last_heartbeat is None else "stuck_after_s"
                )
                message = (
                    f"process {self._processes.index} made no progress for {silent_s:.0f} s; above is "
                    "where each of its threads was; run the same command again, with a larger "
                    f"runtime.{field} if it only takes long"
                )
                with self._last_words:
                    self._leave(PEER_LOST, message, _tell_stacks, is_own=True)
            if self._has_lost_another() and not self._is_over.wait(ECHO_S):
                code, message = self._explain_loss("the coordinator does not answer")
                with self._last_words:
                    self._leave(code, message, is_own=False)

    def _find_silence(self) -> float | None:
        last = self._processes.last_heartbeat
        now = time.monotonic()
        if last is None:
            return now - self._begun if now - self._begun > self._start_within_s else None
        return now - last if now - last > self._stuck_after_s else None

    def _has_lost_another(self) -> bool:
        try:
            return bool(self._processes.read_causes())
        except jax.errors.JaxRuntimeError:
            return True

    def _leave(
        self, code: int, message: str, details: Callable[[], None] | None = None, *, is_own: bool
    ) -> NoReturn:
        """Tells the others first, as nobody may be left to read what this process says."""
        try:
            if is_own:
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    self._processes.tell_cause(Cause(self._processes.index, code, message))
            speaker = threading.Thread(target=_speak, args=(code, message, details), daemon=True)
            speaker.start()
            speaker.join(SPEAK_S)
            if self._processes.is_first:
                time.sleep(TELL_S)
        finally:
            os._exit(code)


def _tell_stacks() -> None:
    """By way of a file: faulthandler would keep all threads waiting while nobody reads."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        sys.stderr.write(file.read())


def _speak(code: int, message: str, details: Callable[[], None] | None) -> None:
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # of a stream without a reader
        if details is not None:
            details()
        say(code, message)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, Refusal):
            stream.flush()


@contextlib.contextmanager
def ending_together(
    processes: Processes, *, stuck_after_s: float, start_within_s: float
) -> Iterator[None]:
    """Around the work of a process: all leave in order, or each as soon as one has failed."""
    watchdog = Watchdog(processes, stuck_after_s=stuck_after_s, start_within_s=start_within_s)
    watchdog.start()
    try:
        yield
    except TOGETHER:
        _leave_in_order(watchdog)
        raise
    except BaseException as error:
        watchdog.end(error)
    else:
        _leave_in_order(watchdog)


def _leave_in_order(watchdog: Watchdog) -> None:
    """Waits until all are here, so that the interpreter's own end finds nothing to wait for."""
    watchdog.stop()
    try:
        jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError as error:
        watchdog.end(error)
