"""Rendezvous the other processes, within a time limit."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator

import jax
from jax._src import distributed

from gap_jax.config import RuntimeConfig
from gap_jax.errors import PEER_LOST, ConfigError, PeerLost, say
from gap_jax.runtime.processes.group import Processes
from gap_jax.runtime.processes.rendezvous import Rendezvous
from gap_jax.runtime.processes.shutdown import ending_together

START_S, HEARTBEAT_S, END_S = 120, 30, 60
JAX_LATER_S = 30  # JAX's own end of waiting is an abort with a page of stacks


@contextlib.contextmanager
def joined(meeting: Rendezvous, limits: RuntimeConfig, *, saves: bool) -> Iterator[Processes]:
    """The processes, met within a time limit; one process that fails or is stuck ends them all.

    What saves asks JAX whether any process has got a SIGTERM; what has nothing to save leaves
    SIGTERM to the handler of `gap_jax.process`.
    """
    jax.config.update("jax_enable_preemption_service", saves)
    processes = _meet(meeting)
    with ending_together(
        processes, stuck_after_s=limits.stuck_after_s, start_within_s=limits.start_within_s
    ):
        yield processes


def _meet(meeting: Rendezvous) -> Processes:
    _check_port(meeting)
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)  # it warns of any proxy
    too_late = threading.Timer(START_S, _give_up, (meeting,))
    too_late.daemon = True
    too_late.start()
    try:
        jax.distributed.initialize(
            *meeting,
            initialization_timeout=START_S + JAX_LATER_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=END_S,
        )
    except ValueError as error:  # of what it was told, or could not find out
        raise ConfigError(
            f"JAX finds no other processes here ({str(error).splitlines()[0]}); say "
            "--coordinator=HOST:PORT --processes=N --process=0..N-1"
        ) from error
    except RuntimeError as error:
        raise PeerLost(_describe(meeting, str(error).splitlines()[0])) from error
    finally:
        too_late.cancel()
    client = distributed.global_state.client
    return Processes(client, jax.process_index(), jax.process_count())


def _check_port(meeting: Rendezvous) -> None:
    """JAX's coordinator falls over a port that somebody holds."""
    if not meeting.coordinator or meeting.process != 0:
        return
    port = int(meeting.coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise PeerLost(
                f"port {port} of --coordinator={meeting.coordinator} cannot be taken here "
                f"({error.strerror}); end what holds it, or name another port to all processes"
            ) from error


def _give_up(meeting: Rendezvous) -> None:
    try:
        say(PEER_LOST, _describe(meeting, f"waited {START_S} s"))
    finally:
        os._exit(PEER_LOST)


def _describe(meeting: Rendezvous, reason: str) -> str:
    where = f"at {meeting.coordinator}" if meeting.coordinator else "where the scheduler says"
    return (
        f"the processes did not meet {where} ({reason}); see that all of them run, each with a "
        "--process of its own, and that the first one's host and port can be reached"
    )
