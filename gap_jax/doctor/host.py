"""Measures what a machine has: cores, memory and disk, with the limits of a container."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

GIB = 2**30
LEAST_MEMORY, LEAST_DISK, LEAST_SHARED = 4 * GIB, 5 * GIB, GIB // 4
CGROUP, SHARED = Path("/sys/fs/cgroup"), Path("/dev", "shm")


class Row(NamedTuple):
    """A line of the examination: its name, its text, and what to do, "" if all is well."""

    name: str
    text: str
    advice: str = ""


def examine_host(folders: Sequence[Path]) -> Iterator[Row]:
    """Describes the machine; files are written to `folders`."""
    yield _cores()
    yield _memory()
    for folder in folders:
        advice = "checkpoints of a large backbone take some GiB: work in another folder"
        yield _disk(folder, LEAST_DISK, advice)
    yield _disk(SHARED, LEAST_SHARED, "keep data.workers=0, or docker run --shm-size=2g")


def _cores() -> Row:
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    text = f"{usable} of {os.cpu_count()}"
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")  # of the time of one core
    if quota.isdecimal() and int(quota) < usable * int(period):
        text += f", limited to the time of {int(quota) / int(period):g} by the control group"
    return Row("cores", text)


def _memory() -> Row:
    lines = (line.partition(":") for line in _read(Path("/proc/meminfo")).splitlines())
    sizes = {name: int(value.split()[0]) * 1024 for name, _, value in lines}
    if not {"MemTotal", "MemAvailable"} <= sizes.keys():
        return Row("memory", "unknown: /proc/meminfo cannot be read")
    total, free = sizes["MemTotal"], sizes["MemAvailable"]
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB available"
    limit, used = (_read(CGROUP / f"memory.{name}") for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        free = min(free, int(limit) - int(used))
        text += f", {free / GIB:.1f} of {int(limit) / GIB:.1f} GiB in the control group"
    advice = "keep data.cache=none and data.workers=0, and raise train.accumulate"
    return Row("memory", text, advice if free < LEAST_MEMORY else "")


def _disk(folder: Path, least: int, advice: str) -> Row:
    try:
        free = shutil.disk_usage(folder).free
        text = f"{free / GIB:.1f} GiB free in {folder.absolute()}"
    except OSError as error:
        free, text = 0, f"{folder}: {error.strerror}"
    if not os.access(folder, os.W_OK):
        free, text = 0, f"{text}, not writable"
    return Row("disk", text, advice if free < least else "")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
