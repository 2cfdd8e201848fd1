"""Opens a trained model: a checkpoint of a run, or an exported model.

An exported model is a folder with `arrays` (orbax), config.json, classes.json, preprocess.json, and
the digest of each of them in manifest.json.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from data_pipelines.core import files
from data_pipelines.core.errors import CheckpointError, ConfigError, name_some, propose
from data_pipelines.example import LabelKind
from data_pipelines.manifest import Manifest, list_moves
from gap_jax import hardware
from gap_jax.config import Config
from gap_jax.learning.setup import check_clips, describe_state
from gap_jax.learning.state import (
    Model,
    Variables,
    describe_model,
    fold_network,
)
from gap_jax.runtime import run_folder
from gap_jax.runtime.arrays import load_arrays
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.checkpoint_folders import RUN_ID, DamageError, find_best
from gap_jax.runtime.digests import LeafDigest, find_misfits, place
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.weights.native import load_backbone, name_arrays, replace_arrays

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PREPROCESSING = "preprocess.json"
ARRAYS = "arrays"

Which = Literal["best", "latest"] | int
Weights = Literal["ema", "raw"]


@dataclasses.dataclass(frozen=True)
class Origin:
    """The run and step of a model's parameters, and the fingerprint of its training data."""

    run: str
    step: int
    weights: Weights
    fingerprint: str
    metrics: dict[str, Any]
    label_kind: LabelKind = "single"


@dataclasses.dataclass(frozen=True)
class ExportManifest:
    """The export manifest; `files` holds the SHA-256 of each file by name."""

    gap_jax: str
    formats: list[str]
    origin: Origin
    leaves: dict[str, LeafDigest]
    files: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Opened:
    """A trained model with its config, which describes the crops that it takes."""

    source: Path
    cfg: Config
    classes: tuple[str, ...]
    origin: Origin
    model: Model
    variables: Variables
    is_exported: bool

    def fold(self) -> "Opened":
        """Folds batch norm and weight-space saliency into the weights, as an export does."""
        if self.is_exported:
            return self
        fold = jax.jit(
            functools.partial(fold_network, self.model), compiler_options=hardware.ONE_RUN_OPTIONS
        )
        model, variables = fold(self.variables)
        return dataclasses.replace(self, model=model, variables=variables)

    def check_data(self, data: Manifest, *, is_named: bool = False) -> None:
        """Refuses data that the model was not trained on; named ones only if classes differ.

        The same names in another order are the same classes.
        """
        moves = list_moves(self.classes, data.classes)
        if moves and (not is_named or set(self.classes) != set(data.classes)):
            raise CheckpointError(
                f"{self.source} was trained on other classes: {moves}; evaluate it on its own data "
                "or on data with the same class names"
            )
        if not is_named and data.fingerprint != self.origin.fingerprint:
            raise CheckpointError(
                f"{self.source} was trained on data with fingerprint {self.origin.fingerprint}; "
                f"this data has {data.fingerprint}: other images, labels or order; "
                "evaluate it on its own data, or name these with --data DIR"
            )


def open_model(
    path: Path,
    *,
    checkpoint: Which = "best",
    weights: Weights = "ema",
    names: Sequence[str] = (),
) -> Opened:
    """Opens a checkpoint of the run in `path`, or the exported model there.

    `ema` takes the average of the parameters if the run keeps one, `raw` the parameters themselves.
    If there is no such path, a near one of the `names` is proposed.
    """
    refuse_absent(path, names)
    with files.reading(path, CheckpointError):
        is_export = (path / ARRAYS).is_dir() or (path / PREPROCESSING).is_file()
    if not is_export:
        return _open_run(RunFolder(path), checkpoint, weights)
    opened = _open_export(path)
    origin = opened.origin
    if checkpoint not in ("best", origin.step) or weights not in ("ema", origin.weights):
        raise ConfigError(
            f"{path} is an exported model, of step {origin.step} and its {origin.weights} weights "
            "only; name the run to open another step"
        )
    return opened


def open_weights(path: Path, cfg: Config, data: Manifest) -> Opened:
    """Fills the network of a config from a weights file; refuses a file that lacks an array."""
    check_clips(cfg, data)
    model, shapes = describe_model(cfg, len(data.classes))
    variables, report = load_backbone(path, shapes, cfg.model, "all")
    print(report)
    if report.left_random:
        raise CheckpointError(
            f"{path} does not hold {len(report.left_random)} arrays of this network with "
            f"{len(data.classes)} classes, first {next(iter(report.left_random))}; use the config "
            "and the data that it was trained with"
        )
    origin = Origin(path.name, 0, "raw", data.fingerprint, {}, data.label_kind)
    return Opened(path, cfg, data.classes, origin, model, variables, is_exported=False)


