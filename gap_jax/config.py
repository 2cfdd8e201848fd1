"""Every field of a run, with its default, its help and its bounds; the defaults are the paper's.

No `from __future__ import annotations` here: the command line reads real types.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from data_pipelines.config import DataConfig, Settings, setting
from data_pipelines.errors import ConfigError


@dataclasses.dataclass
class ModelConfig(Settings):
    """The backbone and the pooling on top of it."""

    group: ClassVar[str] = "model"

    backbone: str = setting(
        "resnet101",
        "network below the pooling; small is the demo's trunk",
        choices=("resnet50", "resnet101", "resnet152", "small"),
    )
    strides: str = setting(
        "slim", "where a ResNet's strides sit: slim (AP) or v1_5", choices=("slim", "v1_5")
    )
    stage: int = setting(0, "stage whose map is pooled; 0 is the last", low=0, high=5)
    norm: str = setting(
        "train", "batch norm uses the batch or the running statistics", choices=("train", "frozen")
    )
    norm_group_size: int = setting(16, "images that share batch-norm statistics", low=1)
    norm_decay: float = setting(
        0.997, "share of the running statistics a step keeps", low=0, high=1
    )
    norm_eps: float = setting(1e-5, "added to the variance", above=0)
    dtype: str = setting(
        "auto",
        "arithmetic of the trunk; auto: bfloat16 on GPU and TPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"),
    )
    remat: bool = setting(False, "recompute activations in the backward pass to save memory")
    pooling: str = setting(
        "gap",
        "mean; attention: linear saliency; gap: factored saliency",
        choices=("mean", "attention", "gap"),
    )
    T: int = setting(3, "layers of the factored saliency; 0 is attentional pooling", low=0, high=8)
    widths: tuple[int, ...] = setting((), "widths r_1..r_T; empty: 4096, halved T - 1 times", low=1)
    space: str = setting(
        "activation",
        "factored saliency: relu layers on the map, or one vector from relu'd weights",
        choices=("activation", "weight"),
    )
    saliency_input: str = setting(
        "features",
        "what the bottom-up map reads: the map itself or the pose branch's hidden layer",
        choices=("features", "pose"),
    )
    rank: int = setting(1, "number of independent bottom-up / top-down pairs", low=1, high=64)
    per_class: bool = setting(False, "a bottom-up map for each class")
    gate_init: str = setting(
        "paper",
        "start of the bottom-up map: small and random, or 1 (for training from little)",
        choices=("paper", "one"),
    )
    dropout: float = setting(0.8, "share of the top-down input that is dropped", low=0, high=0.99)
    dropout_where: str = setting(
        "map",
        "drop each position of the map, or channels of the pooled vector",
        choices=("map", "pooled"),
    )

    @property
    def chain_widths(self) -> tuple[int, ...]:
        """The widths of the factored saliency's layers, the default rule filled in."""
        return self.widths or tuple(4096 >> t for t in range(self.T))


@dataclasses.dataclass
class PoseConfig(Settings):
    """The pose branch, its target and the weight of its loss."""

    group: ClassVar[str] = "pose"

    branch: bool = setting(True, "predict 16 joint heatmaps beside the classes")
    weight: float = setting(1e-6, "weight of the pose loss beside cross-entropy", low=0)
    reduction: str = setting(
        "sum_per_image",
        "how squared errors become one number",
        choices=("reference", "mean", "sum_per_image"),
    )
    target: str = setting("disc", "shape drawn at a joint", choices=("disc", "gaussian"))
    sigma_cells: float = setting(0.7, "gaussian target: its width in cells of the map", above=0)
    hidden: tuple[int, ...] = setting((768,), "widths of the layers before the heatmaps", low=1)
    kernel_size: int = setting(1, "side of the branch's hidden convolutions", low=1, high=7)


@dataclasses.dataclass
class InitConfig(Settings):
    """Where the first parameters come from."""

    group: ClassVar[str] = "init"

    weights: str = setting(
        "weights/resnet101.safetensors", "file of converted weights, or the name of a shipped one"
    )
    allow_random: bool = setting(False, "start on a random backbone where the weights are absent")


@dataclasses.dataclass
class OptimConfig(Settings):
    """The optimiser and its schedule."""

    group: ClassVar[str] = "optim"

    name: str = setting("sgd", "sgd: coupled weight decay and momentum", choices=("sgd", "adamw"))
    learning_rate: float = setting(1e-3, "peak learning rate", above=0)
    schedule: str = setting(
        "staircase", "course of the learning rate", choices=("staircase", "cosine", "constant")
    )
    decay_factor: float = setting(0.33, "staircase: factor at each stair", above=0, high=1)
    decay_every_steps: int = setting(5000, "staircase: steps between stairs", low=1)
    warmup_steps: int = setting(0, "steps of linear warm-up", low=0)
    momentum: float = setting(0.9, "sgd: momentum, not Nesterov's", low=0, high=0.9999)
    weight_decay: float = setting(5e-4, "on convolution-like weights only", low=0)
    clip_norm: float = setting(0.0, "largest gradient norm; 0 is off", low=0)
    multipliers: tuple[str, ...] = setting((), "learning-rate factors by path, as 'backbone=0.1'")
    frozen: tuple[str, ...] = setting((), "paths whose parameters and statistics never move")


