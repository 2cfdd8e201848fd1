"""Measures what a machine has: cores, memory, limits and disk."""

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MIB, GIB = 2**20, 2**30
LEAST_MEMORY, LEAST_DISK, LEAST_SHARED = 4 * GIB, 5 * GIB, 256 * MIB
LEAST_FILES = 1024
CGROUP = Path("/sys/fs/cgroup")
SHARED = Path("/dev", "shm")
_UNLIMITED = 2**60  # cgroup 1 writes a huge number where there is no limit


class Row(NamedTuple):
    """A line of the examination: its name, its text, and what to do, "" if all is well."""

    name: str
    text: str
    advice: str = ""


def examine_host(*folders: Path) -> list[Row]:
    """Describes the machine; files are written to `folders`."""
    return [_cores(), _memory(), *_disks(*folders), _shared(), _limits()]


def _cores() -> Row:
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    text = f"{usable} of {os.cpu_count()}"
    quota = _read_quota()
    if quota is not None and quota < usable:
        advice = f"more than {quota:g} threads slow each other down" if quota < 1.5 else ""
        return Row(
            "cores", f"{text}, limited to the time of {quota:g} by the control group", advice
        )
    return Row("cores", text)


def _read_quota() -> float | None:
    """Returns how many cores' time the control group grants; None without a limit."""
    found = _read(CGROUP / "cpu.max").split()
    if len(found) == 2 and found[0].isdecimal() and int(found[1]):
        return int(found[0]) / int(found[1])
    quota, period = (_read_number(CGROUP / "cpu" / f"cpu.cfs_{x}_us") for x in ("quota", "period"))
    return quota / period if quota and period else None


def _memory() -> Row:
    sizes = {}
    for line in _read(Path("/proc/meminfo")).splitlines():
        name, _, value = line.partition(":")
        sizes[name] = int(value.split()[0]) * 1024
    total, free = sizes.get("MemTotal"), sizes.get("MemAvailable")
    if total is None or free is None:
        return Row("memory", "unknown: /proc/meminfo cannot be read")
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB available"
    limit, used = read_memory_limit()
    if limit is not None and limit < total:
        text += f", limited to {limit / GIB:.1f} GiB by the control group ({used / GIB:.1f} used)"
        free = min(free, limit - used)
    advice = ""
    if free < LEAST_MEMORY:
        advice = "with little memory keep data.cache=none and data.workers=0, and raise "
        advice += "train.accumulate"
    return Row("memory", text, advice)


def read_memory_limit() -> tuple[int | None, int]:
    """Returns the control group's limit of memory, None without one, and what it uses."""
    for limit, used in (
        (CGROUP / "memory.max", CGROUP / "memory.current"),
        (CGROUP / "memory/memory.limit_in_bytes", CGROUP / "memory/memory.usage_in_bytes"),
    ):
        number = _read_number(limit)
        if number is not None and number < _UNLIMITED:
            return number, _read_number(used) or 0
    return None, 0


def _disks(*folders: Path) -> Iterator[Row]:
    for folder in folders:
        try:
            path = folder.absolute()
            free = shutil.disk_usage(path).free
        except OSError as error:
            advice = "work in a folder that exists and may be read"
            yield Row("disk", f"{folder}: {error.strerror}", advice)
            continue
        text, advice = f"{free / GIB:.1f} GiB free in {path}", ""
        if not os.access(path, os.W_OK):
            text, advice = f"{text}, not writable", "work in a folder that you may write to"
        elif free < LEAST_DISK:
            advice = "checkpoints of a large backbone take some GiB"
        yield Row("disk", text, advice)


def _shared() -> Row:
    if not os.access(SHARED, os.W_OK):
        return Row(str(SHARED), "absent or not writable", "keep data.workers=0, which needs none")
    usage = shutil.disk_usage(SHARED)
    text = f"{usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB free"
    advice = "data.workers pass images through it: keep data.workers=0, or docker run --shm-size=2g"
    return Row(str(SHARED), text, advice if usage.free < LEAST_SHARED else "")


def _limits() -> Row:
    kinds = {
        "open files": (resource.RLIMIT_NOFILE, 1),
        "processes": (resource.RLIMIT_NPROC, 1),
        "address space": (resource.RLIMIT_AS, MIB),
        "file size": (resource.RLIMIT_FSIZE, MIB),
    }
    soft = {name: resource.getrlimit(kind)[0] for name, (kind, _) in kinds.items()}
    shown = [
        f"{name} {soft[name] // unit:,}{' MiB' if unit == MIB else ''}"
        for name, (_, unit) in kinds.items()
        if soft[name] != resource.RLIM_INFINITY
    ]
    advice = []
    if 0 <= soft["open files"] < LEAST_FILES:
        advice.append("ulimit -n 4096")
    if soft["address space"] != resource.RLIM_INFINITY:
        advice.append("ulimit -v unlimited: JAX reserves more addresses than memory")
    if soft["file size"] != resource.RLIM_INFINITY:
        advice.append("ulimit -f unlimited")
    return Row("limits", ", ".join(shown) or "none", "; ".join(advice))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _read_number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None
