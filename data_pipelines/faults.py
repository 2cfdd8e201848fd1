"""Named points at which a test can make the program fail; inert unless GAP_JAX_FAULTS is set.

GAP_JAX_FAULTS="files.before_rename:enospc@1,loader.decode:kill9@3": at the n-th passage of the
point, do the action.
"""

import collections
import errno
import os
import signal
import time

_passages: collections.Counter[str] = collections.Counter()


def point(name: str) -> None:
    """Passes the fault point `name`, and fails there when the environment asks for it."""
    plan = os.environ.get("GAP_JAX_FAULTS")
    if not plan:
        return
    _passages[name] += 1
    for item in plan.split(","):
        place, _, rest = item.partition(":")
        action, _, passage = rest.partition("@")
        if place == name and int(passage or 1) == _passages[name]:
            _act(name, action)


def _act(name: str, action: str) -> None:
    match action:
        case "kill9":
            os.kill(os.getpid(), signal.SIGKILL)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
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