@dataclasses.dataclass
class TrainConfig(Settings):
    """How long, how much at once, from which seed."""

    group: ClassVar[str] = "train"

    steps: int = setting(12_000, "optimiser steps", low=1)
    batch_size: int = setting(128, "images per optimiser step, over all devices", low=1)
    accumulate: int = setting(8, "parts a batch is cut into, to fit in memory", low=1)
    seed: int = setting(0, "root of every random number of the run", low=0, high=2**31 - 1)
    label_smoothing: float = setting(
        0.0, "share of the target spread over all classes", low=0, high=0.5
    )
    class_weights: str = setting(
        "none", "weigh classes by inverse frequency", choices=("none", "balanced")
    )
    ema_decay: float = setting(0.0, "average parameters over steps; 0 is off", low=0, high=0.99999)
    early_stop_evals: int = setting(
        0, "stop after so many evaluations without gain; 0 is off", low=0
    )
    log_every_steps: int = setting(50, "steps between two lines of metrics", low=1)

    @property
    def micro_batch_size(self) -> int:
        """Images that pass through the network at once."""
        return self.batch_size // self.accumulate


@dataclasses.dataclass
class EvalConfig(Settings):
    """When and on how much the run is evaluated."""

    group: ClassVar[str] = "eval"

    every_steps: int = setting(
        1000, "steps between evaluations; 0 evaluates at the end only", low=0
    )
    max_examples: int = setting(0, "examples to use, spread evenly over the split; 0 is all", low=0)
    batch_size: int = setting(64, "images per evaluation step, over all devices", low=1)


@dataclasses.dataclass
class CheckpointConfig(Settings):
    """When the state is saved and how many saves are kept."""

    group: ClassVar[str] = "checkpoint"

    every_steps: int = setting(1000, "steps between saves", low=1)
    keep: int = setting(3, "latest saves kept, beside the best", low=1)


@dataclasses.dataclass
class MeshConfig(Settings):
    """How devices share the work."""

    group: ClassVar[str] = "mesh"

    fsdp: int = setting(
        1, "devices over which parameters are split; the rest split the data", low=1
    )


@dataclasses.dataclass
class RuntimeConfig(Settings):
    """What helps a run along."""

    group: ClassVar[str] = "runtime"

    compile_cache: str = setting("", "folder of compiled programs for later starts; empty: off")
    profile_start_step: int = setting(
        0, "first step recorded for a profiler, under profile/ in the workdir; 0 is off", low=0
    )
    profile_steps: int = setting(5, "steps that are recorded", low=1)


@dataclasses.dataclass
class Config(Settings):
    """A whole run. Mutable while flags are parsed; `resolved()` checks it and freezes it."""

    group: ClassVar[str] = "config"

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
        """Groups check their own fields; what two groups must agree on is checked here."""
        _check_model(self)
        _check_batches(self)

    def resolved(self) -> "Config":
        """A frozen twin of the whole tree, each group rebuilt through its own checks."""
        groups = {f.name: getattr(self, f.name).resolved() for f in dataclasses.fields(self)}
        twin = type(self)(**groups)
        object.__setattr__(twin, "_frozen", True)
        return twin


def _check_model(cfg: Config) -> None:
    model = cfg.model
    if model.widths and len(model.widths) != model.T:
        raise ConfigError(
            f"model.widths={model.widths} has {len(model.widths)} widths and model.T={model.T}; "
            "give one width for each layer, or none"
        )
    is_literal = model.pooling == "gap" and model.space == "weight"
    if is_literal and (model.T == 0 or model.gate_init == "one"):
        raise ConfigError(
            f"model.space=weight (model.T={model.T}, model.gate_init={model.gate_init}) needs "
            "model.T of 1 or more and model.gate_init=paper: it multiplies weights, without a gate"
        )
    if cfg.pose.kernel_size % 2 == 0:
        raise ConfigError(
            f"pose.kernel_size={cfg.pose.kernel_size} is even and its window has no centre; "
            f"use {cfg.pose.kernel_size - 1} or {cfg.pose.kernel_size + 1}"
        )
    if model.saliency_input == "pose" and not (cfg.pose.branch and cfg.pose.hidden):
        raise ConfigError(
            "model.saliency_input=pose reads the pose branch's hidden layer; set pose.branch=true "
            "and pose.hidden, or model.saliency_input=features"
        )


def _check_batches(cfg: Config) -> None:
    if cfg.train.early_stop_evals and not cfg.eval.every_steps:
        raise ConfigError(
            f"train.early_stop_evals={cfg.train.early_stop_evals} waits for evaluations and "
            "eval.every_steps=0 makes none before the end; set eval.every_steps"
        )
    train, group = cfg.train, cfg.model.norm_group_size
    if train.batch_size % train.accumulate:
        raise ConfigError(
            f"train.batch_size={train.batch_size} cannot be cut into "
            f"train.accumulate={train.accumulate} equal parts; use a multiple of it"
        )
    micro = train.micro_batch_size
    if micro % min(group, micro):
        raise ConfigError(
            f"model.norm_group_size={group} does not divide the {micro} images of "
            f"train.batch_size / train.accumulate; use {micro - micro % group} images "
            "or another group"
        )


def differences(before: "Config", after: "Config") -> dict[str, str]:
    """A line with the old value and the new one for each field that changed, by its name."""
    return {
        name: f"{name}: {old!r} -> {new!r}"
        for (name, _, old), (_, _, new) in zip(fields(before), fields(after), strict=True)
        if old != new
    }


def fields(cfg: Settings, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Every leaf as (group.field, field, value), in the order in which the config declares them."""
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if isinstance(value, Settings):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field, value
