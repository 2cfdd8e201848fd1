"""Asks JAX for its devices in a child process, and compares NVIDIA's driver with the CUDA build."""

import json
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from gap_jax.doctor.child import NOT_STARTED, PREALLOCATE, Outcome, run_program
from gap_jax.doctor.host import GIB, Row
from gap_jax.doctor.packages import install, version_of

SMI_TIMEOUT_S, JAX_TIMEOUT_S = 10.0, 90.0
OLDEST_DRIVERS = {"13": 580, "12": 525}  # by the major version of CUDA
FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
SMI = ("nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader")
CHANGING = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", FRACTION, PREALLOCATE)
_LISTING = """
import json, os, jax
devices = jax.local_devices()
limit = (devices[0].memory_stats() or {}).get("bytes_limit")
print(json.dumps([devices[0].platform, devices[0].device_kind, len(devices), limit]), flush=True)
os._exit(0)
"""


class Devices(NamedTuple):
    """JAX's devices; `fault` says why JAX cannot list them."""

    platform: str = ""
    kind: str = ""
    number: int = 0
    limit: int | None = None  # bytes that JAX takes on each
    fault: str = ""


def ask_driver(*, seconds: float = SMI_TIMEOUT_S) -> Outcome:
    """Asks NVIDIA's driver for a line on each GPU; none, and no fault, where there is no driver."""
    lines, fault = run_program(SMI, seconds=seconds)
    if fault.startswith(NOT_STARTED):
        return Outcome((), "")
    gpus = tuple(line for line in lines if re.match(r"\d+\.", line))
    return Outcome(gpus, "" if gpus and not fault else f"nvidia-smi: {fault or 'no GPU is listed'}")


def ask_jax(*, seconds: float = JAX_TIMEOUT_S) -> Devices:
    """Asks JAX for its devices in a child process."""
    command = [sys.executable, "-P", "-c", _LISTING]
    lines, fault = run_program(command, seconds=seconds)
    return Devices(fault=fault) if fault else Devices(*json.loads(lines[-1]))


def describe_devices(devices: Devices) -> Iterator[Row]:
    """Describes JAX's devices, the memory that it takes on them, and how to change that."""
    if devices.fault:
        advice = "reinstall JAX, or see whether JAX_PLATFORMS=cpu works"
        if "no answer" in devices.fault:
            advice = "the driver hangs: restart the machine; JAX_PLATFORMS=cpu works without it"
        yield Row("devices", f"JAX cannot list them: {devices.fault}", advice)
        return
    given = [f"{name}={os.environ[name]}" for name in CHANGING if os.environ.get(name)]
    text = f"{devices.number} x {devices.kind} ({devices.platform})"
    yield Row("devices", text + (f", with {' '.join(given)}" if given else ""))
    text = "the host's, as needed; train.accumulate divides the batch"
    if devices.platform != "cpu":
        text = f"{devices.limit / GIB:.1f} GiB" if devices.limit else "an unknown share"
        text += " on each device"
    if devices.platform == "gpu":
        text += f", at its start unless {PREALLOCATE}=false; {FRACTION}=.50 takes half (set these "
        text += "variables before python starts)"
    yield Row("JAX memory", text)


def describe_driver(driver: Outcome, devices: Devices) -> Iterator[Row]:
    """Compares the driver with the CUDA builds of JAX that are installed."""
    gpus, fault = driver
    plugins = {cuda: version_of(f"jax-cuda{cuda}-plugin") for cuda in OLDEST_DRIVERS}
    builds = {cuda: version for cuda, version in plugins.items() if version}
    names = [f"jax-cuda{cuda}-plugin {version}" for cuda, version in builds.items()]
    advice = "the driver does not work: install it again, or restart the machine or container"
    yield Row(
        "driver",
        fault or "; ".join(gpus) or "no NVIDIA GPU found, or no nvidia-smi",
        fault and advice,
    )
    advice = _advise_build(gpus[0].partition(",")[0], builds, devices) if gpus else ""
    yield Row("CUDA build", ", ".join(names) or "none", advice)


def _advise_build(driver: str, builds: dict[str, str], devices: Devices) -> str:
    """Returns what to install for a GPU that JAX does not use; "" if it uses it."""
    major = int(driver.partition(".")[0])
    fitting = [cuda for cuda, oldest in OLDEST_DRIVERS.items() if major >= oldest]
    if not fitting:
        return f"driver {driver} is older than {OLDEST_DRIVERS['12']}: install a newer one"
    command = install(f"jax[cuda{fitting[0]}]")
    if not builds:
        return f"JAX uses the CPU only: {command}"
    cuda, version = next(iter(builds.items()))
    if cuda not in fitting:
        oldest = OLDEST_DRIVERS[cuda]
        return f"CUDA {cuda} needs driver {oldest} or later and this is {driver}: {command}"
    if len(builds) > 1:
        return "two CUDA builds are installed; uninstall one of them"
    if version != version_of("jaxlib"):
        update = install("-U", f"jax[cuda{cuda}]")
        return f"it is not of jaxlib {version_of('jaxlib')}: {update}"
    if devices.platform != "cpu":
        return ""
    if os.environ.get("JAX_PLATFORMS"):
        return "JAX_PLATFORMS keeps JAX on the CPU: unset it"
    if os.environ.get("LD_LIBRARY_PATH"):
        return "JAX does not use it: unset LD_LIBRARY_PATH, which hides its own CUDA libraries"
    return "JAX does not use it: see the error of: python -c 'import jax; jax.devices(\"cuda\")'"
