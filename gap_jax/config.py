"""Defines every field of a run with its default, help and bounds; defaults are the paper's.

Do not use `from __future__ import annotations` here: the command line reads real types.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from data_pipelines.config import CROPS, VIDEOS, DataConfig
from data_pipelines.core.errors import ConfigError
from data_pipelines.core.settings import Settings, setting
from gap_jax.model_config import InitConfig, ModelConfig, PoseConfig, check_model

Rule = Literal["envelope", "step", "eleven_point", "voc2007"]
Ranking = Literal["softmax", "logits"]
Unknown = Literal["ignored", "negative", "known_object"]


@dataclasses.dataclass
class OptimConfig(Settings, group="optim"):
    """The optimiser and its schedule."""

    name: Literal["sgd", "adamw"] = setting("sgd", "sgd: coupled weight decay and momentum")
    learning_rate: float = setting(1e-3, "peak learning rate", above=0)
    schedule: Literal["staircase", "cosine", "constant"] = setting(
        "staircase", "schedule of the learning rate"
    )
    decay_factor: float = setting(0.33, "staircase: factor of each decay", above=0, high=1)
    decay_every_steps: int = setting(5000, "staircase: steps between decays", low=1)
    warmup_steps: int = setting(0, "steps of linear warm-up", low=0)
    momentum: float = setting(0.9, "sgd: momentum, without Nesterov", low=0, high=0.9999)
    weight_decay: float = setting(5e-4, "on convolution-like weights only", low=0)
    clip_norm: float = setting(0.0, "largest gradient norm; 0 is off", low=0)
    multipliers: tuple[str, ...] = setting((), "learning-rate factors by path, as 'backbone=0.1'")
    bias_multiplier: float = setting(
        1.0, "another factor of the rate, of every parameter named bias (Fast R-CNN: 2)", low=0
    )
    frozen: tuple[str, ...] = setting((), "paths whose parameters and statistics do not change")

    @property
    def freezes_backbone(self) -> bool:
        return "backbone" in self.frozen


@dataclasses.dataclass
class TrainConfig(Settings, group="train"):
    """Length of training, batch size, seed and loss."""

    steps: int = setting(12_000, "optimiser steps; with train.epochs the most", low=1)
    epochs: float = setting(
        0.0,
        "passes over the training images, each with an evaluation and a checkpoint (at most "
        "eval.every_steps and checkpoint.every_steps apart); 0: train.steps counts",
        low=0,
        high=1e6,
    )
    min_steps: int = setting(1, "with train.epochs: the least steps, for few images", low=1)
    batch_size: int = setting(128, "images per optimiser step, over all devices", low=1)
    accumulate: int = setting(8, "micro-batches in a batch, to fit in memory", low=1)
    seed: int = setting(0, "root of every random number of the run", low=0, high=2**31 - 1)
    label_smoothing: float = setting(0.0, "target's share spread over all classes", low=0, high=0.5)
    mixup: float = setting(
        0.0,
        "images are mixed in pairs by shares from Beta(x, x), and so are labels; 0 is off",
        low=0,
        high=100,
    )
    class_weights: Literal["none", "balanced"] = setting("none", "weights by inverse frequency")
    unlabelled: Literal["masked", "reference"] = setting(
        "masked", "images without a label add no action loss, or (reference) only its gradient"
    )
    unknown: Literal["masked", "negative"] = setting(
        "masked", "several labels: unknown and ambiguous ones add no loss, or are negatives (AP)"
    )
    positive_weight: float = setting(
        1.0, "several labels: factor of the positives' loss (AP on HICO: 10)", above=0, high=1e6
    )
    ema_decay: float = setting(0.0, "average parameters over steps; 0 is off", low=0, high=0.99999)
    early_stop_evals: int = setting(0, "evaluations without gain before a stop; 0 is off", low=0)
    log_every_steps: int = setting(50, "steps between lines of metrics", low=1)

    @property
    def micro_batch_size(self) -> int:
        """Returns the images of a micro-batch, over all devices."""
        return self.batch_size // self.accumulate


@dataclasses.dataclass
class EvalConfig(Settings, group="eval"):
    """When the run is evaluated, on which images and by which metric."""

    every_steps: int = setting(1000, "steps between evaluations; 0 makes one at the end", low=0)
    max_examples: int = setting(0, "examples to use, spread evenly over the split; 0 is all", low=0)
    batch_size: int = setting(64, "images per evaluation step, over all devices", low=1)
    average_precision: Rule = setting(
        "envelope",
        "area under the envelope of precision (VOC 2010), under precision itself (step), or the "
        "mean at eleven recalls: exact tenths, or floating-point ones (VOC 2007's, HICO's code)",
    )
    ranking: Ranking = setting("softmax", "scores that rank images within a class")
    unknown: Unknown = setting(
        "ignored",
        "several labels: an unknown one leaves its class's AP, or is a negative, also where no "
        "label names the class's object (HICO's default setting) or only elsewhere (known object)",
    )


@dataclasses.dataclass
class CheckpointConfig(Settings, group="checkpoint"):
    """When checkpoints are saved and how many are kept."""

    every_steps: int = setting(1000, "steps between checkpoints", low=1)
    keep: int = setting(3, "latest checkpoints kept, besides the best", low=1)


@dataclasses.dataclass
class MeshConfig(Settings, group="mesh"):
    """How the devices divide the work."""

    fsdp: int = setting(1, "devices that shard the parameters; the others shard the data", low=1)


@dataclasses.dataclass
class RuntimeConfig(Settings, group="runtime"):
    """Compilation cache, profiler and time limits."""

    compile_cache: str = setting("", "folder of the compilation cache; empty: off")
    profile_start_step: int = setting(0, "first step to profile, to WORKDIR/profile; 0: off", low=0)
    profile_steps: int = setting(5, "steps to profile", low=1)
    start_within_s: int = setting(1800, "seconds to the first step, or all processes end", low=1)
    stuck_after_s: int = setting(
        300, "seconds without a step or checkpoint; after them all of several processes end", low=1
    )


@dataclasses.dataclass
class Config(Settings, group="config"):
    """All fields of a run; mutable while flags are parsed, then checked and frozen."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    pose: PoseConfig = dataclasses.field(default_factory=PoseConfig)
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        """Checks fields that depend on each other; each group checks its own fields."""
        check_model(self.model, self.pose)
        _check_batches(self)
        _check_boxes(self)
        if self.data.cache == "features":
            _check_features(self)

    @property
    def reads_boxes(self) -> bool:
        """Returns whether batches hold the boxes of people."""
        return self.model.reads_boxes

    @property
    def map_of_px(self) -> int | None:
        """The side of the crops whose stored maps take the place of images; None without."""
        return self.data.image_size_px if self.data.cache == "features" else None

    def resolved(self) -> "Config":
        """Returns a frozen copy whose groups were checked again."""
        groups = {f.name: getattr(self, f.name).resolved() for f in dataclasses.fields(self)}
        twin = type(self)(**groups)
        object.__setattr__(twin, "_frozen", True)
        return twin


