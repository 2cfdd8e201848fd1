"""Logs how far a long loop is, and how long it will take."""

import datetime
import time
from collections.abc import Callable, Iterator

INTERVAL_S = 15.0

Log = Callable[[str], None]


def count_items(split: str, total: int, log: Log, done_to: str = "images read") -> Iterator[int]:
    """Yields the positions of a split's items; logs progress and the time left at intervals."""
    started = logged_at = time.monotonic()
    for done in range(total):
        now = time.monotonic()
        if done and now - logged_at > INTERVAL_S:
            logged_at = now
            left = datetime.timedelta(seconds=round((now - started) / done * (total - done)))
            log(f"{split}: {done:,} of {total:,} {done_to}, about {left} left")
        yield done
