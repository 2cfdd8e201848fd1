"""Errors that a user can fix: one line with the thing, its value and the fix, and an exit code."""

import contextlib
import difflib
import sys
from collections.abc import Sequence

BUG, PREEMPTED, PEER_LOST = 70, 75, 76


class Refusal(Exception):
    """Ends the command for a reason that the user can fix; `str(error)` is the whole line."""

    exit_code = BUG

    def __init_subclass__(cls, exit_code: int | None = None) -> None:
        cls.exit_code = cls.exit_code if exit_code is None else exit_code


class ConfigError(Refusal, exit_code=64):
    """A flag, config field or command line is invalid."""


class DataError(Refusal, exit_code=65):
    """Data are missing, damaged, of another format, or differ from their manifest."""


class WorkerLost(Refusal, exit_code=PEER_LOST):
    """A worker process that decodes images was killed; the same command resumes."""


class NotWorking(Refusal, exit_code=69):
    """`gap_jax doctor` found that JAX or the self-test fails on this machine."""


class InUse(Refusal, exit_code=77):
    """Another running process is writing the folder or file."""


class CannotWrite(Refusal, exit_code=73):
    """The disk is full or read-only, or the path already exists."""


class CheckpointError(Refusal, exit_code=66):
    """Weights or a checkpoint are absent, damaged or made for another model."""


class Diverged(Refusal, exit_code=71):
    """The loss or the gradients are no longer finite."""


class Preempted(Refusal, exit_code=PREEMPTED):
    """A signal stopped the run, which has saved a checkpoint."""


class PeerLost(Refusal, exit_code=PEER_LOST):
    """Another process of the run has ended, hangs or cannot be reached."""


def nearest(word: str, words: Sequence[str]) -> str:
    """Returns the end of an error message: the nearest known word, or all of at most 20 words."""
    known = f"; known are {', '.join(words)}" if 0 < len(words) <= 20 else ""
    return propose(word, words) or known


def propose(word: str, words: Sequence[str], prefix: str = "") -> str:
    """Returns the end of an error message: the nearest known word, or nothing if none is near."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


def name_some(names: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """Lists the first few of many names, and the number of others."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return separator.join(names[:most]) + rest


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


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
