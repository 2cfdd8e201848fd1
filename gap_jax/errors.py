"""Exit codes, and the line on stderr that an exception becomes."""

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
    """Weights or a checkpoint that are absent, damaged or made for another model."""

    exit_code = 66


class Diverged(Refusal):
    """A run whose loss or gradients stopped being finite."""

    exit_code = 71


class Preempted(Refusal):
    """A run that was told to stop, and has saved what there was to save."""

    exit_code = PREEMPTED


class PeerLost(Refusal):
    """A process of the run that is gone, stuck or out of reach."""

    exit_code = PEER_LOST


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code of an error and the line that tells it."""
    match error:
        case Refusal():
            return error.exit_code, str(error)
        case KeyboardInterrupt():
            return PREEMPTED, str(error) or "interrupted; run the same command again"
        case _:
            kind = type(error).__name__
            return BUG, f"unforeseen {kind}: {error}; please report the lines above"


def print_error(code: int, message: str) -> None:
    """Prints the line of an exit code."""
    words = " ".join(message.split())
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in words)
    with contextlib.suppress(OSError, ValueError):  # stderr may be full or closed
        print(f"gap_jax: error {code}: {line}", file=sys.stderr)
