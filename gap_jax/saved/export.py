"""Exports a model: folded parameters, config, classes and preprocessing in one folder."""

import dataclasses
import os
from collections.abc import Sequence
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
from gap_jax.learning.state import describe_model
from gap_jax.runtime import run_folder
from gap_jax.runtime.arrays import store_arrays
from gap_jax.runtime.digests import copy_to_host, describe
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.saved import model as saved
from gap_jax.saved.model import Opened, Weights, Which, open_model
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
    if not formats or not set(formats) <= set(FORMATS):
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
    match data.resize:
        case "legacy":
            resize = "bilinear, source = target * in / out, sides and limited colours cut off"
        case "antialias":
            resize = "bilinear between pixel centres, antialiased"
        case _:
            resize = "bilinear" if is_reference else "bilinear, area below half the size"
    return {
        "color": "RGB",
        "limit_width_px": data.limit_width_px if is_reference else 0,
        "longest_aspect": LONGEST_ASPECT,
        "short_side_px": data.short_side_px,
        "interpolation": resize,
        "center_crop_px": [data.image_size_px, data.image_size_px],
        "mean": list(cfg.model.input_mean),
        "scale": list(cfg.model.input_scale),
        "layout": "batch height width color, float32, (pixel - mean) / scale",
    }


def _write(folder: Path, opened: Opened, formats: Sequence[str]) -> None:
    leaves = copy_to_host(name_arrays(opened.fold().variables))
    store_arrays(folder.absolute() / saved.ARRAYS, leaves)
    run = RunFolder(folder)
    classes = [{"name": name} for name in opened.classes]
    run_folder.save(run.config, dataclasses.asdict(opened.cfg))
    run_folder.save(run.classes, {"classes": classes})
    preprocessing = describe_preprocessing(opened.cfg)
    run_folder.save(folder / saved.PREPROCESSING, preprocessing, saved.FORMAT_VERSION)
    manifest = saved.ExportManifest(
        gap_jax=gap_jax.__version__,
        formats=list(formats),
        origin=opened.origin,
        leaves=describe(leaves),
        files=saved.digest_files(folder),
    )
    run_folder.save(folder / saved.MANIFEST, dataclasses.asdict(manifest), saved.FORMAT_VERSION)


def _verify(exported: Opened, original: Opened) -> None:
    """Compares logits in float32, as rounding in bfloat16 would hide errors of folding."""
    exactly = dataclasses.replace(
        original.cfg, model=dataclasses.replace(original.cfg.model, dtype="float32")
    )
    shape = (VERIFIED_IMAGES, *[original.cfg.data.image_size_px] * 2, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def logits(opened: Opened) -> Float[np.ndarray, "b k"]:
        model, _ = describe_model(exactly, len(opened.classes), folded=opened.is_exported)
        apply = jax.jit(lambda *given: model.apply(*given)[0].logits)
        with jax.default_matmul_precision("highest"):
            return np.asarray(apply(opened.variables, images))

    after, before = logits(exported), logits(original)
    error, largest = float(np.abs(after - before).max()), float(np.abs(before).max())
    if not error <= TOLERANCE * largest:
        raise CheckpointError(
            f"the export of {original.source} at step {original.origin.step} was discarded: its "
            f"logits differ from the run's by {error:.2g} where the largest is {largest:.2g}; "
            "try another --checkpoint"
        )
