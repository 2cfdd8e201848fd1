"""Meeting the other processes, within a time limit."""

import contextlib
import logging
from collections.abc import Iterator

import jax
from jax._src import distributed

from gap_jax.config import RuntimeConfig
from gap_jax.errors import PeerLost
from gap_jax.runtime.gang.ending import ending_together
from gap_jax.runtime.gang.meeting import Meeting
from gap_jax.runtime.gang.members import Gang

START_S, HEARTBEAT_S, END_S = 120, 30, 60


@contextlib.contextmanager
def joined(meeting: Meeting, limits: RuntimeConfig) -> Iterator[Gang]:
    """The gang, met within a time limit; one process that fails or is stuck ends them all."""
    gang = _meet(meeting)
    with ending_together(
        gang, stuck_after_s=limits.stuck_after_s, start_within_s=limits.start_within_s
    ):
        yield gang


def _meet(meeting: Meeting) -> Gang:
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)  # proxies, where harmless
    try:
        jax.distributed.initialize(
            *meeting,
            initialization_timeout=START_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=END_S,
        )
    except (RuntimeError, ValueError) as error:
        where = f"at {meeting.coordinator} " if meeting.coordinator else ""
        raise PeerLost(
            f"the processes did not meet {where}within {START_S} s "
            f"({str(error).splitlines()[0]}); see that all of them run, with the same "
            "--coordinator, and that its port is open"
        ) from error
    client = distributed.global_state.client
    return Gang(client, jax.process_index(), jax.process_count())
