"""Our own weights file: a backbone's parameters and statistics by path, as safetensors."""

import contextlib
import dataclasses
import importlib.resources
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines import files
from gap_jax.errors import CheckpointError
from gap_jax.learning.optim import name_path
from gap_jax.learning.state import Variables
from gap_jax.model_config import INPUTS, InitConfig, ModelConfig
from gap_jax.models.backbones.resnet import BLOCKS
from gap_jax.variants import nearest

FORMAT_VERSION = 1
BACKBONE = "backbone/"  # which begins the name of every array
FACTS = "gap_jax"
SHIPPED_FOLDER = Path(str(importlib.resources.files("gap_jax.weights")))
SHIPPED: Mapping[str, str] = {  # NAME of NAME.safetensors in that folder: its SHA-256
    "drawn_objects": "b17bcaa87b5eb7af6c002413c98b1a9f4daef8edfa1a9b73e4feec3c96168ba9",
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file says of itself: what its arrays fit, and how they were made.

    `strides` is empty where the backbone has no choice of them; the network was fed
    (pixel - input_mean) / input_scale; `fingerprint` is that of the data.
    """

    backbone: str
    strides: str
    command: str
    seed: int
    fingerprint: str
    input_mean: tuple[float, ...] = INPUTS["reference"][0]
    input_scale: tuple[float, ...] = INPUTS["reference"][1]
    format_version: int = FORMAT_VERSION


class LoadReport(NamedTuple):
    """The names of a network's arrays, and of a file's, each with its number of values."""

    source: Path
    matched: dict[str, int]
    left_random: dict[str, int]
    unused: dict[str, int]

    def __str__(self) -> str:
        return (
            f"{self.source}: matched {_count(self.matched)}; left random "
            f"{_count(self.left_random)}; unused {_count(self.unused)}"
        )


def describe_backbone(model: ModelConfig, *, command: str, seed: int, fingerprint: str) -> Facts:
    """The facts of a backbone that was trained under `model`."""
    return Facts(model.backbone, _strides(model), command, seed, fingerprint)


def name_arrays(variables: Variables) -> dict[str, Any]:
    """Parameters and statistics by path, as backbone/layers/0/norm/mean."""
    return {
        name_path(path): leaf
        for part in variables
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    }


def replace_arrays(variables: Variables, arrays: Mapping[str, Any]) -> Variables:
    """The variables with other arrays at the paths named."""
    return Variables(
        *(
            jax.tree_util.tree_map_with_path(
                lambda path, leaf: arrays.get(name_path(path), leaf), part
            )
            for part in variables
        )
    )


def save_backbone(path: Path, variables: Variables, facts: Facts) -> None:
    """Writes the backbone's arrays; equal arrays and facts give equal bytes."""
    arrays = {
        name: np.asarray(jax.device_get(leaf))
        for name, leaf in name_arrays(variables).items()
        if name.startswith(BACKBONE)
    }
    _check_finite(path, arrays)
    text = json.dumps(dataclasses.asdict(facts), sort_keys=True)
    files.write_atomically(path, safetensors.numpy.save(arrays, {FACTS: text}))


def load_backbone(
    source: Path, variables: Variables, model: ModelConfig
) -> tuple[Variables, LoadReport]:
    """The variables with the file's backbone in them, each array placed as the one it replaces.

    The file must hold every array of this backbone, as float32 of the right shape and finite;
    what it holds beyond them, such as later stages, is left out and reported.
    """
    named = name_arrays(variables)
    wanted = {name: leaf for name, leaf in named.items() if name.startswith(BACKBONE)}
    with _reading(source), safetensors.safe_open(source, framework="numpy") as file:
        _check_facts(source, _parse_facts(source, file.metadata()), model)
        held = file.keys()
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in held}
        _check_forms(source, file, wanted)
        arrays = {name: file.get_tensor(name) for name in wanted}
    _check_finite(source, arrays)
    placed = {
        name: jax.make_array_from_callback(leaf.shape, leaf.sharding, arrays[name].__getitem__)
        for name, leaf in wanted.items()
    }
    report = LoadReport(
        source,
        matched={name: sizes[name] for name in wanted},
        left_random={name: leaf.size for name, leaf in named.items() if name not in wanted},
        unused={name: size for name, size in sizes.items() if name not in wanted},
    )
    return replace_arrays(variables, placed), report


