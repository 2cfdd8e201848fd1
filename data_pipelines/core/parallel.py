"""Applies a function in threads, in order, with a bounded number of results in memory."""

import collections
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MAX_THREADS = 8  # that decode: with more, waiting for the GIL costs more than another one gains

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Counts the processor cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def map_ahead(function: Callable[[T], R], items: Iterable[T], ahead: int) -> Generator[R]:
    """Yields function(item) for each item in order; computes at most `ahead` before they are used.

    An error of the function is raised in its place. Closing it waits for what is being computed.
    """
    waiting = collections.deque[Future[R]]()
    pool = ThreadPoolExecutor(min(MAX_THREADS, available_cores()))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
