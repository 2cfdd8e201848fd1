"""Exit codes, and the one place where an exception becomes a line on stderr and a code."""

import sys
import traceback
from collections.abc import Callable

from data_pipelines.errors import CannotWrite, ConfigError, DataError, Refusal

__all__ = [
    "CannotWrite",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Diverged",
    "Preempted",
    "Refusal",
    "WorkdirInUse",
    "exit_code",
]

BUG = 70
PREEMPTED = 75


class CheckpointError(Refusal):
    """Weights or a checkpoint that are absent, damaged or made for another model."""

    exit_code = 66


class Diverged(Refusal):
    """A run whose loss or gradients stopped being finite."""

    exit_code = 71


class Preempted(Refusal):
    """A run that was told to stop, and has saved what there was to save."""

    exit_code = PREEMPTED


class WorkdirInUse(Refusal):
    """A run's folder that another living process holds."""

    exit_code = 77


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command; a refusal becomes one line, an unforeseen exception a traceback and 70."""
    try:
        return command() or 0
    except Refusal as refusal:
        return _say(refusal.exit_code, str(refusal))
    except KeyboardInterrupt:
        return _say(PREEMPTED, "interrupted; run the same command again")
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, and so has the wish for more
        return 0
    except Exception as error:
        traceback.print_exc()
        return _say(
            BUG, f"unforeseen {type(error).__name__}: {error}; please report the lines above"
        )


def _say(code: int, message: str) -> int:
    line = " ".join(message.split())
    print(f"gap_jax: error {code}: {line}", file=sys.stderr)
    return code
