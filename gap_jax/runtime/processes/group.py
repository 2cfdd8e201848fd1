"""Values that the processes of a run exchange by JAX's coordinator, which has a time limit."""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from data_pipelines.core.errors import PeerLost, Refusal

ROOT_KEY = "gap_jax"
TIMEOUT_S = 600  # a process may read or write much before it answers
POLL_S = 1  # Python handles Ctrl-C between two polls

T = TypeVar("T")


class Exit(NamedTuple):
    """The exit code of a process and its error message."""

    process: int
    exit_code: int
    message: str

    def __str__(self) -> str:
        return f"process {self.process} ended with {self.exit_code}: {self.message}"


class Processes:
    """The processes of a run, which all call `broadcast` and `gather` in the same order."""

    def __init__(self, client: Any = None, index: int = 0, count: int = 1) -> None:
        self.index, self.count = self.index_and_count = index, count
        self.is_first = index == 0  # prints and writes the run's files
        self.last_heartbeat: float | None = None
        self.is_starting = True  # the next heartbeat is due within runtime.start_within_s
        self._client = client
        self._calls: Counter[str] = Counter()

    def heartbeat(self, *, is_starting: bool = False) -> None:
        """Records progress; `is_starting` if work before the first step made it."""
        self.last_heartbeat, self.is_starting = time.monotonic(), is_starting

    def broadcast(self, name: str, make: Callable[[], T]) -> T:
        """Calls `make` in the first process; all return its JSON value or raise its refusal."""
        if self.count == 1:
            return make()
        key = self._next_key(name)
        if not self.is_first:
            value, exit_code, message = self._read(key, name, sender=0)
            if exit_code is not None:
                refusal = Refusal(message)
                refusal.exit_code = exit_code
                raise refusal
            return value
        try:
            value = make()
        except Refusal as refusal:
            self._write(key, [None, refusal.exit_code, str(refusal)])
            raise
        self._write(key, [value, None, ""])
        return value

    def gather(self, name: str, value: T) -> list[T]:
        """Returns the JSON value of every process, by index."""
        if self.count == 1:
            return [value]
        key = self._next_key(name)
        self._write(f"{key}/{self.index}", value)
        return [self._read(f"{key}/{each}", name, sender=each) for each in range(self.count)]

    def report_exit(self, ended: Exit) -> None:
        self._write(f"{ROOT_KEY}/ended/{self.index}", [ended.exit_code, ended.message])

    def read_exits(self) -> list[Exit]:
        """Reads why other processes ended."""
        entries = self._client.key_value_dir_get(f"{ROOT_KEY}/ended")
        exits = [Exit(int(key.rpartition("/")[2]), *json.loads(text)) for key, text in entries]
        return [each for each in sorted(exits) if each.process != self.index]

    def _next_key(self, name: str) -> str:
        self._calls[name] += 1
        return f"{ROOT_KEY}/{name}/{self._calls[name]}"

    def _write(self, key: str, value: Any) -> None:
        self._client.key_value_set(key, json.dumps(value, allow_nan=False))

    def _read(self, key: str, name: str, *, sender: int) -> Any:
        until = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return json.loads(self._client.blocking_key_value_get(key, POLL_S * 1000))
            except RuntimeError as error:  # JaxRuntimeError
                if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > until:
                    raise PeerLost(
                        f"process {self.index} got no {name!r} from process {sender} within "
                        f"{TIMEOUT_S} s ({str(error).splitlines()[0]}); see its log and run the "
                        "same command again"
                    ) from error


ALONE = Processes()
