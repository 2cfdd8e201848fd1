"""Computes the maps of a frozen backbone once for each view of each record, and stores them.

Each process computes its share of the shards on its own devices.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import jax
import numpy as np

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite
from data_pipelines.feature_maps import FeatureMaps, make_row_type
from gap_jax.learning.setup import Setup
from gap_jax.learning.state import Variables
from gap_jax.models.build import backbone_dtype
from gap_jax.runtime import run_folder
from gap_jax.runtime.digests import copy_to_host, describe
from gap_jax.runtime.extractor import Extractor
from gap_jax.runtime.processes.group import ALONE, Processes
from gap_jax.runtime.run_folder import RunFolder

IMAGE_FIELDS = (
    "preprocessing", "image_size_px", "limit_width_px", "short_side_px", "resize",
)  # fmt: skip
TRAINING_FIELDS = (
    "flip", "swap_on_flip", "area_range", "aspect_range", "brightness", "contrast", "saturation",
    "erasing",
)  # fmt: skip
EVALUATION_FIELDS = ("eval_crops", "eval_flip")
NETWORK_FIELDS = (
    "backbone", "strides", "stem_padding", "final_relu", "input", "stage", "norm_eps",
)  # fmt: skip
STORED_FIELDS = (
    *IMAGE_FIELDS,
    *TRAINING_FIELDS,
    *EVALUATION_FIELDS,
    "feature_views",
    "feature_dtype",
)
IN_USE_ADVICE = "wait until it has computed these maps, and run the same command again"


class StoredMaps(NamedTuple):
    """The maps of a run: those of its training and of its evaluated images."""

    training: FeatureMaps
    evaluation: FeatureMaps

    def digest(self) -> str:
        """Returns the digest of all files of complete maps."""
        digests = [each.digest() for each in self]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def find_maps(
    setup: Setup,
    variables: Variables,
    folder: RunFolder,
    processes: Processes,
    log: Callable[[str], None],
    is_stopping: Callable[[], bool],
) -> StoredMaps | None:
    """Returns the maps of a run with data.cache=features, computed if need be; else None.

    Refuses maps that differ from those that the run was trained on.
    """
    if setup.cfg.data.cache != "features":
        return None
    stored = store_maps(setup, variables, processes, log, is_stopping)
    processes.broadcast("maps_pinned", lambda: run_folder.pin_maps(folder, stored.digest()))
    return stored


def store_maps(
    setup: Setup,
    variables: Variables,
    processes: Processes = ALONE,
    log: Callable[[str], None] = print,
    is_stopping: Callable[[], bool] = lambda: False,
    *,
    repair: bool = False,
) -> StoredMaps:
    """Computes the maps of a run that are not stored yet, and checks those that are."""
    host = copy_to_host(variables)
    stored = describe_maps(setup, host)
    distinct = [stored.training]
    if stored.evaluation is not stored.training:
        distinct.append(stored.evaluation)
    if repair and processes.is_first:
        for maps in distinct:
            maps.repair()
    absent = processes.broadcast("maps", lambda: [not each.is_complete() for each in distinct])
    unfinished = [each for each, is_absent in zip(distinct, absent, strict=True) if is_absent]
    with ExitStack() as held:

        def enter() -> None:
            for maps in unfinished:
                held.enter_context(files.locked(maps.folder, advice=IN_USE_ADVICE))
            _check_room(unfinished)

        processes.broadcast("maps_entered", enter)
        if unfinished:
            extractor = Extractor(setup, host, processes, log, is_stopping)
            for maps in unfinished:
                extractor.store(maps)
    for maps, is_absent in zip(distinct, absent, strict=True):
        if not is_absent:
            maps.check(processes.index_and_count, lambda: processes.heartbeat(is_starting=True))
    return stored


def describe_maps(setup: Setup, host: dict[str, np.ndarray]) -> StoredMaps:
    """Describes the maps of a run; those of held-out images are among those of training."""
    data = setup.cfg.data
    training = _describe(setup, host, data.train_split, is_training=True)
    if data.held_out and data.eval_views == 1 and data.eval_crops == "center":
        return StoredMaps(training, training)  # its first view is the centre crop
    return StoredMaps(training, _describe(setup, host, data.evaluated_split, is_training=False))


def _describe(
    setup: Setup, host: dict[str, np.ndarray], split: str, *, is_training: bool
) -> FeatureMaps:
    """Names everything that determines the maps of a split."""
    cfg, data = setup.cfg.data, setup.data
    fields = (*IMAGE_FIELDS, *(TRAINING_FIELDS if is_training else EVALUATION_FIELDS))
    views = cfg.feature_views if is_training else cfg.eval_views
    origin = {
        "split": split,
        "purpose": "training" if is_training else "evaluation",
        "data": data.fingerprint,
        "weights": _digest_backbone(host),
        "network": {name: getattr(setup.cfg.model, name) for name in NETWORK_FIELDS}
        | {"dtype": str(np.dtype(backbone_dtype(setup.cfg.model)))},
        "images": {name: getattr(cfg, name) for name in fields},
        "views": views,
        "dtype": cfg.feature_dtype,
    }
    side = cfg.image_size_px
    image = jax.ShapeDtypeStruct((1, side, side, 3), "uint8")
    shape = jax.eval_shape(setup.model.extract, setup.target.variables, image).shape[1:]
    row_type = make_row_type(data, views, shape, cfg.feature_dtype)
    rows = data.find_split(split).examples
    return FeatureMaps(cfg.directory, json.loads(json.dumps(origin)), row_type, rows)


def _digest_backbone(host: dict[str, np.ndarray]) -> str:
    leaves = {name: leaf for name, leaf in host.items() if name.split("/")[1] == "backbone"}
    digests = {name: each.sha256 for name, each in describe(leaves).items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _check_room(unfinished: list[FeatureMaps]) -> None:
    """Refuses maps that do not fit on the disk, before anything is written."""
    if not unfinished:
        return
    needed = sum(each.missing_bytes() for each in unfinished)
    folder = unfinished[0].data
    free = shutil.disk_usage(files.existing_ancestor(folder)).free
    if needed > free:
        raise CannotWrite(
            f"data.cache=features needs {needed / 2**30:,.1f} GiB in {folder} and "
            f"{free / 2**30:,.1f} GiB are free; free some, or use fewer data.feature_views or "
            "data.cache=none"
        )
