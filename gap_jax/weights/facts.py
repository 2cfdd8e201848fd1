"""What a weights file says of itself, and whether a network may take it."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from gap_jax.errors import CheckpointError
from gap_jax.model_config import BACKBONES, INPUTS, ModelConfig, Strides
from gap_jax.models.backbones.resnet import BLOCKS, own_stem_padding
from gap_jax.models.layers import PoolPadding

FORMAT_VERSION = 2
READABLE = (1, 2)
LONGEST_NAME = 40
KEY = "gap_jax"  # of the file's metadata
NEAR = 0.01  # a relative difference in eps that changes no result
ONE_NETWORK = {"slim", "caffe"}  # with running statistics


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the arrays fit, what they take for granted, and how they were made.

    `strides` and `stem_padding` are empty where the backbone has no choice of them. The network
    was fed (pixel - input_mean) / input_scale, colours in the order RGB. Of a run `seed` and the
    data's `fingerprint` are told, of a converted file its `origin`.
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
        """As the file's metadata hold it; equal facts give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def describe_backbone(model: ModelConfig, *, command: str, seed: int, fingerprint: str) -> Facts:
    """The facts of a backbone that was trained under `model`."""
    return Facts(
        model.backbone,
        strides_of(model),
        command,
        seed,
        fingerprint,
        model.input_mean,
        model.input_scale,
        stem_padding_of(model),
        model.norm_eps,
    )


def strides_of(model: ModelConfig) -> str:
    """A ResNet's; other backbones have no choice."""
    return model.strides if model.backbone in BLOCKS else ""


def stem_padding_of(model: ModelConfig) -> str:
    """A ResNet's, its strides' own where nothing else was asked for."""
    if model.backbone not in BLOCKS:
        return ""
    return own_stem_padding(model.strides) if model.stem_padding == "auto" else model.stem_padding


def parse_facts(source: Path, metadata: Mapping[str, str] | None) -> Facts:
    """The facts in a file's metadata; a file of version 1 was padded as its strides are."""
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
        facts = Facts(**content)
        _check(facts)
        if version == 1 and facts.strides:
            return dataclasses.replace(facts, stem_padding=own_stem_padding(facts.strides))
        return facts
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{source} does not say what backbone it holds, or not as gap_jax writes it; "
            "use a file that gap_jax wrote, or `gap_jax weights convert`"
        ) from error


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} where a number is due")
    return float(value)


def _check(facts: Facts) -> None:
    """Whoever wrote the file may have written anything."""
    words = (facts.backbone, facts.command, facts.fingerprint, facts.origin)
    numbers = (facts.norm_eps, *facts.input_mean, *facts.input_scale)
    if not (
        all(isinstance(word, str) for word in words)
        and facts.backbone.isprintable()
        and len(facts.backbone) < LONGEST_NAME
        and facts.strides in ("", *get_args(Strides))
        and facts.stem_padding in ("", *get_args(PoolPadding))
        and bool(facts.strides) == (facts.backbone in BLOCKS)
        and bool(facts.stem_padding) == (bool(facts.strides) and facts.format_version > 1)
        and facts.colours == "RGB"
        and type(facts.seed) is int
        and len(facts.input_mean) == len(facts.input_scale) == 3
        and all(map(math.isfinite, numbers))
        and facts.norm_eps > 0
        and min(facts.input_scale) > 0
    ):
        raise ValueError("a fact of another kind")


def compare(source: Path, facts: Facts, model: ModelConfig) -> list[str]:
    """What differs without harm, a sentence each; what would be silently wrong is refused."""
    if facts.backbone != model.backbone:
        fix = f"model.backbone={facts.backbone} or " if facts.backbone in BACKBONES else ""
        raise CheckpointError(
            f"{source} holds a {facts.backbone} and model.backbone is {model.backbone}; "
            f"set {fix}another init.weights"
        )
    return [
        *_compare_strides(source, facts, model),
        *_compare_eps(source, facts, model),
        *_compare_input(source, facts, model),
    ]


def _compare_strides(source: Path, facts: Facts, model: ModelConfig) -> list[str]:
    notes = []
    here = strides_of(model)
    if facts.strides != here:
        if {facts.strides, here} != ONE_NETWORK:
            raise CheckpointError(
                f"{source} was trained with {facts.strides} strides and model.strides is "
                f"{here}, where it would run and be silently wrong; set "
                f"model.strides={facts.strides} or another init.weights"
            )
        notes.append(
            f"{source} has {facts.strides} strides and model.strides is {here}: the same network "
            "by running statistics, another one while batches norm it"
        )
    if facts.stem_padding != stem_padding_of(model):
        notes.append(
            f"{source} pads its max-pool {facts.stem_padding} and this network "
            f"{stem_padding_of(model)}, which differ where the map is even; model.stem_padding="
            f"{facts.stem_padding} follows it"
        )
    return notes


def _compare_eps(source: Path, facts: Facts, model: ModelConfig) -> list[str]:
    if facts.norm_eps == model.norm_eps:
        return []
    if not abs(facts.norm_eps - model.norm_eps) <= NEAR * facts.norm_eps:
        raise CheckpointError(
            f"{source} adds {facts.norm_eps:g} to its variances and model.norm_eps is "
            f"{model.norm_eps:g}; set model.norm_eps={facts.norm_eps:g}"
        )
    return [f"{source} has eps {facts.norm_eps:g}; model.norm_eps={model.norm_eps:g} is kept"]


def _compare_input(source: Path, facts: Facts, model: ModelConfig) -> list[str]:
    if facts.input_scale != model.input_scale:
        known = [name for name, each in INPUTS.items() if each[1] == facts.input_scale]
        fix = f"set model.input={known[0]}" if known else "set another init.weights"
        raise CheckpointError(
            f"{source} was fed pixels divided by {facts.input_scale} and model.input="
            f"{model.input} divides by {model.input_scale}; {fix}"
        )
    if facts.input_mean == model.input_mean:
        return []
    return [
        f"{source} was fed pixels less {facts.input_mean}; model.input={model.input} takes "
        f"{model.input_mean} from them"
    ]
