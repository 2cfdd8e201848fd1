"""Asks JAX for its devices in a child process, and compares NVIDIA's driver with the CUDA build."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from gap_jax.doctor.child import NOT_STARTED, run_program
from gap_jax.doctor.host import GIB, MIB, Row
from gap_jax.doctor.packages import install, version_of

SMI_TIMEOUT_S, JAX_TIMEOUT_S = 10.0, 90.0
OLDEST_DRIVERS = {"13": 580, "12": 525}  # by the major version of CUDA
EXTRAS = {"13": "jax[cuda13]", "12": "jax[cuda12]"}
FRACTION, PREALLOCATE = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE"
SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used")
CHANGING = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", FRACTION, PREALLOCATE)
TROUBLING = "LD_LIBRARY_PATH"
_LISTING = """
import json, jax
devices = jax.local_devices()
limits = (devices[0].memory_stats() or {}).get("bytes_limit")
kinds = sorted({each.device_kind for each in devices})
print(json.dumps({"platform": devices[0].platform, "kinds": kinds, "number": len(devices),
    "limit": limits}), flush=True)
import os; os._exit(0)
"""


class Gpu(NamedTuple):
    """A GPU as nvidia-smi describes it; sizes in bytes."""

    name: str
    driver: str
    total: int
    used: int


class Driver(NamedTuple):
    """NVIDIA's GPUs; `fault` says why there are none, "" where the machine has no driver."""

    gpus: tuple[Gpu, ...] = ()
    fault: str = ""


class Devices(NamedTuple):
    """JAX's devices; `fault` says why JAX cannot list them."""

    platform: str = ""
    kinds: tuple[str, ...] = ()
    number: int = 0
    limit: int | None = None  # bytes that JAX takes on each
    fault: str = ""


def child_environment() -> dict[str, str]:
    """Returns the environment in which JAX is tried: it takes a GPU's memory as it needs it."""
    return {**os.environ, PREALLOCATE: "false"}


def ask_driver(*, seconds: float = SMI_TIMEOUT_S) -> Driver:
    """Asks nvidia-smi for the GPUs."""
    found = run_program([*SMI, "--format=csv,noheader,nounits"], seconds=seconds)
    if not found.fault:
        return Driver(tuple(filter(None, map(_parse_gpu, found.lines))))
    nodes = [str(path) for path in Path("/dev").glob("nvidia[0-9]*")]
    if nodes or not found.fault.startswith(NOT_STARTED):
        return Driver(fault=f"nvidia-smi: {found.fault}")
    return Driver()


def _parse_gpu(line: str) -> Gpu | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != 4:
        return None
    total, used = (int(cell) * MIB if cell.isdecimal() else 0 for cell in cells[2:])
    return Gpu(cells[0], cells[1], total, used)


def ask_jax(*, seconds: float = JAX_TIMEOUT_S) -> Devices:
    """Asks JAX for its devices in a child process."""
    command = [sys.executable, "-P", "-c", _LISTING]
    found = run_program(command, seconds=seconds, environment=child_environment())
    try:
        values: dict[str, Any] = json.loads(found.lines[-1])
        return Devices(**{**values, "kinds": tuple(values["kinds"])})
    except (IndexError, ValueError, TypeError, KeyError):
        return Devices(fault=found.fault or "JAX listed no devices")


def describe_devices(devices: Devices) -> Row:
    """Describes JAX's devices."""
    if devices.fault:
        return Row("devices", f"JAX cannot list them: {devices.fault}", _advise_without(devices))
    given = [f"{name}={os.environ[name]}" for name in CHANGING if os.environ.get(name)]
    text = f"{devices.number} x {', '.join(devices.kinds)} ({devices.platform})"
    return Row("devices", text + (f", with {' '.join(given)}" if given else ""))


def _advise_without(devices: Devices) -> str:
    if "no answer" in devices.fault:
        return "the driver hangs: restart the machine; JAX_PLATFORMS=cpu works without it"
    return "reinstall JAX, or see whether JAX_PLATFORMS=cpu works"


def describe_driver(driver: Driver, devices: Devices) -> list[Row]:
    """Compares the driver with the CUDA builds of JAX that are installed."""
    builds = {major: version_of(f"jax-cuda{major}-plugin") for major in OLDEST_DRIVERS}
    builds = {major: version for major, version in builds.items() if version}
    names = ", ".join(f"jax-cuda{major}-plugin {version}" for major, version in builds.items())
    if driver.fault:
        advice = "the driver does not work: install it again, or restart the machine or container"
        return [Row("driver", driver.fault, advice), Row("CUDA build", names or "none")]
    if not driver.gpus:
        return [Row("driver", "no NVIDIA GPU found"), Row("CUDA build", names or "none")]
    version = driver.gpus[0].driver
    shown = ", ".join(
        f"{gpu.name} ({gpu.used / GIB:.1f} of {gpu.total / GIB:.1f} GiB in use)"
        for gpu in driver.gpus
    )
    return [
        Row("driver", f"{version}: {shown}"),
        Row("CUDA build", names or "none", _advise_build(version, builds, devices)),
    ]


def _advise_build(driver: str, builds: dict[str, str], devices: Devices) -> str:
    """Returns what to install for a GPU that JAX does not use; "" if it uses it."""
    major = int(found[0]) if (found := re.match(r"\d+", driver)) else 0
    fitting = [cuda for cuda, oldest in OLDEST_DRIVERS.items() if major >= oldest]
    if not fitting:
        return f"driver {driver} is older than {OLDEST_DRIVERS['12']}: install a newer one"
    if not builds:
        return f"JAX uses the CPU only: {install(EXTRAS[fitting[0]])}"
    unfit = [cuda for cuda in builds if cuda not in fitting]
    if unfit:
        oldest = OLDEST_DRIVERS[unfit[0]]
        command = install(EXTRAS[fitting[0]])
        return f"CUDA {unfit[0]} needs driver {oldest} or later and this is {driver}: {command}"
    if len(builds) > 1:
        return "two CUDA builds are installed; uninstall one of them"
    ((cuda, version),) = builds.items()
    if version != version_of("jaxlib"):
        return f"it is not of jaxlib {version_of('jaxlib')}: {install('-U', EXTRAS[cuda])}"
    if devices.platform == "cpu":
        hint = f"unset {TROUBLING}, which hides its own CUDA libraries"
        other = "see the error of: python -c 'import jax; jax.devices(\"cuda\")'"
        if os.environ.get("JAX_PLATFORMS"):
            return "JAX_PLATFORMS keeps JAX on the CPU: unset it"
        return f"JAX does not use it: {hint if os.environ.get(TROUBLING) else other}"
    return ""


def describe_memory(devices: Devices) -> Row:
    """Describes the memory that JAX takes on its devices, and how to change it."""
    if devices.platform in ("", "cpu"):
        return Row("JAX memory", "the host's, as needed; train.accumulate divides the batch")
    taken = f"{devices.limit / GIB:.1f} GiB" if devices.limit else "an unknown share"
    if devices.platform == "tpu":
        return Row("JAX memory", f"{taken} on each device")
    at_once = os.environ.get(PREALLOCATE, "").lower() not in ("false", "0")
    when = "at its start" if at_once else "at most, as needed"
    text = f"{taken} on each device {when}; before python starts set {FRACTION}=.50 to take half"
    return Row("JAX memory", f"{text}, or {PREALLOCATE}=false to take it as needed")
