"""Applies a function in threads, in order, with a bounded number of results in memory."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from data_pipelines.workers import MAX_THREADS, available_cores

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yields function(item) for each item in order; computes at most `ahead` before they are used.

    An error of the function is raised in its place.
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
