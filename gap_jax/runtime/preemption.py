"""Turns SIGTERM, SIGINT and SIGHUP into a stop flag that the loop checks."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from gap_jax.process import Received, list_signals


class StopFlag(Received):
    """Whether the run has been told to stop; asked after every step and evaluation batch."""

    def is_stopping(self) -> bool:
        """Whether to stop now."""
        return self.first is not None

    @property
    def cause(self) -> str:
        """What told the run to stop."""
        return self.first.name if self.first else "the scheduler"

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        del frame
        self.take(number)


class SharedStopFlag(StopFlag):
    """The wish of any of several processes, which all of them read at the same question.

    So all of them ask, at the same places and equally often. JAX takes SIGTERM and finds the
    question; it asks a little later than the signal came, but the same in every process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0
        self._is_agreed = False

    def is_stopping(self) -> bool:
        """Whether all stop at this question, or did at an earlier one."""
        self._asked += 1
        self._is_agreed |= multihost_utils.reached_preemption_sync_point(self._asked)
        return self._is_agreed

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Hands Ctrl-C and SIGHUP to JAX as SIGTERM; a second one ends the process."""
        super().receive(number, frame)
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def catching_signals() -> Iterator[StopFlag]:
    """Turns the first signal into a stop flag and a second one into an immediate end.

    With several processes jax.distributed owns SIGTERM: a handler set later would silently end its
    agreement, and one set earlier would never be called. So only Ctrl-C and SIGHUP are taken there,
    and this is entered after `jax.distributed.initialize`. Outside the main thread it takes none.
    """
    if jax.process_count() > 1:
        stop_flag = SharedStopFlag()
        numbers = [number for number in list_signals() if number != signal.SIGTERM]
    else:
        stop_flag, numbers = StopFlag(), list_signals()
    before = {number: signal.signal(number, stop_flag.receive) for number in numbers}
    try:
        yield stop_flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
