"""Records which test calls which function of the product, in every process that imports it.

Python imports it at start if its folder is on PYTHONPATH. It writes a file for each process to
CALLS_FOLDER; pytest names the running test in PYTEST_CURRENT_TEST, which children inherit.
"""

import contextlib
import os
import sys
import threading
from pathlib import Path
from types import FrameType

ROOT = str(Path(__file__).parents[3]) + "/"
NOTES = Path(os.environ["CALLS_FOLDER"]) / f"{os.getpid()}.tsv"
PRODUCT = (f"{ROOT}gap_jax/", f"{ROOT}data_pipelines/")
_seen: set[tuple[str, str, str]] = set()


def note(frame: FrameType, event: str, argument: object) -> None:
    """Traces calls, but not lines."""
    del event, argument
    code = frame.f_code
    if not code.co_filename.startswith(PRODUCT):
        return
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    call = (test, code.co_filename[len(ROOT) :], code.co_qualname.replace(".<locals>", ""))
    if test and call not in _seen:
        # Python stops tracing if this raises, as under a test's file limit
        with contextlib.suppress(OSError), NOTES.open("a", encoding="utf-8") as file:
            file.write("\t".join(call) + "\n")
            _seen.add(call)


threading.settrace(note)
sys.settrace(note)
