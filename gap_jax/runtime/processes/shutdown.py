"""Shuts all processes of a run down together; if one fails, stops the others.

A thread does it: the devices and the main thread may both wait for a lost process.
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
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import jax

from data_pipelines.core.errors import (
    BUG,
    PEER_LOST,
    Diverged,
    PeerLost,
    Preempted,
    Refusal,
    describe,
    print_error,
)
from gap_jax.runtime.processes.group import Exit, Processes

POLL_S = 0.5
OWN_END_S = 1.5  # after another process's exit, this one may fail with an error of its own
STDERR_TIMEOUT_S = 5.0  # a pipe without a reader blocks
COORDINATOR_DELAY_S = 3.0  # the entries are lost when the first process ends
SIMULTANEOUS = (Preempted, Diverged)  # all processes raise these at the same step
PEER_ERROR = re.compile(
    "gloo|nccl|coordinat|barrier|unavailable|connection|heartbeat", re.IGNORECASE
)


class Watchdog(contextlib.AbstractContextManager["Watchdog"]):
    """Ends this process if another one has ended, or if this one makes no progress.

    A heartbeat is due within `start_within_s` of the start or of an earlier one that is part of the
    start, and within `stuck_after_s` of any other.
    After the block all processes shut down together, or each as soon as one has failed.
    """

    def __init__(
        self, processes: Processes, *, stuck_after_s: float, start_within_s: float
    ) -> None:
        self._processes = processes
        self._stuck_after_s = stuck_after_s
        self._start_within_s = start_within_s
        self._started_at = time.monotonic()
        self._is_over = threading.Event()
        self._exiting = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, SIMULTANEOUS):
            self._end(error)
        self._is_over.set()
        self._thread.join()
        try:
            jax.distributed.shutdown()  # waits for all, so that the interpreter's exit need not
        except jax.errors.JaxRuntimeError as lost:
            self._end(lost)

    def _end(self, error: BaseException) -> NoReturn:
        """Ends this process at once: the interpreter's exit would wait in JAX's barrier."""
        is_of_peer = isinstance(error, jax.errors.JaxRuntimeError) and bool(
            PEER_ERROR.search(str(error))
        )
        if isinstance(error, SystemExit):
            code = BUG
            message = f"unexpected exit of the program with {error.code}; please report it"
        elif is_of_peer:
            self._is_over.wait(POLL_S)  # the other process's entry may arrive later
            code, message = self._explain_lost_peer(str(error).splitlines()[0])
        else:
            code, message = describe(error)
        details = partial(traceback.print_exception, error) if code == BUG else None
        self._exit(code, message, details, is_own=not (is_of_peer or isinstance(error, PeerLost)))

    def _explain_lost_peer(self, symptom: str) -> tuple[int, str]:
        """Returns another process's exit code, by which a launcher decides whether to restart."""
        if exits := self._read_exits():
            return exits[0].exit_code, str(exits[0])
        return PEER_LOST, (
            f"another process of the run has ended ({symptom}); see the other processes' logs and "
            "run the same command again"
        )

    def _watch(self) -> None:
        try:
            while not self._is_over.wait(POLL_S):
                self._check_progress()
                if self._read_exits() != [] and not self._is_over.wait(OWN_END_S):
                    code, message = self._explain_lost_peer("the coordinator does not answer")
                    self._exit(code, message, is_own=False)
        except Exception as error:  # without a watchdog the process might wait for ever
            self._end(error)

    def _check_progress(self) -> None:
        field, limit_s = "stuck_after_s", self._stuck_after_s
        if self._processes.is_starting:
            field, limit_s = "start_within_s", self._start_within_s
        last = self._processes.last_heartbeat or self._started_at
        if (silent_s := time.monotonic() - last) > limit_s:
            message = (
                f"process {self._processes.index} made no progress for {silent_s:.0f} s; the "
                "stacks of its threads are above; run the same command again, with a larger "
                f"runtime.{field} if it is only slow"
            )
            self._exit(PEER_LOST, message, _print_stacks, is_own=True)

    def _read_exits(self) -> list[Exit] | None:
        """Returns the exits of other processes, None if the coordinator has ended."""
        try:
            return self._processes.read_exits()
        except jax.errors.JaxRuntimeError:
            return None

    def _exit(
        self, code: int, message: str, details: Callable[[], None] | None = None, *, is_own: bool
    ) -> NoReturn:
        """Reports to the other processes before it prints: stderr may block."""
        with self._exiting:
            try:
                if is_own:
                    with contextlib.suppress(jax.errors.JaxRuntimeError):
                        self._processes.report_exit(Exit(self._processes.index, code, message))
                printer = threading.Thread(
                    target=_print, args=(code, message, details), daemon=True
                )
                printer.start()
                printer.join(STDERR_TIMEOUT_S)
                if self._processes.is_first:
                    time.sleep(COORDINATOR_DELAY_S)
            finally:
                os._exit(code)


def _print_stacks() -> None:
    """Prints by way of a file: faulthandler would stop all threads while nobody reads stderr."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        sys.stderr.write(file.read())


def _print(code: int, message: str, details: Callable[[], None] | None) -> None:
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # a stream without a reader
        if details is not None:
            details()
        print_error(code, message)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, Refusal):
            stream.flush()