def shipped_path(name: str) -> Path:
    """Where a shipped file lies."""
    return SHIPPED_FOLDER / f"{name}.safetensors"


def read_facts(source: Path) -> Facts:
    """What a file of ours says of itself."""
    with _reading(source), safetensors.safe_open(source, framework="numpy") as file:
        return _parse_facts(source, file.metadata())


def resolve_weights(init: InitConfig, warn: Callable[[str], None] = print) -> Path | None:
    """The file that a fresh run starts from; None where it may start at random and has to."""
    name = init.weights
    if not name:
        if init.allow_random:
            return None
        raise CheckpointError(
            "init.weights is empty and init.allow_random is off; name a file of weights with "
            "--config.init.weights=FILE, or start on a random backbone with "
            "--config.init.allow_random=true"
        )
    path = shipped_path(name) if name in SHIPPED else Path(name)
    if path.is_file():
        if name in SHIPPED and files.sha256(path) != SHIPPED[name]:
            raise CheckpointError(
                f"{path} is not the file that was shipped as init.weights={name}, its SHA-256 "
                "differs; install gap_jax again"
            )
        return path
    absent = f"init.weights={name} does not exist{nearest(name, list(SHIPPED))}"
    if not init.allow_random:
        raise CheckpointError(
            f"{absent}; name a file of weights, or start on a random backbone with "
            "--config.init.allow_random=true"
        )
    warn(f"{absent}; the backbone starts random, as init.allow_random says")
    return None


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{source} cannot be read as safetensors ({error}); make or copy it again"
        ) from error


def _strides(model: ModelConfig) -> str:
    return model.strides if model.backbone in BLOCKS else ""


def _parse_facts(source: Path, metadata: Mapping[str, str] | None) -> Facts:
    try:
        content = json.loads((metadata or {})[FACTS])
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{source} has format_version={version!r} and this gap_jax reads {FORMAT_VERSION}; "
                "use the version that wrote it"
            )
        for name in ("input_mean", "input_scale"):
            content[name] = tuple(map(float, content[name]))
        facts = Facts(**content)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{source} does not say what backbone it holds, or not as gap_jax writes it; "
            "use a file that gap_jax wrote"
        ) from error
    return facts


def _check_facts(source: Path, facts: Facts, model: ModelConfig) -> None:
    if facts.backbone != model.backbone:
        raise CheckpointError(
            f"{source} holds a {facts.backbone} and model.backbone is {model.backbone}; "
            f"set model.backbone={facts.backbone} or another init.weights"
        )
    if facts.strides != _strides(model):
        raise CheckpointError(
            f"{source} was trained with {facts.strides} strides and model.strides is "
            f"{model.strides}; set model.strides={facts.strides} or another init.weights"
        )
    there, here = (facts.input_mean, facts.input_scale), (model.input_mean, model.input_scale)
    if there != here:
        raise CheckpointError(
            f"{source} was fed pixels with (mean, scale) {there} and this network is fed {here}; "
            "set another init.weights"
        )


def _check_forms(source: Path, file: Any, wanted: Mapping[str, Any]) -> None:
    """Each wanted array is there, in float32 and in the network's shape."""
    held = set(file.keys())
    misfits = []
    for name, leaf in wanted.items():
        if name not in held:
            misfits.append(f"{name} is absent")
            continue
        form = file.get_slice(name)
        if form.get_dtype() != "F32" or tuple(form.get_shape()) != leaf.shape:
            misfits.append(
                f"{name} is {form.get_dtype()}{list(form.get_shape())} there and "
                f"F32{list(leaf.shape)} here"
            )
    if misfits:
        raise CheckpointError(
            f"{source} does not fit this backbone in {len(misfits)} of {len(wanted)} arrays, first "
            f"where {misfits[0]}; "
            "use the config it was made with or another init.weights"
        )


def _check_finite(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    bad = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    if bad:
        raise CheckpointError(
            f"the weights of {path} are not finite in {len(bad)} arrays, first {bad[0]}; "
            "use a checkpoint from before training diverged"
        )


def _count(sizes: Mapping[str, int]) -> str:
    if not sizes:
        return "none"
    groups = dict.fromkeys(name.partition("/")[0] for name in sizes)
    return f"{len(sizes)} arrays with {sum(sizes.values()):,} values ({', '.join(groups)})"
