"""What the processes of a run tell each other, by the coordinator's notes and not by the devices.

A note is there or absent after a time limit; a collective of the devices would wait for ever.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from gap_jax.errors import PeerLost, Refusal

NOTES = "gap_jax"
WAIT_S = 600  # for a process that writes or reads much before it answers
SLICE_S = 1  # of the wait, between two of which Python hears Ctrl-C

T = TypeVar("T")


class Cause(NamedTuple):
    """Why a process ended, and with which code."""

    process: int
    exit_code: int
    message: str

    def __str__(self) -> str:
        return f"process {self.process} ended with {self.exit_code}: {self.message}"


class Relayed(Refusal):
    """What the first process refused, refused by the others too."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Processes:
    """The processes of a run, or one alone, which answers itself at once.

    All of them ask the same questions in the same order; `name` says in an error which one it was.
    """

    def __init__(self, client: Any = None, index: int = 0, count: int = 1) -> None:
        self.index = index
        self.count = count
        self.last_heartbeat: float | None = None
        self._client = client
        self._asked: Counter[str] = Counter()

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.index == 0

    @property
    def place(self) -> tuple[int, int]:
        """Which process of how many this is."""
        return self.index, self.count

    def beat(self) -> None:
        """A sign of life, from the first step on."""
        self.last_heartbeat = time.monotonic()

    def share(self, name: str, make: Callable[[], T]) -> T:
        """What the first process makes, on all of them: JSON, or its refusal."""
        if self.count == 1:
            return make()
        key = self._next_key(name)
        if not self.is_first:
            note = json.loads(self._read(key, name))
            if "refusal" in note:
                raise Relayed(*note["refusal"])
            return note["value"]
        try:
            value = make()
        except Refusal as refusal:
            self._write(key, {"refusal": [refusal.exit_code, str(refusal)]})
            raise
        self._write(key, {"value": value})
        return value

    def gather(self, name: str, value: T) -> list[T]:
        """The JSON value of every process, in their order."""
        if self.count == 1:
            return [value]
        key = self._next_key(name)
        self._write(f"{key}/{self.index}", value)
        return [json.loads(self._read(f"{key}/{each}", name)) for each in range(self.count)]

    def tell_cause(self, cause: Cause) -> None:
        """Leaves a note on why this process ends."""
        self._write(f"{NOTES}/ended/{self.index}", [cause.exit_code, cause.message])

    def read_causes(self) -> list[Cause]:
        """The notes of the other processes that have ended."""
        notes = self._client.key_value_dir_get(f"{NOTES}/ended")
        causes = [Cause(int(key.rpartition("/")[2]), *json.loads(text)) for key, text in notes]
        return [cause for cause in sorted(causes) if cause.process != self.index]

    def _next_key(self, name: str) -> str:
        self._asked[name] += 1
        return f"{NOTES}/{name}/{self._asked[name]}"

    def _write(self, key: str, value: Any) -> None:
        self._client.key_value_set(key, json.dumps(value, allow_nan=False))

    def _read(self, key: str, name: str) -> str:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                return self._client.blocking_key_value_get(key, int(SLICE_S * 1000))
            except RuntimeError as error:  # JAX's kind of it
                if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > until:
                    raise self._lost(name, error) from error

    def _lost(self, name: str, error: RuntimeError) -> PeerLost:
        return PeerLost(
            f"process {self.index} waited in vain, {WAIT_S} s at most, for {name!r} of another "
            f"({str(error).splitlines()[0]}); see the others' logs and run the command again"
        )


ALONE = Processes()
