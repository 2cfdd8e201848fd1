"""Runs a parser of untrusted files in a child process with time and memory limits.

A parser is a module with `parse(path)`, which returns JSON values or raises DataError.
"""

import contextlib
import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from data_pipelines.core.errors import DataError

_SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads reserve memory
_MAX_MESSAGE_CHARS = 400
MAX_FILE_BYTES = 2**30


def parse_in_child(
    module: str, path: Path, *, seconds: float = 300, memory_bytes: int = 4 * 2**30
) -> Any:
    """Runs `module.parse(path)` in a child, so that a crash or a hang ends only the child."""
    if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{path} has more than {MAX_FILE_BYTES // 2**20:,} MiB; get it again")
    search_path = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
    command = [sys.executable, "-P", "-W", "ignore", "-X", "utf8", "-m", __name__]
    try:
        done = subprocess.run(
            [*command, module, str(path), str(math.ceil(seconds)), str(memory_bytes)],
            env={**os.environ, **_SINGLE_THREADED, "PYTHONPATH": search_path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{path} was not parsed within {seconds:g} s; is it the right file? get it again"
        ) from error
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    message = lines[-1][:_MAX_MESSAGE_CHARS] if lines else "no message"
    code = done.returncode
    if code == DataError.exit_code:
        raise DataError(message)
    if code != 0:
        end = f"failed with exit code {code}"
        if code < 0:
            end = f"was ended by signal {-code}, {signal.strsignal(-code)}"
        raise DataError(
            f"parsing {path} {end} ({message}); the file is probably damaged: get it again"
        )
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise DataError(f"parsing {path} gave no JSON ({error}); get the file again") from error


def main(module: str, path: str, seconds: str, memory_bytes: str) -> int:
    """Runs in the child: sets limits and parses; prints JSON to stdout, a refusal to stderr."""
    set_limit(resource.RLIMIT_CORE, 0)
    set_limit(resource.RLIMIT_CPU, int(seconds))
    set_limit(resource.RLIMIT_AS, int(memory_bytes))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            parsed = importlib.import_module(module).parse(Path(path))
        sys.stdout.write(json.dumps(parsed, allow_nan=False))
    except DataError as error:
        sys.stderr.write(" ".join(str(error).splitlines()))
        return DataError.exit_code
    except MemoryError:
        sys.stderr.write(
            f"{path} needs more than {int(memory_bytes) / 2**30:.2g} GiB to be parsed; "
            "is it the right file? get it again"
        )
        return DataError.exit_code
    return 0


def set_limit(kind: int, amount: int) -> None:
    """Sets a limit of this process, no higher than the system allows."""
    _, hard = resource.getrlimit(kind)
    allowed = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses some of them
        resource.setrlimit(kind, (allowed, hard))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
