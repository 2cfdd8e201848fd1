"""Connects the processes of a run by `jax.distributed`, within a time limit.

Only this module uses private names of JAX, which has no others for the coordinator's entries.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed

from data_pipelines.core.errors import PEER_LOST, ConfigError, PeerLost, print_error
from gap_jax.config import RuntimeConfig
from gap_jax.runtime.processes.group import Processes
from gap_jax.runtime.processes.rendezvous import Rendezvous
from gap_jax.runtime.processes.shutdown import Watchdog

START_TIMEOUT_S, HEARTBEAT_TIMEOUT_S, SHUTDOWN_TIMEOUT_S = 120, 30, 60
JAX_EXTRA_S = 30  # at its own time limit JAX aborts with a page of stacks


@contextlib.contextmanager
def initialised(
    rendezvous: Rendezvous, limits: RuntimeConfig, *, saves: bool
) -> Iterator[Processes]:
    """Connects all processes; one that fails or is stuck ends them all.

    With `saves`, JAX takes SIGTERM and agrees with all processes on a step to stop at. Otherwise
    SIGTERM keeps the handler of `gap_jax.process`.
    """
    jax.config.update("jax_enable_preemption_service", saves)
    _connect(rendezvous)
    processes = Processes(get_client(), jax.process_index(), jax.process_count())
    with Watchdog(
        processes, stuck_after_s=limits.stuck_after_s, start_within_s=limits.start_within_s
    ):
        yield processes


def get_client() -> Any:
    """Returns the client of the coordinator's key-value store; None before it is connected."""
    return distributed.global_state.client


def _connect(rendezvous: Rendezvous) -> None:
    _check_port(rendezvous)
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)  # it warns of any proxy
    timer = threading.Timer(START_TIMEOUT_S, _give_up, (rendezvous,))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            *rendezvous,
            initialization_timeout=START_TIMEOUT_S + JAX_EXTRA_S,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S,
        )
    except ValueError as error:  # wrong arguments, or no known scheduler
        raise ConfigError(
            f"JAX finds no other processes here ({str(error).splitlines()[0]}); set "
            "--coordinator=HOST:PORT --processes=N --process=0..N-1"
        ) from error
    except RuntimeError as error:
        raise PeerLost(_describe(rendezvous, str(error).splitlines()[0])) from error
    finally:
        timer.cancel()


def _check_port(rendezvous: Rendezvous) -> None:
    """Refuses a port that is in use; JAX's coordinator would crash."""
    if not rendezvous.coordinator or rendezvous.process != 0:
        return
    port = int(rendezvous.coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise PeerLost(
                f"port {port} of --coordinator={rendezvous.coordinator} cannot be opened here "
                f"({error.strerror}); end the process that uses it, or set another port in all "
                "processes"
            ) from error


def _give_up(rendezvous: Rendezvous) -> None:
    try:
        print_error(PEER_LOST, _describe(rendezvous, f"waited {START_TIMEOUT_S} s"))
    finally:
        os._exit(PEER_LOST)


def _describe(rendezvous: Rendezvous, reason: str) -> str:
    where = rendezvous.coordinator or "the scheduler's address"
    return (
        f"the processes did not connect at {where} ({reason}); check that all of them run, that "
        "each has a --process of its own, and that the first one's host and port can be reached"
    )
