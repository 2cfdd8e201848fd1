"""Records versions, devices, code and the command line of a run."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import gap_jax

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array-record",
    "tensorflow-datasets", "numpy", "opencv-python-headless", "simplejpeg", "pillow",
)  # fmt: skip
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_", "SLURM_JOB_ID")  # prefixes of names
GIT_TIMEOUT_S = 10


def describe_environment() -> dict[str, Any]:
    """Describes the machine in JSON values; of the environment only the known variables."""
    devices = jax.devices()
    code = Path(gap_jax.__file__).parent.parent
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        "gap_jax": gap_jax.__version__,
        "revision": find_revision(code) if (code / ".git").exists() else None,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": {
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "variables": {name: os.environ[name] for name in os.environ if name.startswith(VARIABLES)},
    }


def find_revision(checkout: Path) -> str | None:
    """Returns the commit of a checkout, with -dirty if files differ from it; None without git."""
    command = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        done = subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
