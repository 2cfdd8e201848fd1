"""Lists the versions of packages, and the optional ones that are absent with their command."""

import importlib.metadata
import importlib.util
import shlex
import shutil
import sys

from packaging.requirements import Requirement

from gap_jax import __version__
from gap_jax.doctor.host import Row

DISTRIBUTION = "gap_jax"
SHOWN = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array-record",
    "tensorflow-datasets", "ml-collections", "numpy", "scipy", "safetensors",
)  # fmt: skip
DECODERS = ("simplejpeg", "pillow", "opencv-python-headless")
PURPOSES = {
    "cuda": "NVIDIA GPUs, with a driver of version 580 or later",
    "cuda12": "NVIDIA GPUs, with a driver of version 525 or later",
    "tpu": "TPUs",
    "bench": "compare the times with PyTorch's",
    "convert": "read weights of Keras",
    "gcs": "runs in buckets, gs://",
    "joints": "joints from a detector, gap_jax data joints",
    "photos": "weights of ImageNet for photographs",
}


def examine_packages() -> list[Row]:
    """Describes Python, the packages, the decoders and the extras."""
    python = ".".join(map(str, sys.version_info[:3]))
    rows = [
        Row("gap_jax", __version__),
        Row("python", f"{python}, {sys.executable}"),
        Row("packages", ", ".join(map(_name_version, SHOWN)), _advise(SHOWN)),
        Row("decoder", _describe_decoder(), _advise(DECODERS)),
    ]
    return [*rows, *_examine_extras()]


def version_of(name: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def install(*requirements: str) -> str:
    """Returns the command that installs packages into this Python."""
    words = shlex.join(requirements)
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {python} {words}"
    return f"{python} -m pip install {words}"


def list_requirements(distribution: str, extra: str) -> list[Requirement]:
    """Lists what an extra adds to a package, for this Python and system."""
    found = []
    for text in importlib.metadata.requires(distribution) or ():
        wanted = Requirement(text)
        of_extra = wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})
        if of_extra and wanted.marker and wanted.marker.evaluate({"extra": extra}):
            found.append(wanted)
    return found


def find_missing(distribution: str, extra: str) -> list[str]:
    """Lists the requirements of an extra that are not installed, nor their own extras."""
    missing = []
    for wanted in list_requirements(distribution, extra):
        is_absent = version_of(wanted.name) is None
        if is_absent or any(find_missing(wanted.name, each) for each in wanted.extras):
            wanted.marker = None
            missing.append(str(wanted))
    return missing


def _name_version(name: str) -> str:
    return f"{name} {version_of(name) or 'absent'}"


def _advise(names: tuple[str, ...]) -> str:
    absent = [name for name in names if version_of(name) is None]
    return install(*absent) if absent else ""


def _describe_decoder() -> str:
    text = ", ".join(map(_name_version, DECODERS))
    try:
        from PIL import features

        formats = [name for name in ("webp", "zlib") if features.check(name)]
    except Exception as error:  # a broken shared library may raise anything
        return f"{text}; Pillow cannot be imported ({error})"
    return f"{text}; Pillow with {', '.join(formats)}"


def _examine_extras() -> list[Row]:
    try:
        extras = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        command = install("-e", ".")
        return [Row("extras", "unknown: gap_jax is not installed, only found", command)]
    rows = []
    for extra in extras:
        purpose = PURPOSES.get(extra, "")
        rows.append(Row(f"[{extra}]", f"{_describe_extra(extra)}{purpose and f'  # {purpose}'}"))
    return rows


def _describe_extra(extra: str) -> str:
    if not list_requirements(DISTRIBUTION, extra):
        return f"nothing for Python {sys.version_info.major}.{sys.version_info.minor}"
    missing = find_missing(DISTRIBUTION, extra)
    return f"absent: {install(*missing)}" if missing else "installed"
