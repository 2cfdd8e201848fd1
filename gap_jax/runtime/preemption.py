"""Turns SIGTERM, SIGINT and SIGHUP into a stop flag that the loop checks after every step."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from gap_jax.process import StopFlag, list_signals


class SharedStopFlag(StopFlag):
    """The stop flag of several processes, which check it at the same places and equally often.

    JAX receives SIGTERM and agrees with all processes on the number of a check soon after.
    """

    def __init__(self) -> None:
        super().__init__()
        self._checks = 0
        self._is_agreed = False

    def is_stopping(self) -> bool:
        """Whether all processes stop at this check, or did at an earlier one."""
        self._checks += 1
        self._is_agreed |= multihost_utils.reached_preemption_sync_point(self._checks)
        return self._is_agreed

    def take(self, number: int, _frame: FrameType | None = None) -> None:
        """Passes Ctrl-C and SIGHUP to JAX as SIGTERM; a second one ends the process."""
        super().take(number)
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def catching_signals() -> Iterator[StopFlag]:
    """Sets the stop flag at the first signal; a second one ends the process at once.

    With several processes jax.distributed owns SIGTERM: a handler set later would disable its
    agreement, and one set earlier would never be called. So only Ctrl-C and SIGHUP are caught, and
    `jax.distributed.initialize` must run before. Outside the main thread no signal is caught.
    """
    is_shared = jax.process_count() > 1
    stop_flag = SharedStopFlag() if is_shared else StopFlag()
    before = {
        number: signal.signal(number, stop_flag.take)
        for number in list_signals()
        if not (is_shared and number == signal.SIGTERM)
    }
    try:
        yield stop_flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
