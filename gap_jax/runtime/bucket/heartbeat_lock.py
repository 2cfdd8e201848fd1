"""The lock of a run in a bucket; a stale one is detected by a missing heartbeat (90 s)."""

import contextlib
import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable

from data_pipelines.core.errors import CannotWrite, InUse
from data_pipelines.core.files import describe_owner, name_owner
from gap_jax.runtime.bucket.store import Store
from gap_jax.runtime.run_folder import IN_USE_ADVICE, LOCK

HEARTBEAT_S = 30.0
STALE_AFTER_S = 90.0
POLL_S = 2.0
EMPTY_READS, EMPTY_POLL_S = 20, 0.05  # a local file is empty for a moment while it is rewritten


class HeartbeatLock:
    """The lock of a run: its owner, a random `owner_id`, rewrites it, so no clocks are compared."""

    def __init__(self, store: Store, log: Callable[[str], None]) -> None:
        self.owner = {**describe_owner(), "owner_id": secrets.token_hex(8)}
        self._store = store
        self._log = log
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write_heartbeats, daemon=True)

    def acquire(self) -> str:
        """Acquires the lock and returns the owner's id; refuses if another run has it."""
        while not self._store.create(LOCK, self._describe(0)):
            self._wait_for_owner()
        self._thread.start()
        return self.owner["owner_id"]

    def release(self) -> None:
        """Removes the lock, unless another run owns it."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.is_held():
            self._store.remove(LOCK)

    def is_held(self) -> bool:
        """Whether the lock is in the bucket and this run's."""
        return self._is_of_run(self._read())

    def refuse_if_lost(self, *, is_strict: bool) -> None:
        """Refuses if another run owns the lock; with `is_strict`, also if there is no lock."""
        content = self._read()
        if not self._is_of_run(content) and (is_strict or content is not None):
            reason = f"taken by {name_owner(content)}" if content else "removed"
            raise InUse(
                f"the lock of {self._store.address} was {reason}; this run writes no more there; "
                "see that no other run uses that address, then run the same command again"
            )

    def _wait_for_owner(self) -> None:
        before = self._read()
        if before is None:
            return
        address, owner = self._store.address, name_owner(before)
        self._log(
            f"{address} is locked by {owner}; waiting {STALE_AFTER_S:.0f} s for its heartbeat"
        )
        until = time.monotonic() + STALE_AFTER_S
        while time.monotonic() < until:
            time.sleep(POLL_S)
            now = self._read()
            if now is None:
                return
            if now != before:
                raise InUse(f"{address} is in use by {name_owner(now)}; {IN_USE_ADVICE}")
        self._log(f"{owner} shows no heartbeat; the run in {address} continues here")
        self._store.remove(LOCK)

    def _write_heartbeats(self) -> None:
        for count in itertools.count(1):
            if self._is_over.wait(HEARTBEAT_S):
                return
            with contextlib.suppress(CannotWrite):  # the next heartbeat may succeed
                if self.is_held():
                    self._store.write(LOCK, self._describe(count))

    def _describe(self, heartbeats: int) -> bytes:
        return json.dumps({**self.owner, "heartbeats": heartbeats}).encode()

    def _is_of_run(self, content: bytes | None) -> bool:
        try:
            return bool(json.loads(content or b"")["owner_id"] == self.owner["owner_id"])
        except (ValueError, KeyError, TypeError):
            return False

    def _read(self) -> bytes | None:
        for _ in range(EMPTY_READS):
            if (content := self._store.read(LOCK)) != b"":
                return content
            time.sleep(EMPTY_POLL_S)
        return b""
