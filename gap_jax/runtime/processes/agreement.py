"""Before anything is written: the processes of a run do the same, with the same, in one folder."""

import functools
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
from data_pipelines import files
from data_pipelines.manifest import Manifest
from gap_jax.config import Config, fields
from gap_jax.errors import ConfigError
from gap_jax.runtime.environment import PACKAGES
from gap_jax.runtime.processes.group import Processes

SEEN_WITHIN_S = 60  # network file systems show a new file late
LOOK_EVERY_S = 0.2
SHOWN = 60


def agree(processes: Processes, cfg: Config, data: Manifest, address: str = "") -> None:
    """Refuses processes that differ, and names in what; `address` is of a workdir in a bucket."""
    if processes.count == 1:
        return
    place = {"the address in --workdir": address or "none"}
    facts = {"host": socket.gethostname(), **list_facts(cfg, data), **place}
    told = processes.gather("agreement", facts)
    first = told[0]
    for index, facts in enumerate(told):
        for name, value in facts.items():
            if name != "host" and value != first.get(name):
                one, other = _shorten(first.get(name, "absent"), value)
                raise ConfigError(
                    f"{name} is {one} in process 0 on {first['host']} and {other} in process "
                    f"{index} on {facts['host']}; give all the same command, code, data, weights "
                    "and versions"
                )


def _shorten(one: str, other: str) -> tuple[str, str]:
    """The two from a little before they differ, if they are long."""
    pairs = enumerate(zip(one, other, strict=False))
    differ_at = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    begin = max(0, differ_at - SHOWN // 2)
    mark = "..." if begin else ""
    return f"{mark}{one[begin:]:.{SHOWN}}", f"{mark}{other[begin:]:.{SHOWN}}"


def list_facts(cfg: Config, data: Manifest) -> dict[str, str]:
    """All in which processes must not differ, by name: config, data, code, versions, devices."""
    return {
        **{name: repr(value) for name, _, value in fields(cfg)},
        "the data's fingerprint": data.fingerprint,
        "the SHA-256 of init.weights": _digest_weights(cfg.init.weights),
        "gap_jax": gap_jax.__version__,
        "the code's SHA-256": _digest_code(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "the number of devices": str(jax.local_device_count()),
        "the kind of devices": jax.local_devices()[0].device_kind,
    }


def prove_shared(processes: Processes, workdir: Path) -> None:
    """Refuses a workdir that is another folder for some process: checkpoints must be seen by all.

    The first process leaves a word in a hidden file there, and the others read it.
    """
    if processes.count == 1:
        return
    word = processes.broadcast("word", functools.partial(secrets.token_hex, 16))
    place = workdir.absolute() / f".shared-{word}"
    if processes.is_first:
        files.write_atomically(place, word)
    processes.broadcast("word written", lambda: None)
    is_seen = _sees(place)
    try:
        refuse_unshared(processes, str(workdir), is_seen=is_seen)
    finally:
        if processes.is_first:
            place.unlink()


def refuse_unshared(processes: Processes, workdir: str, *, is_seen: bool) -> None:
    """Refuses a workdir where some process has not seen what the first one left there."""
    seen = processes.gather("word seen", {"host": socket.gethostname(), "seen": is_seen})
    for index, each in enumerate(seen):
        if not each["seen"]:
            raise ConfigError(
                f"--workdir={workdir} in process {index} on {each['host']} is not the place of "
                f"process 0 on {seen[0]['host']}; name one that all hosts share"
            )


def _sees(place: Path) -> bool:
    until = time.monotonic() + SEEN_WITHIN_S
    while not place.exists() and time.monotonic() < until:
        list(place.parent.parent.glob("*/"))  # makes a network file system look again
        time.sleep(LOOK_EVERY_S)
    return place.exists()


def _digest_weights(place: str) -> str:
    """Of a file; one that is absent here only would leave this process's start random."""
    return files.sha256(Path(place)) if place and Path(place).is_file() else "absent"


def _digest_code() -> str:
    """Of every module of ours, by name and content."""
    digest = hashlib.sha256()
    for package in (gap_jax, data_pipelines):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
