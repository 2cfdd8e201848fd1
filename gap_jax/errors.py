"""Exit codes and error lines."""

import contextlib
import sys

from data_pipelines.errors import CannotWrite, ConfigError, DataError, InUse, Refusal

__all__ = [
    "CannotWrite",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Diverged",
    "InUse",
    "PeerLost",
    "Preempted",
    "Refusal",
    "describe",
    "print_error",
]

BUG = 70
PREEMPTED = 75
PEER_LOST = 76


class CheckpointError(Refusal):
    """Weights or a checkpoint are absent, damaged or made for another model."""

    exit_code = 66


class Diverged(Refusal):
    """The loss or the gradients are no longer finite."""

    exit_code = 71


class Preempted(Refusal):
    """A signal stopped the run, which has saved a checkpoint."""

    exit_code = PREEMPTED


class PeerLost(Refusal):
    """Another process of the run has ended, hangs or cannot be reached."""

    exit_code = PEER_LOST


def describe(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the message of an error."""
    match error:
        case Refusal():
            return error.exit_code, str(error)
        case KeyboardInterrupt():
            return PREEMPTED, str(error) or "interrupted; run the same command again"
        case _:
            kind = type(error).__name__
            return BUG, f"unforeseen {kind}: {error}; please report the lines above"


def print_error(code: int, message: str) -> None:
    """Prints the message of an exit code on stderr, in one line."""
    text = " ".join(message.split())
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    with contextlib.suppress(OSError, ValueError):  # stderr may be full or closed
        print(f"gap_jax: error {code}: {line}", file=sys.stderr)
