"""The lock of a run in a bucket: an object that a heartbeat rewrites.

A stale lock is detected by a missing heartbeat (90 s); no clocks are compared.
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

HEARTBEAT_S = 30.0
DEAD_AFTER_S = 90.0
LOOK_EVERY_S = 2.0


class HeartbeatLock:
    """The lock that the first process of a run holds; `owner_id` tells it from every other one."""

    def __init__(self, store: Store, say: Callable[[str], None]) -> None:
        self.owner_id = secrets.token_hex(8)
        self._owner = {**describe_owner(), "owner_id": self.owner_id}
        self._store = store
        self._say = say
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="heartbeat", daemon=True)

    def acquire(self) -> str:
        """Acquires the lock, or refuses naming the run that holds it; gives the owner's id."""
        while not self._store.create(LOCK, self._describe(0)):
            self._wait_for_owner()
        self._thread.start()
        return self.owner_id

    def release(self) -> None:
        """Removes the lock, unless another run has taken it."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        if read_owner_id(self._store) == self.owner_id:
            self._store.remove(LOCK)

    def _wait_for_owner(self) -> None:
        before = _read_lock(self._store)
        if before is None:
            return
        address, owner = self._store.address, name_owner(before)
        self._say(
            f"{address} is locked by {owner}; watching its heartbeat for {DEAD_AFTER_S:.0f} s"
        )
        until = time.monotonic() + DEAD_AFTER_S
        while time.monotonic() < until:
            time.sleep(min(LOOK_EVERY_S, DEAD_AFTER_S))
            now = _read_lock(self._store)
            if now is None:
                return
            if now != before:
                raise InUse(
                    f"{address} is in use by {name_owner(now)}; "
                    "wait for that run, end it, or choose another --workdir"
                )
        self._say(f"{owner} shows no heartbeat; going on from what it left in {address}")
        self._store.remove(LOCK)

    def _keep(self) -> None:
        beat = 0
        while not self._is_over.wait(HEARTBEAT_S):
            beat += 1
            with contextlib.suppress(CannotWrite):  # the next beat may get through
                if read_owner_id(self._store) == self.owner_id:
                    self._store.write(LOCK, self._describe(beat))

    def _describe(self, beat: int) -> bytes:
        return json.dumps({**self._owner, "beat": beat}).encode()


def _read_lock(store: Store) -> bytes | None:
    """The lock's content; on a local disk the file is empty for a moment while it is rewritten."""
    for _ in range(20):
        if (content := store.read(LOCK)) != b"":
            return content
        time.sleep(0.05)
    return b""


def read_owner_id(store: Store) -> str | None:
    """The id of the process that holds the lock now."""
    return _owner_id_in(_read_lock(store) or b"")


def _owner_id_in(content: bytes) -> str | None:
    try:
        return str(json.loads(content)["owner_id"])
    except (ValueError, KeyError, TypeError):
        return None


def refuse_unless_held(store: Store, owner_id: str, *, is_strict: bool) -> None:
    """Refuses to go on where another run took the lock; `is_strict`, also where nobody holds it.

    The first process of several frees the lock before the others have ended.
    """
    content = _read_lock(store)
    if content is None and not is_strict:
        return
    if content is None or _owner_id_in(content) != owner_id:
        reason = f"taken by {name_owner(content)}" if content else "removed"
        raise InUse(
            f"the lock of {store.address} was {reason}, as if this run were dead; "
            "it writes no more there"
        )
