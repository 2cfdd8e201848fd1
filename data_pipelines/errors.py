"""Refusals: one line with the thing, the value and the fix, and the exit code it ends with."""

import difflib
from collections.abc import Sequence


class Refusal(Exception):
    """The command cannot go on for a reason the user can mend; `str(error)` is the whole line."""

    exit_code: int


class ConfigError(Refusal):
    """A flag, a config field or a command line that cannot be meant."""

    exit_code = 64


class DataError(Refusal):
    """Data that is missing, damaged, foreign or not what it says it is."""

    exit_code = 65


class WorkerLost(Refusal):
    """A process that decodes images was killed; the same command goes on."""

    exit_code = 76


class InUse(Refusal):
    """A folder or file that another living process is writing."""

    exit_code = 77


class CannotWrite(Refusal):
    """A disk that is full or read-only, or a place that is already taken."""

    exit_code = 73


def nearest(word: str, words: Sequence[str]) -> str:
    """A hint that ends an error: the nearest known word, else all of them where they are few."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(words)}" if 0 < len(words) <= 20 else ""
