"""A writer on its own thread: what it is offered, and what is told when it falls behind."""

import threading
import time

import pytest

from gap_jax.runtime.reporting import writers
from tests.support.tiny_run import Recorder


def test_items_are_offered_to_a_writer_that_waits_for_some() -> None:
    gate, warnings = threading.Event(), list[str]()
    slow = Recorder(gate=gate)
    sink = writers.Background[int]("console", lambda: slow, warnings.append)
    sink.write(1)
    while not sink._queue.empty():
        time.sleep(0.001)
    sink.offer(2)
    sink.offer(3)
    gate.set()
    sink.close()
    assert slow.items == [1, 2] and not warnings


def test_a_full_queue_is_told_while_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "QUEUE_ITEMS", 1)
    gate, warnings = threading.Event(), list[str]()
    sink = writers.Background[int]("console", lambda: Recorder(gate=gate), warnings.append)
    for item in range(3):
        sink.write(item)
    assert warnings == ["the console hangs; training goes on without it"]
    gate.set()
    sink.close()
