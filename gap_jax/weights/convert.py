"""Other people's weights as a file of ours: names, layouts and what they take for granted."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gap_jax.config import Config
from gap_jax.errors import CheckpointError
from gap_jax.learning.state import describe_model
from gap_jax.model_config import INPUTS, InitConfig, ModelConfig, PoseConfig
from gap_jax.weights import native
from gap_jax.weights.facts import Facts
from gap_jax.weights.formats import ForeignFile
from gap_jax.weights.names.forms import Source, to_ours
from gap_jax.weights.names.recognise import BESIDE, SKIPPED, Known, recognise

Arrays = dict[str, Float[np.ndarray, "..."]]


class Conversion(NamedTuple):
    """Arrays under our names, what they are, and the names of the file's that served nothing."""

    known: Known
    facts: Facts
    arrays: Arrays
    absent: list[str]
    unused: dict[str, int]

    def __str__(self) -> str:
        sizes = {path: values.size for path, values in self.arrays.items()}
        absent = ", ".join(dict.fromkeys(path.partition("/")[0] for path in self.absent))
        return (
            f"a {self.known.backbone} of {self.known.source}: "
            f"{native.count_matched(sizes)}; not there: {absent or 'nothing'}; "
            f"unused {native.count(self.unused)}"
        )


def convert(file: ForeignFile, command: str) -> Conversion:
    """The arrays of a known network; the backbone must be whole, its head may be absent."""
    known = recognise(str(file.path), file.arrays.keys())
    expected = _shapes_of(known.backbone)
    arrays: Arrays = {}
    absent: list[str] = []
    used: set[str] = set()
    for path, source in known.names.items():
        if not set(source.names) <= file.arrays.keys():
            absent.append(path)
            continue
        arrays[path] = _take(file, source, path)
        used |= set(source.names)
        due = expected.get(path, arrays[path].shape)
        if arrays[path].shape != due:
            raise CheckpointError(
                f"{file.path} names its arrays as a {known.backbone} of {known.source} and "
                f"{source.names[0]} has shape {list(file.arrays[source.names[0]].shape)} where "
                f"{list(due)} is due; it is another network"
            )
    unused = {
        name: values.size
        for name, values in file.arrays.items()
        if name not in used and not SKIPPED.search(name)
    }
    if strange := [name for name in unused if not BESIDE.search(name)]:
        raise CheckpointError(
            f"{file.path} holds all of a {known.backbone} of {known.source} and {len(strange)} "
            f"arrays more, first {strange[0]}; it is another network"
        )
    _check_heads(file, arrays)
    return Conversion(known, _describe(file, known, command), arrays, absent, unused)


def _take(file: ForeignFile, source: Source, path: str) -> Float[np.ndarray, "..."]:
    for name in source.names:
        if not jnp.issubdtype(file.arrays[name].dtype, jnp.floating):
            raise CheckpointError(
                f"{file.path}: {name} holds {file.arrays[name].dtype}, without the scale that "
                "whole numbers take; convert the weights before they were quantised"
            )
    try:
        values = to_ours([file.arrays[name] for name in source.names], source.form)
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {source.names[0]} {error} for {path}") from error
    if path.endswith(native.VARIANCE) and values.min(initial=0) < 0:
        raise CheckpointError(f"{file.path}: {source.names[0]} is a variance and below zero")
    return np.ascontiguousarray(values, np.float32)


def _check_heads(file: ForeignFile, arrays: Arrays) -> None:
    """Each layer has as many biases as outputs, whatever data set it was for."""
    for path, kernel in arrays.items():
        bias = arrays.get(path.removesuffix("kernel") + "bias")
        if path.endswith("/kernel") and bias is not None and bias.size != kernel.shape[-1]:
            raise CheckpointError(
                f"{file.path} has {bias.size} biases for the {kernel.shape[-1]} outputs of {path}"
            )


def _shapes_of(backbone: str) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the backbone's arrays, without computing any."""
    cfg = Config(
        model=ModelConfig(backbone=backbone, pooling="mean"),
        pose=PoseConfig(branch=False),
        init=InitConfig(allow_random=True),
    )
    named = native.name_arrays(describe_model(cfg, 1)[1])
    return {path: leaf.shape for path, leaf in named.items() if path.startswith(native.BACKBONE)}


def _describe(file: ForeignFile, known: Known, command: str) -> Facts:
    convention = known.convention
    mean, scale = INPUTS[convention.input]
    return Facts(
        backbone=known.backbone,
        strides=convention.strides,
        command=command,
        input_mean=mean,
        input_scale=scale,
        stem_padding=convention.stem_padding,
        norm_eps=convention.norm_eps,
        origin=f"{file.path.name} ({file.format}, {known.source}, colours were "
        f"{convention.colours}), SHA-256 {file.sha256}",
    )
