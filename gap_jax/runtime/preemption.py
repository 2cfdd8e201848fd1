"""SIGTERM and Ctrl-C as a wish to stop that the loop reads, instead of a sudden end."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from gap_jax.errors import PREEMPTED

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Watch:
    """Whether the run has been told to stop; asked after every step and evaluation batch."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None

    def is_stopping(self, step: int) -> bool:
        """Whether to stop now, after `step` updates; several processes agree on the step.

        With several processes all of them ask, at the same places, with the same `step`.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received is not None

    @property
    def cause(self) -> str:
        """What told the run to stop."""
        return self._received.name if self._received else "the scheduler"

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._received:
            os.write(
                2,
                b"gap_jax: error 75: stopped at once by a second signal; "
                b"run the same command again to go on from the last checkpoint\n",
            )
            os._exit(PREEMPTED)
        self._received = signal.Signals(number)


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Turns the first signal into a wish to stop and a second one into an immediate end.

    With several processes no handler is installed: jax.distributed owns SIGTERM there, a handler
    set later would silently end its agreement on a step, and one set earlier would never be called.
    So this is entered after `jax.distributed.initialize`, from the main thread.
    """
    watch = Watch()
    if jax.process_count() > 1:
        yield watch
        return
    before = {number: signal.signal(number, watch._receive) for number in _SIGNALS}
    try:
        yield watch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
