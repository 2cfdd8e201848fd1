"""Lists the versions of packages, and the optional ones that are absent with their command."""

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from gap_jax import __version__
from gap_jax.doctor.host import Row

PURPOSES = {
    "cuda": "NVIDIA GPUs, with a driver of version 580 or later",
    "cuda12": "NVIDIA GPUs, with a driver of version 525 or later",
    "tpu": "TPUs",
    "bench": "compare the times with PyTorch's",
    "convert": "read weights of Keras",
    "gcs": "runs in buckets, gs://",
    "joints": "joints from a detector, gap_jax data joints",
    "photos": "weights of ImageNet for photographs",
    "video": "decode videos with PyAV, gap_jax data prepare hmdb51",
    "tune": "search the values of fields, gap_jax sweep tune",
}


def examine_packages() -> Iterator[Row]:
    """Describes Python, the packages and the extras."""
    yield Row("gap_jax", __version__)
    yield Row("python", f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")
    if version_of("gap_jax") is None:
        yield Row("packages", "unknown: gap_jax is not installed", install("-e", "."))
        return
    names = ["jaxlib", *(each.name for each in list_requirements("gap_jax"))]
    text = ", ".join(f"{name} {version_of(name) or 'absent'}" for name in names)
    missing = find_missing("gap_jax")
    yield Row("packages", text, install(*missing) if missing else "")
    for extra in metadata.metadata("gap_jax").get_all("Provides-Extra") or []:
        missing = find_missing("gap_jax", extra)
        text = f"absent: {install(*missing)}" if missing else "installed"
        if not list_requirements("gap_jax", extra):
            text = f"nothing for Python {sys.version_info.major}.{sys.version_info.minor}"
        yield Row(f"[{extra}]", f"{text}  # {PURPOSES.get(extra, '')}")


def version_of(name: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install(*requirements: str) -> str:
    """Returns the command that installs packages into this Python."""
    words, python = shlex.join(requirements), shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {python} {words}"
    return f"{python} -m pip install {words}"


def list_requirements(distribution: str, extra: str = "") -> list[Requirement]:
    """Lists what a package needs, or what an extra adds to that, for this Python and system."""
    wanted = [Requirement(text) for text in metadata.requires(distribution) or ()]
    always, found = (
        [each for each in wanted if not each.marker or each.marker.evaluate({"extra": name})]
        for name in ("", extra)
    )
    return [each for each in found if not extra or each not in always]


def find_missing(distribution: str, extra: str = "") -> list[str]:
    """Lists the requirements that are not installed, nor their own extras."""
    return [
        str(each).partition(";")[0].strip()
        for each in list_requirements(distribution, extra)
        if version_of(each.name) is None or any(find_missing(each.name, x) for x in each.extras)
    ]
