"""The metadata of a weights file, and their comparison with a config."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from data_pipelines.core.errors import CheckpointError
from gap_jax.model_config import BACKBONES, INPUTS, WITHOUT_NORMS, ModelConfig, Strides
from gap_jax.models.backbones.resnet import BLOCKS, own_stem_padding
from gap_jax.models.layers import Padding

FORMAT_VERSION = 2
READABLE = (1, 2)
LONGEST_NAME = 40
KEY = "gap_jax"  # of the safetensors metadata
EPS_TOLERANCE = 0.01  # a relative difference in eps that changes no result
ONE_NETWORK = {"slim", "caffe"}  # with running statistics


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The network that the arrays fit, and their origin.

    `strides` and `stem_padding` are empty unless the backbone is a ResNet. The network's input was
    (RGB - input_mean) / input_scale. `seed` and the data's `fingerprint` are those of a run,
    `origin` is that of a converted file.
    """

    backbone: str
    strides: str
    command: str
    seed: int = 0
    fingerprint: str = ""
    input_mean: tuple[float, ...] = INPUTS["reference"][0]
    input_scale: tuple[float, ...] = INPUTS["reference"][1]
    stem_padding: str = ""
    norm_eps: float = 1e-5
    colours: str = "RGB"
    origin: str = ""
    format_version: int = FORMAT_VERSION

    def dump(self) -> str:
        """Returns JSON text; equal metadata give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def describe_backbone(model: ModelConfig, *, command: str, seed: int, fingerprint: str) -> Metadata:
    """Describes a backbone that was trained with `model`."""
    strides, stem_padding = _resnet_settings(model)
    return Metadata(
        model.backbone,
        strides,
        command,
        seed,
        fingerprint,
        model.input_mean,
        model.input_scale,
        stem_padding,
        model.norm_eps,
    )


def _resnet_settings(model: ModelConfig) -> tuple[str, str]:
    """Strides and stem padding with `auto` resolved; empty unless the backbone is a ResNet."""
    if model.backbone not in BLOCKS:
        return "", ""
    padding = model.stem_padding
    return model.strides, own_stem_padding(model.strides) if padding == "auto" else padding


def parse_metadata(source: Path, metadata: Mapping[str, str] | None) -> Metadata:
    """Parses a file's metadata; files of version 1 have the stem padding of their strides."""
    try:
        content = json.loads((metadata or {})[KEY])
        version = content["format_version"]
        if version not in READABLE:
            raise CheckpointError(
                f"{source} has format_version={str(version)[:LONGEST_NAME]} and this gap_jax reads "
                f"up to {FORMAT_VERSION}; use the version that wrote it"
            )
        for name in ("input_mean", "input_scale"):
            content[name] = tuple(map(_number, content[name]))
        if "norm_eps" in content:
            content["norm_eps"] = _number(content["norm_eps"])
        parsed = Metadata(**content)
        _check(parsed)
        if version == 1 and parsed.strides:
            return dataclasses.replace(parsed, stem_padding=own_stem_padding(parsed.strides))
        return parsed
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{source} has no metadata of its backbone, or other than gap_jax writes; "
            "use a file that gap_jax wrote, or `gap_jax weights convert`"
        ) from error


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _check(metadata: Metadata) -> None:
    """Refuses values of wrong types or ranges: the file may come from anywhere."""
    texts = (metadata.backbone, metadata.command, metadata.fingerprint, metadata.origin)
    numbers = (metadata.norm_eps, *metadata.input_mean, *metadata.input_scale)
    padded = bool(metadata.strides) and metadata.format_version > 1
    if not (
        all(isinstance(text, str) for text in texts)
        and metadata.backbone.isprintable()
        and len(metadata.backbone) < LONGEST_NAME
        and metadata.strides in ("", *get_args(Strides))
        and metadata.stem_padding in ("", *get_args(Padding))
        and bool(metadata.strides) == (metadata.backbone in BLOCKS)
        and bool(metadata.stem_padding) == padded
        and metadata.colours == "RGB"
        and type(metadata.seed) is int
        and len(metadata.input_mean) == len(metadata.input_scale) == 3
        and all(map(math.isfinite, numbers))
        and metadata.norm_eps > 0
        and min(metadata.input_scale) > 0
    ):
        raise ValueError("metadata of another form")


def compare(source: Path, metadata: Metadata, model: ModelConfig) -> list[str]:
    """Returns a note for each harmless difference; refuses those that would give wrong outputs."""
    if metadata.backbone != model.backbone:
        fix = f"model.backbone={metadata.backbone} or " if metadata.backbone in BACKBONES else ""
        raise CheckpointError(
            f"{source} holds a {metadata.backbone} and model.backbone is {model.backbone}; "
            f"set {fix}another init.weights"
        )
    notes = _compare_resnet(source, metadata, model)
    if metadata.norm_eps != model.norm_eps and model.backbone not in WITHOUT_NORMS:
        if not abs(metadata.norm_eps - model.norm_eps) <= EPS_TOLERANCE * metadata.norm_eps:
            raise CheckpointError(
                f"{source} was trained with eps {metadata.norm_eps:g} and model.norm_eps is "
                f"{model.norm_eps:g}; set model.norm_eps={metadata.norm_eps:g}"
            )
        notes.append(
            f"{source} has eps {metadata.norm_eps:g}; model.norm_eps={model.norm_eps:g} is kept"
        )
    if metadata.input_scale != model.input_scale:
        known = [name for name, each in INPUTS.items() if each[1] == metadata.input_scale]
        fix = f"set model.input={known[0]}" if known else "set another init.weights"
        raise CheckpointError(
            f"{source} was trained on pixels divided by {metadata.input_scale} and model.input="
            f"{model.input} divides by {model.input_scale}; {fix}"
        )
    if metadata.input_mean != model.input_mean:
        notes.append(
            f"{source} was trained on pixels minus {metadata.input_mean}; model.input="
            f"{model.input} subtracts {model.input_mean}"
        )
    return notes


def _compare_resnet(source: Path, metadata: Metadata, model: ModelConfig) -> list[str]:
    notes = []
    strides, stem_padding = _resnet_settings(model)
    if metadata.strides != strides:
        if {metadata.strides, strides} != ONE_NETWORK:
            raise CheckpointError(
                f"{source} was trained with {metadata.strides} strides and model.strides is "
                f"{strides}: the shapes fit, but the outputs would be wrong; set "
                f"model.strides={metadata.strides} or another init.weights"
            )
        notes.append(
            f"{source} has {metadata.strides} strides and model.strides is {strides}: the same "
            "network with running statistics, another one with batch statistics"
        )
    if metadata.stem_padding != stem_padding:
        notes.append(
            f"{source} has max-pool padding {metadata.stem_padding} and this network "
            f"{stem_padding}; they differ on maps of even size. To use the file's, set "
            f"model.stem_padding={metadata.stem_padding}"
        )
    return notes
