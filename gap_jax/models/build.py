"""Builds a network from a config: the only module that knows every backbone and every pooling."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from data_pipelines.core.errors import ConfigError
from data_pipelines.example import JOINTS
from gap_jax import hardware
from gap_jax.config import Config
from gap_jax.model_config import ModelConfig
from gap_jax.models.backbones import (
    bn_inception,
    efficientnet_lite,
    inception_v3,
    resnet,
    small,
    vgg,
)
from gap_jax.models.backbones.efficientnet_lite import EfficientNetLite
from gap_jax.models.backbones.inception import Inception
from gap_jax.models.layers import HE, SMALL, Norm
from gap_jax.models.network import Backbone, Network, SaliencySource
from gap_jax.models.pooling import AttentionalPooling, Pooling
from gap_jax.models.pose import PoseBranch
from gap_jax.models.regions.people import PeopleRule
from gap_jax.models.regions.rcnn import RegionPooling
from gap_jax.models.saliency import (
    ChainedSaliency,
    FactoredSaliency,
    LinearSaliency,
    PartSaliency,
    Saliency,
    UniformSaliency,
)
from gap_jax.models.second_order import CompactBilinearPooling, MaxPooling, SecondOrderPooling

STAGES: dict[str, Any] = {  # of the backbones besides ResNets
    "vgg16": vgg.STAGES,
    "bn_inception": bn_inception.STAGES,
    "inception_v3": inception_v3.STAGES,
    "inception_v3_torch": inception_v3.TORCH_STAGES,
    "small": small.LAYERS,
    **efficientnet_lite.STAGES,
}
MOST_WEIGHTS = 2**29  # of second order: 2 GiB of float32, and as much again for each moment


def build(cfg: Config, classes: int, seed: int) -> Network:
    """Builds the network of a config with random initial parameters."""
    rngs = nnx.Rngs(seed)
    backbone = _build_backbone(cfg.model, rngs)
    read, side = backbone.features, cfg.pose.kernel_size
    source: SaliencySource = "hidden" if cfg.model.saliency_input == "pose" else "features"
    pose = None
    if cfg.pose.branch:
        pose = PoseBranch(read, cfg.pose.hidden, joints=len(JOINTS), kernel_size=side, rngs=rngs)
        read = pose.features if source == "hidden" else read
    if cfg.model.pooling == "pose_parts":
        source = "heatmaps"
    saliency = _build_saliency(cfg.model, read, classes, rngs)
    return Network(
        backbone,
        _build_pooling(cfg.model, backbone.features, classes, saliency, rngs),
        pose,
        saliency_source=source,
        over_frames=_weight_frames(cfg.model, classes, rngs),
        people_rule=_rule_people(cfg.model),
        mean=cfg.model.input_mean,
        scale=cfg.model.input_scale,
        dtype=backbone_dtype(cfg.model),
    )


def _rule_people(model: ModelConfig) -> PeopleRule | None:
    """Returns the rule of a network that reads boxes, None for others."""
    if not model.reads_boxes:
        return None
    return PeopleRule(model.over_people, model.region_grow, model.region_side)


def _weight_frames(model: ModelConfig, classes: int, rngs: nnx.Rngs) -> Saliency | None:
    """Builds the weights of frames, None for pictures; in AP the bias starts at 1 / frames."""
    if model.frames == 1:
        return None
    if model.temporal == "mean":
        return UniformSaliency()
    saliency = LinearSaliency(classes, gate_init=model.gate_init, rngs=rngs)
    if saliency.bias is not None:
        saliency.bias[...] = jnp.full(1, 1 / model.frames)
    return saliency


def backbone_dtype(model: ModelConfig) -> DTypeLike:
    """Resolves `model.dtype`; on CPU bfloat16 costs precision and saves no time."""
    if model.dtype == "auto":
        return jnp.float32 if hardware.is_cpu() else jnp.bfloat16
    return jnp.dtype(model.dtype)


def _build_backbone(model: ModelConfig, rngs: nnx.Rngs) -> Backbone:
    stages: Any = (STAGES | resnet.BLOCKS)[model.backbone]
    if model.stage > len(stages):
        raise ConfigError(
            f"model.stage={model.stage}: {model.backbone} has {len(stages)} stages; "
            f"use 1 to {len(stages)}, or 0 for the last"
        )
    norm = Norm(
        model.norm_group_size,
        model.norm_decay,
        model.norm_eps,
        frozen=model.norm == "frozen",
        scaled=model.backbone != "inception_v3",
        follows_first=model.norm_running == "first",
    )
    match model.backbone:
        case "small":
            return small.SmallBackbone(stage=model.stage, norm=norm, rngs=rngs)
        case "vgg16":
            return vgg.VGG16(stage=model.stage, final_relu=model.final_relu, rngs=rngs)
        case "bn_inception" | "inception_v3" | "inception_v3_torch" as name:
            bias = name == "bn_inception"
            return Inception(stages, stage=model.stage, bias=bias, norm=norm, rngs=rngs)
        case "efficientnet_lite0" | "efficientnet_lite1" | "efficientnet_lite2":
            return EfficientNetLite(stages, stage=model.stage, norm=norm, rngs=rngs)
        case _:
            padding = None if model.stem_padding == "auto" else model.stem_padding
            return resnet.ResNet(
                stages,
                strides=model.strides,
                stem_padding=padding,
                stage=model.stage,
                norm=norm,
                rngs=rngs,
            )


def _build_pooling(
    model: ModelConfig, features: int, classes: int, saliency: Saliency | None, rngs: nnx.Rngs
) -> Pooling | RegionPooling:
    """A pooling of maps with `features` channels."""
    match model.pooling:
        case "rcnn" | "rstarcnn":
            return RegionPooling(
                features,
                classes,
                widths=model.region_widths,
                side=model.region_side,
                pool=model.region_pool,
                channels=model.region_channels,
                secondary=model.pooling == "rstarcnn",
                dropout=model.dropout,
                rngs=rngs,
            )
        case "max":
            return MaxPooling(features, classes, dropout=model.dropout, rngs=rngs)
        case "second_order":
            weights = features * features * classes
            if weights > MOST_WEIGHTS:
                raise ConfigError(
                    f"model.pooling=second_order over {features} channels and {classes} classes "
                    f"has {weights:,} weights, more than {MOST_WEIGHTS:,}; use compact_bilinear, "
                    "a narrower model.stage or fewer classes"
                )
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
    if saliency is None:
        raise AssertionError(f"the pooling {model.pooling} has no saliency here")
    by_parts = model.pooling == "pose_parts"
    return AttentionalPooling(
        features,
        classes,
        saliency=saliency,
        rank=len(JOINTS) + 1 if by_parts else model.rank,
        per_class=model.per_class,
        activation=model.saliency_activation,
        dropout=model.dropout,
        dropout_where=model.dropout_where,
        one_bias=by_parts,
        init=HE if model.pooling in ("mean", "pose_parts") else SMALL,
        rngs=rngs,
    )


def _build_saliency(model: ModelConfig, read: int, classes: int, rngs: nnx.Rngs) -> Saliency | None:
    """A saliency that reads `read` channels; None for a pooling that has no bottom-up map."""
    chained = model.rank_form == "chained" and model.rank > 1
    maps = 1 if chained else model.rank * (classes if model.per_class else 1)
    gate, widths = model.gate_init, model.factored_widths
    saliency: Saliency
    match model.pooling:
        case "pose_parts":
            return PartSaliency(len(JOINTS))
        case "mean":
            saliency = UniformSaliency(maps)
        case "attention":
            saliency = LinearSaliency(read, maps, gate_init=gate, rngs=rngs)
        case "gap":
            saliency = FactoredSaliency(
                read, widths, maps, space=model.space, gate_init=gate, rngs=rngs
            )
        case _:
            return None
    return ChainedSaliency(saliency, model.rank, rngs=rngs) if chained else saliency
