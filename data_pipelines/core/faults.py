"""Fault points at which a test makes the program fail; they do nothing without GAP_JAX_FAULTS.

GAP_JAX_FAULTS="files.before_rename:enospc@1,loader.decode:kill9@3" runs each action at the n-th
call of its point.
"""

import collections
import errno
import os
import signal
import time

_SIGNALS = {"kill9": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
_passages: collections.Counter[str] = collections.Counter()


def point(name: str) -> None:
    """Counts a call of the fault point `name` and runs the action that is planned for it."""
    if plan := os.environ.get("GAP_JAX_FAULTS"):
        _passages[name] += 1
        for item in plan.split(","):
            planned, _, rest = item.partition(":")
            action, _, passage = rest.partition("@")
            if planned == name and int(passage or 1) == _passages[name]:
                _act(name, action)


def _act(name: str, action: str) -> None:
    match action:
        case "kill9" | "term" | "stop":
            os.kill(os.getpid(), _SIGNALS[action])
        case "raise":
            raise RuntimeError(f"fault point {name}")
        case "exit0":
            os._exit(0)
        case "hang":
            time.sleep(3600)
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case _:
            raise ValueError(f"GAP_JAX_FAULTS: unknown action {action!r} at {name}")