def _check_batches(cfg: Config) -> None:
    if cfg.train.early_stop_evals and not cfg.eval.every_steps:
        raise ConfigError(
            f"train.early_stop_evals={cfg.train.early_stop_evals} counts evaluations, but "
            "eval.every_steps=0 makes none before the end; set "
            f"eval.every_steps={EvalConfig.every_steps} or train.early_stop_evals=0"
        )
    train, group = cfg.train, cfg.model.norm_group_size
    if train.batch_size % train.accumulate:
        raise ConfigError(
            f"train.batch_size={train.batch_size} cannot be divided into "
            f"train.accumulate={train.accumulate} equal micro-batches; set "
            f"train.accumulate={_divisor(train.batch_size, train.accumulate)}"
        )
    micro = train.micro_batch_size * cfg.model.frames
    if micro % min(group, micro):
        raise ConfigError(
            f"model.norm_group_size={group} does not divide the {micro} images of "
            f"train.batch_size / train.accumulate; set "
            f"model.norm_group_size={_divisor(micro, group)}"
        )


def _check_features(cfg: Config) -> None:
    """Refuses stored maps where a step would change them."""
    for is_fit, field, value, fit in (
        (cfg.optim.freezes_backbone, "optim.frozen", cfg.optim.frozen, "('backbone',)"),
        (cfg.model.norm == "frozen", "model.norm", cfg.model.norm, "frozen"),
        (not cfg.train.mixup, "train.mixup", cfg.train.mixup, "0"),
        (cfg.model.frames == 1, "model.frames", cfg.model.frames, "1"),
    ):
        if not is_fit:
            raise ConfigError(
                f"data.cache=features stores maps that no step changes, and {field}={value} "
                f"changes them; set {field}={fit} or data.cache=none"
            )


def _check_boxes(cfg: Config) -> None:
    """Refuses what boxes do not go with, and secondary regions without a reader, or the reverse."""
    data, model = cfg.data, cfg.model
    reader = f"model.pooling={model.pooling}"
    if data.regions and model.pooling != "rstarcnn":
        raise ConfigError(
            f"data.regions={data.regions} has no effect with {reader}; set data.regions=0"
        )
    if not data.regions and model.pooling == "rstarcnn":
        raise ConfigError(
            f"{reader} chooses among secondary regions, and data.regions=0 draws none; set "
            "data.regions=10 or model.pooling=rcnn"
        )
    if not cfg.reads_boxes:
        return
    if model.regions == "people":
        reader = "model.regions=people"
    for is_fit, field, value, fit in (
        (data.name not in VIDEOS, "data.name", data.name, "people"),
        (CROPS[data.eval_crops] == 1, "data.eval_crops", data.eval_crops, "center"),
        (not data.eval_flip, "data.eval_flip", "true", "false"),
        (not cfg.train.mixup, "train.mixup", f"{cfg.train.mixup:g}", "0"),
        (model.frames == 1, "model.frames", model.frames, "1"),
    ):
        if not is_fit:
            raise ConfigError(
                f"{reader} reads boxes of one view of a picture, which {field}={value} does not "
                f"give; set {field}={fit}"
            )


def _divisor(number: int, most: int) -> int:
    """Returns the largest divisor of a number up to `most`."""
    return next(each for each in range(most, 0, -1) if number % each == 0)


def differences(before: "Config", after: "Config") -> dict[str, str]:
    """Returns 'field: old -> new' for each field that differs, by its name."""
    return {
        name: f"{name}: {old!r} -> {new!r}"
        for (name, _, old), (_, _, new) in zip(fields(before), fields(after), strict=True)
        if old != new
    }


def fields(cfg: Settings, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Yields (group.field, field, value) of every leaf, in the order of their declaration."""
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if isinstance(value, Settings):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field, value
