"""SIGTERM and Ctrl-C as a wish to stop that the loop reads, instead of a sudden end."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from gap_jax.errors import PREEMPTED

ECHO_S = 2.0  # schedulers may send SIGTERM twice at once


class Watch:
    """Whether the run has been told to stop; asked after every step and evaluation batch."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._received_at = 0.0

    def is_stopping(self) -> bool:
        """Whether to stop now."""
        return self._received is not None

    @property
    def cause(self) -> str:
        """What told the run to stop."""
        return self._received.name if self._received else "the scheduler"

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Takes a first signal as a wish, and ends the process at a second one."""
        del frame
        now = time.monotonic()
        if number == self._received == signal.SIGTERM and now - self._received_at < ECHO_S:
            return
        if self._received:
            os.write(
                2,
                b"gap_jax: error 75: stopped at once by a second signal; "
                b"run the same command again to go on from the last checkpoint\n",
            )
            os._exit(PREEMPTED)
        self._received, self._received_at = signal.Signals(number), now


class GangWatch(Watch):
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
        """Hands Ctrl-C to JAX as SIGTERM, and ends the process at a second one."""
        super().receive(number, frame)
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Turns the first signal into a wish to stop and a second one into an immediate end.

    With several processes jax.distributed owns SIGTERM: a handler set later would silently end its
    agreement, and one set earlier would never be called. So only Ctrl-C is taken there, and this is
    entered after `jax.distributed.initialize`, from the main thread.
    """
    if jax.process_count() > 1:
        watch, numbers = GangWatch(), (signal.SIGINT,)
    else:
        watch, numbers = Watch(), (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, watch.receive) for number in numbers}
    try:
        yield watch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