def refuse_absent(
    path: Path,
    names: Sequence[str] = (),
    fix: str = "name the folder of a run or an exported model",
) -> None:
    """Refuses a path that does not exist; proposes a near one of the `names` of other models."""
    with files.reading(path, CheckpointError):
        if not path.exists():
            raise CheckpointError(
                f"there is no file or folder {path}{propose(str(path), names) or f'; {fix}'}"
            )


def _open_run(run: RunFolder, checkpoint: Which, weights: Weights) -> Opened:
    if run.root.is_file():
        raise CheckpointError(
            f"{run.root} is a file; add the config of its network: --config=FILE[:parts]"
        )
    if not run.config.is_file():
        raise CheckpointError(
            f"{run.root} is neither a run nor an exported model: it holds no {run.config.name}; "
            "name the folder of a run"
        )
    cfg = run_folder.load_config(run)
    run_id = run_folder.load_record(run)[RUN_ID]
    with Checkpoints(run.checkpoints, warn=print, run_id=run_id) as checkpoints:
        step = _choose_step(checkpoints, checkpoint)
        metadata = checkpoints.find(step).run
        if not metadata["classes"]:
            raise CheckpointError(
                f"checkpoint {step} in {checkpoints.folder} names no classes; use another"
            )
        model, shapes = describe_model(cfg, len(metadata["classes"]))
        _, target = describe_state(cfg, shapes)
        state = checkpoints.load(step, target).state
    is_averaged = weights == "ema" and bool(state.ema)
    variables = state.best_variables if is_averaged else state.variables
    origin = Origin(
        run=run.root.absolute().name,
        step=step,
        weights="ema" if is_averaged else "raw",
        fingerprint=metadata["fingerprint"],
        metrics=metadata["metrics"],
        label_kind=_read_label_kind(metadata),
    )
    classes = tuple(metadata["classes"])
    return Opened(run.root, cfg, classes, origin, model, variables, is_exported=False)


def _read_label_kind(metadata: Mapping[str, Any]) -> LabelKind:
    """Reads the kind of labels; older checkpoints show it only by metrics without an accuracy."""
    is_multi = metadata["metrics"].get("accuracy", 0.0) is None
    return metadata.get("label_kind", "multi" if is_multi else "single")


def _choose_step(checkpoints: Checkpoints, which: Which) -> int:
    known = checkpoints.survey().good
    if not known:
        raise CheckpointError(
            f"no good checkpoint of this run in {checkpoints.folder}; train until one is saved"
        )
    if which == "latest":
        return list(known)[-1]
    if which != "best":
        return which
    best = find_best(known)
    if best is None:
        raise CheckpointError(
            f"no checkpoint in {checkpoints.folder} has been evaluated; use --checkpoint latest"
        )
    return best


def digest_files(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of an exported model except its manifest."""
    return {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }


def _open_export(folder: Path) -> Opened:
    contents = _read_manifest(folder)
    found = digest_files(folder)
    for name, digest in contents.files.items():
        if found.get(name) != digest:
            raise _damaged(folder, f"{name} is {'changed' if name in found else 'missing'}")
    run = RunFolder(folder)
    cfg, classes = run_folder.load_config(run), run_folder.load_classes(run)
    model, shapes = describe_model(cfg, len(classes), folded=True)
    target = name_arrays(shapes)
    misfits = find_misfits(contents.leaves, target)
    if misfits:
        raise _damaged(folder, name_some(misfits))
    try:
        leaves = load_arrays(folder.absolute() / ARRAYS, contents.leaves)
    except DamageError as damage:
        raise _damaged(folder, str(damage)) from damage
    variables = replace_arrays(shapes, place(leaves, target))
    return Opened(folder, cfg, classes, contents.origin, model, variables, is_exported=True)


def _read_manifest(folder: Path) -> ExportManifest:
    try:
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder} has format_version={version!r} and this gap_jax reads "
                f"{FORMAT_VERSION}; export the run again"
            )
        leaves = {
            name: LeafDigest(leaf["dtype"], list(leaf["shape"]), leaf["sha256"])
            for name, leaf in content.pop("leaves").items()
        }
        content["files"] = dict(content["files"])
        return ExportManifest(origin=Origin(**content.pop("origin")), leaves=leaves, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{MANIFEST} is not readable") from error


def _damaged(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{folder} is damaged ({reason}); export the run again")
