"""The lock of a run in a bucket: a file that changes as long as the run lives.

No kernel frees it. So a start that finds one watches it: one that changes is another run's, and one
that stays the same for long is a dead one's. No clocks are compared.
"""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable

from data_pipelines.files import describe_owner, name_owner
from gap_jax.errors import CannotWrite, InUse
from gap_jax.runtime.bucket.store import Store
from gap_jax.runtime.lock import LOCK

BEAT_S = 30.0
DEAD_AFTER_S = 90.0
LOOK_EVERY_S = 2.0


class Lease:
    """What the first process of a run holds; `token` tells it from every other one."""

    def __init__(self, store: Store, say: Callable[[str], None]) -> None:
        self.token = secrets.token_hex(8)
        self._owner = {**describe_owner(), "token": self.token}
        self._store = store
        self._say = say
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self) -> str:
        """Takes the lock, or refuses naming the run that lives; gives the token."""
        while not self._store.create(LOCK, self._describe(0)):
            self._outwait()
        self._thread.start()
        return self.token

    def release(self) -> None:
        """Removes the lock, unless another run has taken it."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        if read_token(self._store) == self.token:
            self._store.remove(LOCK)

    def _outwait(self) -> None:
        before = self._store.read(LOCK)
        if before is None:
            return
        address, owner = self._store.address, name_owner(before)
        self._say(
            f"{address} was taken by {owner}; watching for {DEAD_AFTER_S:.0f} s whether it lives"
        )
        until = time.monotonic() + DEAD_AFTER_S
        while time.monotonic() < until:
            time.sleep(min(LOOK_EVERY_S, DEAD_AFTER_S))
            now = self._store.read(LOCK)
            if now is None:
                return
            if now != before:
                raise InUse(
                    f"{address} is in use by {name_owner(now)}; "
                    "wait for that run, end it, or choose another --workdir"
                )
        self._say(f"{owner} gave no sign of life; going on from what it left in {address}")
        self._store.remove(LOCK)

    def _keep(self) -> None:
        beat = 0
        while not self._is_over.wait(BEAT_S):
            beat += 1
            with contextlib.suppress(CannotWrite):  # the next beat may get through
                if read_token(self._store) == self.token:
                    self._store.write(LOCK, self._describe(beat))

    def _describe(self, beat: int) -> bytes:
        return json.dumps({**self._owner, "beat": beat}).encode()


def read_token(store: Store) -> str | None:
    """Of whoever holds the lock now."""
    return _token_in(store.read(LOCK) or b"")


def _token_in(content: bytes) -> str | None:
    try:
        return str(json.loads(content)["token"])
    except (ValueError, KeyError, TypeError):
        return None


def refuse_unless_held(store: Store, token: str, *, is_strict: bool) -> None:
    """Refuses to go on where another run took this one for dead; `is_strict`, or where none has.

    The first process of several frees the lock before the others have ended.
    """
    content = store.read(LOCK)
    if content is None and not is_strict:
        return
    if content is None or _token_in(content) != token:
        thief = f"taken by {name_owner(content)}" if content else "removed"
        raise InUse(
            f"the lock of {store.address} was {thief}, as if this run were dead; "
            "it writes no more there"
        )
