"""Exports a model: folded parameters, config, classes and preprocessing in one folder."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

import gap_jax
from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, CheckpointError, ConfigError
from data_pipelines.transforms import LONGEST_ASPECT
from gap_jax.config import Config
from gap_jax.learning.state import Model, Variables, describe_model
from gap_jax.runtime import run_folder
from gap_jax.runtime.arrays import store_arrays
from gap_jax.runtime.digests import copy_to_host, describe
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.saved.model import (
    ARRAYS,
    FORMAT_VERSION,
    PREPROCESSING,
    RECORD,
    ExportRecord,
    Opened,
    Weights,
    Which,
    digest_files,
    open_model,
)
from gap_jax.weights.native import name_arrays

FORMATS = ("orbax",)
TOLERANCE = 1e-5  # as a share of the largest logit
VERIFIED_IMAGES = 2


def export(
    run: Path,
    out: Path,
    formats: Sequence[str] = FORMATS,
    weights: Weights = "ema",
    checkpoint: Which = "best",
) -> Opened:
    """Writes the folder `out`, opens it and checks that its logits equal those of the run."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ConfigError(f"--format={','.join(formats)} must be some of {', '.join(FORMATS)}")
    with files.locked(out):
        if os.path.lexists(out):
            raise CannotWrite(f"{out} exists already and stays untouched; choose another --out")
        opened = open_model(run, checkpoint=checkpoint, weights=weights)
        if opened.is_exported:
            raise ConfigError(f"{run} is an exported model already; name a run")
        with files.fresh_folder(out) as partial:
            _write(partial, opened, formats)
            exported = open_model(partial)
            _verify(exported, opened)
    return dataclasses.replace(exported, source=out)


def describe_preprocessing(cfg: Config) -> dict[str, Any]:
    """Describes the steps from an image to the network's input, in their order."""
    data = cfg.data
    is_reference = data.preprocessing == "reference"
    return {
        "color": "RGB",
        "limit_width_px": data.limit_width_px if is_reference else 0,
        "longest_aspect": LONGEST_ASPECT,
        "short_side_px": data.short_side_px,
        "interpolation": _describe_resize(data.resize, is_reference),
        "center_crop_px": [data.image_size_px, data.image_size_px],
        "mean": list(cfg.model.input_mean),
        "scale": list(cfg.model.input_scale),
        "layout": "batch height width color, float32, (pixel - mean) / scale",
    }


def _describe_resize(rule: str, is_reference: bool) -> str:
    match rule:
        case "legacy":
            return "bilinear, source = target * in / out, sides and limited colours cut off"
        case "antialias":
            return "bilinear between pixel centres, antialiased"
    return "bilinear" if is_reference else "bilinear, area below half the size"


def _write(folder: Path, opened: Opened, formats: Sequence[str]) -> None:
    leaves = copy_to_host(name_arrays(opened.fold().variables))
    store_arrays(folder.absolute() / ARRAYS, leaves)
    place = RunFolder(folder)
    names = [{"name": name} for name in opened.classes]
    _save(place.config, run_folder.FORMAT_VERSION, dataclasses.asdict(opened.cfg))
    _save(place.classes, run_folder.FORMAT_VERSION, {"classes": names})
    _save(folder / PREPROCESSING, FORMAT_VERSION, describe_preprocessing(opened.cfg))
    record = ExportRecord(
        gap_jax=gap_jax.__version__,
        formats=list(formats),
        origin=opened.origin,
        leaves=describe(leaves),
        files=digest_files(folder),
    )
    _save(folder / RECORD, FORMAT_VERSION, dataclasses.asdict(record))


def _verify(exported: Opened, original: Opened) -> None:
    """Compares logits in float32, as rounding in bfloat16 would hide errors of folding."""
    exactly = dataclasses.replace(
        original.cfg, model=dataclasses.replace(original.cfg.model, dtype="float32")
    )
    side = original.cfg.data.image_size_px
    image = np.random.default_rng(0).integers(
        0, 256, (VERIFIED_IMAGES, side, side, 3), dtype=np.uint8
    )
    after, before = (
        _logits(
            describe_model(exactly, len(each.classes), folded=each.is_exported)[0],
            each.variables,
            image,
        )
        for each in (exported, original)
    )
    error, largest = float(np.abs(after - before).max()), float(np.abs(before).max())
    if not error <= TOLERANCE * largest:
        raise CheckpointError(
            f"the export of {original.source} at step {original.origin.step} was discarded: its "
            f"logits differ from the run's by {error:.2g} where the largest is {largest:.2g}; "
            "try another --checkpoint"
        )


def _logits(model: Model, variables: Variables, image: np.ndarray) -> Float[np.ndarray, "b k"]:
    def apply(variables: Variables, image: jax.Array) -> jax.Array:
        return model.apply(variables, image)[0].logits

    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(apply)(variables, image))


def _save(path: Path, version: int, content: Mapping[str, Any]) -> None:
    text = json.dumps({"format_version": version, **content}, indent=1, ensure_ascii=False)
    files.write_atomically(path, text + "\n")
