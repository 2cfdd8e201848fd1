"""Converts foreign weights to ours: names, layouts and metadata."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from data_pipelines.core.errors import CheckpointError
from gap_jax.config import Config
from gap_jax.learning.state import describe_model
from gap_jax.model_config import INPUTS, ModelConfig, PoseConfig
from gap_jax.models.backbones.resnet import own_stem_padding
from gap_jax.weights import native
from gap_jax.weights.formats import ForeignFile
from gap_jax.weights.metadata import Metadata
from gap_jax.weights.names.forms import Array, Source, to_ours
from gap_jax.weights.names.recognise import EXTRA, SKIPPED, Known, recognise


class Conversion(NamedTuple):
    """Arrays under our names, our names that were absent, and foreign names that were unused."""

    known: Known
    metadata: Metadata
    arrays: dict[str, Array]
    absent: list[str]
    unused: dict[str, int]

    def __str__(self) -> str:
        sizes = {path: values.size for path, values in self.arrays.items()}
        absent = ", ".join(dict.fromkeys(path.partition("/")[0] for path in self.absent))
        return (
            f"{self.known}: {native.count_matched(sizes)}; absent: {absent or 'nothing'}; "
            f"unused {native.count(self.unused)}"
        )


def convert(file: ForeignFile, command: str) -> Conversion:
    """Converts a known network; its backbone must be complete, its head may be absent."""
    sizes = {name: values.size for name, values in file.arrays.items()}
    known = recognise(str(file.path), sizes.keys(), sizes)
    expected = _shapes_of(known.backbone)
    arrays: dict[str, Array] = {}
    absent: list[str] = []
    used: set[str] = set()
    for path, source in known.names.items():
        if not set(source.names) <= file.arrays.keys():
            absent.append(path)
            continue
        arrays[path] = _convert_array(file, source, path)
        used |= set(source.names)
        shape = expected.get(path, arrays[path].shape)
        if arrays[path].shape != shape:
            raise CheckpointError(
                f"{file.path} has the names of {known}, but "
                f"{source.names[0]} of shape {list(file.arrays[source.names[0]].shape)} gives "
                f"{list(arrays[path].shape)} and not {list(shape)}; it is another network"
            )
    unused = {
        name: values.size
        for name, values in file.arrays.items()
        if name not in used and not SKIPPED.search(name)
    }
    if unknown := [name for name in unused if not EXTRA.search(name)]:
        raise CheckpointError(
            f"{file.path} holds all of {known} and {len(unknown)} arrays more, first "
            f"{unknown[0]}; it is another network"
        )
    _check_biases(file, arrays)
    return Conversion(known, _describe(file, known, command), arrays, absent, unused)


def _convert_array(file: ForeignFile, source: Source, path: str) -> Array:
    for name in source.names:
        if not jnp.issubdtype(file.arrays[name].dtype, jnp.floating):
            raise CheckpointError(
                f"{file.path}: {name} holds {file.arrays[name].dtype} values without a scale; "
                "use the weights from before quantisation"
            )
    try:
        values = to_ours([file.arrays[name] for name in source.names], source.form)
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {source.names[0]} {error} for {path}") from error
    if path.endswith(native.VARIANCE) and values.min(initial=0) < 0:
        raise CheckpointError(f"{file.path}: {source.names[0]} is a variance and is negative")
    return np.ascontiguousarray(values, np.float32)


def _check_biases(file: ForeignFile, arrays: dict[str, Array]) -> None:
    """Refuses a layer without exactly one bias for each output."""
    for path, kernel in arrays.items():
        bias = arrays.get(path.removesuffix("kernel") + "bias")
        if path.endswith("/kernel") and bias is not None and bias.size != kernel.shape[-1]:
            raise CheckpointError(
                f"{file.path} has {bias.size} biases for the {kernel.shape[-1]} outputs of {path}"
            )


def _shapes_of(backbone: str) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the backbone's arrays, without computing values."""
    model = ModelConfig(backbone=backbone, pooling="mean")
    cfg = Config(model=model, pose=PoseConfig(branch=False))
    named = native.name_arrays(describe_model(cfg, 1)[1])
    return {path: leaf.shape for path, leaf in named.items() if path.startswith(native.BACKBONE)}


def _describe(file: ForeignFile, known: Known, command: str) -> Metadata:
    convention = known.convention
    mean, scale = INPUTS[convention.input]
    return Metadata(
        backbone=known.backbone,
        strides=convention.strides,
        command=command,
        input_mean=mean,
        input_scale=scale,
        stem_padding=own_stem_padding(convention.strides) if convention.strides else "",
        norm_eps=convention.norm_eps,
        origin=f"{file.path.name} ({file.format}, {known.source}, colours were "
        f"{convention.colours}), SHA-256 {file.sha256}",
    )
