"""From settings to a network: the one place that knows every backbone and every pooling."""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from data_pipelines.errors import ConfigError
from data_pipelines.example import JOINTS
from gap_jax.config import Config
from gap_jax.model_config import Activation, DropoutWhere, GateInit, ModelConfig, Space, Strides
from gap_jax.models.backbones import bn_inception, inception_v3, resnet, small, vgg
from gap_jax.models.backbones.inception import Inception
from gap_jax.models.layers import HE, SMALL, Norm, PoolPadding
from gap_jax.models.network import Backbone, Network, Reads
from gap_jax.models.pooling import AttentionalPooling, Pooling
from gap_jax.models.pose import PoseBranch
from gap_jax.models.saliency import (
    ChainedSaliency,
    FactoredSaliency,
    LinearSaliency,
    PartSaliency,
    Saliency,
    UniformSaliency,
)
from gap_jax.models.second_order import CompactBilinearPooling, MaxPooling, SecondOrderPooling

MOST_SECOND_ORDER = 2**29  # weights: 2 GiB of float32, and as much again for each of their moments


def build(cfg: Config, classes: int, rngs: nnx.Rngs) -> Network:
    """The network that a config describes, with its first, random parameters."""
    backbone = _backbone(cfg.model, rngs)
    pose = None
    if cfg.pose.branch:
        pose = PoseBranch(
            backbone.features,
            cfg.pose.hidden,
            joints=len(JOINTS),
            kernel_size=cfg.pose.kernel_size,
            rngs=rngs,
        )
    reads_pose = cfg.model.saliency_input == "pose"
    read = pose.features if pose and reads_pose else backbone.features
    reads: Reads = "hidden" if reads_pose else "features"
    return Network(
        backbone,
        _pooling(cfg.model, backbone.features, read, classes, rngs),
        pose,
        saliency_reads="heatmaps" if cfg.model.pooling == "pose_parts" else reads,
        over_frames=_over_frames(cfg.model, classes, rngs),
        mean=cfg.model.input_mean,
        scale=cfg.model.input_scale,
        dtype=trunk_dtype(cfg.model),
    )


def _over_frames(model: ModelConfig, classes: int, rngs: nnx.Rngs) -> Saliency | None:
    """What a frame counts by; None where there is one. AP's code begins with 1 / frames."""
    if model.frames == 1:
        return None
    if model.temporal == "mean":
        return UniformSaliency()
    saliency = LinearSaliency(classes, gate_init=cast(GateInit, model.gate_init), rngs=rngs)
    if saliency.bias is not None:
        saliency.bias[...] = jnp.full(1, 1 / model.frames)
    return saliency


def trunk_dtype(model: ModelConfig) -> DTypeLike:
    """What `model.dtype` means on this machine; on CPU bfloat16 would only cost precision."""
    if model.dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(model.dtype)


def _backbone(model: ModelConfig, rngs: nnx.Rngs) -> Backbone:
    norm = Norm(
        model.norm_group_size,
        model.norm_decay,
        model.norm_eps,
        frozen=model.norm == "frozen",
        follows_first=model.norm_running == "first",
    )
    match model.backbone:
        case "small":
            _check_stage(model, len(small.LAYERS))
            return small.SmallTrunk(stage=model.stage, norm=norm, rngs=rngs)
        case "vgg16":
            _check_stage(model, vgg.STAGES)
            return vgg.VGG16(stage=model.stage, final_relu=model.final_relu, rngs=rngs)
        case "bn_inception":
            _check_stage(model, len(bn_inception.STAGES))
            return Inception(
                bn_inception.STAGES, stage=model.stage, bias=True, norm=norm, rngs=rngs
            )
        case "inception_v3":
            _check_stage(model, len(inception_v3.STAGES))
            norm = dataclasses.replace(norm, scaled=False)
            return Inception(
                inception_v3.STAGES, stage=model.stage, bias=False, norm=norm, rngs=rngs
            )
        case "inception_v3_torch":
            _check_stage(model, len(inception_v3.TORCH_STAGES))
            return Inception(
                inception_v3.TORCH_STAGES, stage=model.stage, bias=False, norm=norm, rngs=rngs
            )
        case name:
            blocks = resnet.BLOCKS[name]
            _check_stage(model, len(blocks))
            padding = None if model.stem_padding == "auto" else model.stem_padding
            return resnet.ResNet(
                blocks,
                strides=cast(Strides, model.strides),
                stem_padding=cast(PoolPadding | None, padding),
                stage=model.stage,
                norm=norm,
                rngs=rngs,
            )


def _check_stage(model: ModelConfig, stages: int) -> None:
    if model.stage > stages:
        raise ConfigError(
            f"model.stage={model.stage}: {model.backbone} has {stages} stages; "
            f"use 1 to {stages}, or 0 for the last"
        )


def _pooling(model: ModelConfig, features: int, read: int, classes: int, rngs: nnx.Rngs) -> Pooling:
    """The pooling of maps with `features` channels by what `read` channels are salient."""
    match model.pooling:
        case "max":
            return MaxPooling(features, classes, dropout=model.dropout, rngs=rngs)
        case "second_order":
            _check_second_order(features, classes)
            return SecondOrderPooling(features, classes, dropout=model.dropout, rngs=rngs)
        case "compact_bilinear":
            return CompactBilinearPooling(
                features,
                classes,
                sketch_features=model.sketch_features,
                normalised=model.sketch_normalisation == "signed_sqrt",
                dropout=model.dropout,
                rngs=rngs,
            )
        case _:
            return _attentional_pooling(model, features, read, classes, rngs)


def _attentional_pooling(
    model: ModelConfig, features: int, read: int, classes: int, rngs: nnx.Rngs
) -> AttentionalPooling:
    by_parts = model.pooling == "pose_parts"
    saliency = PartSaliency(len(JOINTS)) if by_parts else _saliency(model, read, classes, rngs)
    return AttentionalPooling(
        features,
        classes,
        saliency=saliency,
        rank=saliency.maps if by_parts else model.rank,
        per_class=model.per_class,
        activation=cast(Activation, model.saliency_activation),
        dropout=model.dropout,
        dropout_where=cast(DropoutWhere, model.dropout_where),
        one_bias=by_parts,
        init=HE if model.pooling in ("mean", "pose_parts") else SMALL,
        rngs=rngs,
    )


def _saliency(model: ModelConfig, read: int, classes: int, rngs: nnx.Rngs) -> Saliency:
    chained = model.rank_form == "chained" and model.rank > 1
    maps = 1 if chained else model.rank * (classes if model.per_class else 1)
    gate_init = cast(GateInit, model.gate_init)
    saliency: Saliency
    match model.pooling:
        case "mean":
            saliency = UniformSaliency(maps)
        case "attention":
            saliency = LinearSaliency(read, maps, gate_init=gate_init, rngs=rngs)
        case _:
            saliency = FactoredSaliency(
                read,
                model.factored_widths,
                maps,
                space=cast(Space, model.space),
                gate_init=gate_init,
                rngs=rngs,
            )
    return ChainedSaliency(saliency, model.rank, rngs=rngs) if chained else saliency


def _check_second_order(features: int, classes: int) -> None:
    values = features * features * classes
    if values > MOST_SECOND_ORDER:
        raise ConfigError(
            f"model.pooling=second_order over {features} channels and {classes} classes has "
            f"{values:,} weights, more than {MOST_SECOND_ORDER:,}; use compact_bilinear, a "
            "narrower model.stage or fewer classes"
        )
