"""Errors that a user can fix: one line with the thing, its value and the fix, and an exit code."""

import difflib
from collections.abc import Sequence


class Refusal(Exception):
    """Ends the command for a reason that the user can fix; `str(error)` is the whole line."""

    exit_code: int


class ConfigError(Refusal):
    """A flag, config field or command line is invalid."""

    exit_code = 64


class DataError(Refusal):
    """Data are missing, damaged, of another format, or differ from their manifest."""

    exit_code = 65


class WorkerLost(Refusal):
    """A worker process that decodes images was killed; the same command resumes."""

    exit_code = 76


class InUse(Refusal):
    """Another running process is writing the folder or file."""

    exit_code = 77


class CannotWrite(Refusal):
    """The disk is full or read-only, or the path already exists."""

    exit_code = 73


def nearest(word: str, words: Sequence[str]) -> str:
    """Returns the end of an error message: the nearest known word, or all of at most 20 words."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(words)}" if 0 < len(words) <= 20 else ""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
