"""`Background`: offered items, and the warning when its queue is full."""

import threading
import time

import pytest

from gap_jax.runtime.reporting import writers
from tests.support.tiny_run import Recorder


def test_offer_drops_items_while_the_queue_is_not_empty() -> None:
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


def test_full_queue_warns_while_the_run_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "QUEUE_ITEMS", 1)
    gate, warnings = threading.Event(), list[str]()
    sink = writers.Background[int]("console", lambda: Recorder(gate=gate), warnings.append)
    for item in range(3):
        sink.write(item)
    assert warnings == ["the console hangs; training goes on without it"]
    gate.set()
    sink.close()
