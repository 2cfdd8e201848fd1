"""Checks that all processes of a run have the same config, data, code and folder."""

import hashlib
import importlib.metadata
import platform
import secrets
import socket
import time
from pathlib import Path

import jax

import data_pipelines
import gap_jax
from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError
from data_pipelines.manifest import Manifest
from gap_jax.config import Config, fields
from gap_jax.runtime.bucket.store import is_address
from gap_jax.runtime.environment import PACKAGES
from gap_jax.runtime.processes.group import Processes

VISIBLE_WITHIN_S = 60  # network file systems show a new file late
POLL_S = 0.2
SHOWN_CHARACTERS = 60


def check_same_settings(
    processes: Processes, cfg: Config, data: Manifest, workdir: str = ""
) -> None:
    """Refuses processes that differ and names the difference; folders may have other names."""
    if processes.count == 1:
        return
    address = workdir if is_address(workdir) else "none"
    own = {**list_settings(cfg, data), "the address in --workdir": address}
    hosts = processes.gather("host", socket.gethostname())
    first, *others = processes.gather("settings", own)
    for index, other in enumerate(others, 1):
        for name, value in other.items():
            if value != first.get(name):
                one, another = _shorten(first.get(name, "absent"), value)
                raise ConfigError(
                    f"{name} is {one} in process 0 on {hosts[0]} and {another} in process {index} "
                    f"on {hosts[index]}; use the same command, code, data, weights and versions "
                    "in all processes"
                )


def _shorten(one: str, other: str) -> tuple[str, str]:
    """Cuts two long texts to the characters around their first difference."""
    pairs = enumerate(zip(one, other, strict=False))
    differ_at = next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
    begin = max(0, differ_at - SHOWN_CHARACTERS // 2)
    mark = "..." if begin else ""
    return f"{mark}{one[begin:]:.{SHOWN_CHARACTERS}}", f"{mark}{other[begin:]:.{SHOWN_CHARACTERS}}"


def list_settings(cfg: Config, data: Manifest) -> dict[str, str]:
    """Lists by name the settings that must not differ: config, data, code, versions, devices."""
    weights = Path(cfg.init.weights)
    return {
        **{name: repr(value) for name, _, value in fields(cfg)},
        "the data's fingerprint": data.fingerprint,
        "the SHA-256 of init.weights": files.sha256(weights) if weights.is_file() else "absent",
        "gap_jax": gap_jax.__version__,
        "the code's SHA-256": _digest_code(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "the number of devices": str(jax.local_device_count()),
        "the kind of devices": jax.local_devices()[0].device_kind,
    }


def check_shared_folder(processes: Processes, workdir: Path) -> None:
    """Refuses a workdir in which a process does not see a hidden file of the first one."""
    if processes.count == 1:
        return

    def write() -> str:
        name = f".shared-{secrets.token_hex(16)}"
        files.write_atomically(workdir / name, "")
        return name

    path = workdir / processes.broadcast("file written", write)
    try:
        refuse_unshared(processes, str(workdir), is_visible=_wait_until_visible(path))
    finally:
        if processes.is_first:
            path.unlink()


def refuse_unshared(processes: Processes, workdir: str, *, is_visible: bool) -> None:
    """Refuses a workdir if some process does not see the first process's file."""
    found = processes.gather("file visible", {"host": socket.gethostname(), "seen": is_visible})
    for index, each in enumerate(found):
        if not each["seen"]:
            raise ConfigError(
                f"--workdir={workdir} in process {index} on {each['host']} is not the folder of "
                f"process 0 on {found[0]['host']}; use a folder that all hosts share"
            )


def _wait_until_visible(path: Path) -> bool:
    until = time.monotonic() + VISIBLE_WITHIN_S
    while not path.exists() and time.monotonic() < until:
        list(path.parent.parent.glob("*/"))  # makes a network file system refresh its listing
        time.sleep(POLL_S)
    return path.exists()


def _digest_code() -> str:
    digest = hashlib.sha256()
    for package in (gap_jax, data_pipelines):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
