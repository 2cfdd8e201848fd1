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
from gap_jax.model_config import ModelConfig
from gap_jax.models.backbones import bn_inception, inception_v3, resnet, small, vgg
from gap_jax.models.backbones.inception import Inception
from gap_jax.models.layers import HE, SMALL, Norm, PoolPadding
from gap_jax.models.network import Backbone, Network
from gap_jax.models.pooling import (
    AttentionalPooling,
    DropoutWhere,
    FactoredSaliency,
    GateInit,
    LinearSaliency,
    Saliency,
    Space,
    UniformSaliency,
)
from gap_jax.models.pose import PoseBranch


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
    return Network(
        backbone,
        _pooling(cfg.model, backbone.features, read, classes, rngs),
        pose,
        saliency_reads_pose=reads_pose,
        mean=cfg.model.input_mean,
        scale=cfg.model.input_scale,
        dtype=trunk_dtype(cfg.model),
    )


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
        case name:
            blocks = resnet.BLOCKS[name]
            _check_stage(model, len(blocks))
            padding = None if model.stem_padding == "auto" else model.stem_padding
            return resnet.ResNet(
                blocks,
                strides=cast(resnet.Strides, model.strides),
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


def _pooling(
    model: ModelConfig, features: int, read: int, classes: int, rngs: nnx.Rngs
) -> AttentionalPooling:
    """The pooling of maps with `features` channels by what `read` channels are salient."""
    maps = model.rank * (classes if model.per_class else 1)
    gate_init, init = cast(GateInit, model.gate_init), SMALL
    saliency: Saliency
    match model.pooling:
        case "mean":
            saliency, init = UniformSaliency(maps), HE
        case "attention":
            saliency = LinearSaliency(read, maps, gate_init=gate_init, rngs=rngs)
        case _:
            saliency = FactoredSaliency(
                read,
                model.chain_widths,
                maps,
                space=cast(Space, model.space),
                gate_init=gate_init,
                rngs=rngs,
            )
    return AttentionalPooling(
        features,
        classes,
        saliency=saliency,
        rank=model.rank,
        per_class=model.per_class,
        dropout=model.dropout,
        dropout_where=cast(DropoutWhere, model.dropout_where),
        init=init,
        rngs=rngs,
    )
