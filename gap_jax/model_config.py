"""Defines the fields of the network, its pose branch and its initial parameters.

Do not use `from __future__ import annotations` here: the command line reads real types.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from data_pipelines.core.errors import ConfigError
from data_pipelines.core.settings import Settings, setting

Activation = Literal["none", "relu", "softmax"]
DropoutWhere = Literal["map", "pooled"]
GateInit = Literal["paper", "one"]
Space = Literal["activation", "weight"]
Strides = Literal["slim", "caffe", "v1_5"]
PoolingName = Literal[
    "mean", "max", "attention", "gap", "second_order", "compact_bilinear", "pose_parts",
    "rcnn", "rstarcnn",
]  # fmt: skip
Regions = Literal["image", "people"]
RegionPool = Literal["max", "align"]
OverPeople = Literal["max", "mean"]
BACKBONES = (
    "resnet50", "resnet101", "resnet152", "vgg16", "bn_inception", "inception_v3",
    "inception_v3_torch", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "small",
)  # fmt: skip
WITHOUT_NORMS = ("vgg16",)
SALIENT = ("attention", "gap")
HARD = ("rcnn", "rstarcnn")
Colours = tuple[float, float, float]
INPUTS: dict[str, tuple[Colours, Colours]] = {  # mean and scale of RGB
    "reference": ((128.0, 128.0, 128.0), (1.0, 1.0, 1.0)),
    "vgg": ((123.68, 116.78, 103.94), (1.0, 1.0, 1.0)),
    "torchvision": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "inception": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "efficientnet_lite": ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
    "fast_rcnn": ((122.7717, 115.9465, 102.9801), (1.0, 1.0, 1.0)),
}


@dataclasses.dataclass
class ModelConfig(Settings, group="model"):
    """The backbone and the pooling on top of it."""

    backbone: str = setting(
        "resnet101", "network below the pooling; small is that of the demo", choices=BACKBONES
    )
    strides: Strides = setting("slim", "of a ResNet: slim (AP), caffe (Keras too) or v1_5 (torch)")
    stem_padding: Literal["auto", "same", "symmetric"] = setting(
        "auto", "a ResNet's max-pool: same (slim), symmetric (caffe, v1_5) or auto (by strides)"
    )
    final_relu: bool = setting(True, "vgg16: relu after the pooled convolution (AP's code: none)")
    input: str = setting(
        "reference", "(RGB 0..255 - mean) / scale; reference: 128 and 1", choices=tuple(INPUTS)
    )
    stage: int = setting(0, "stage whose map is pooled; 0 is the last convolution", low=0, high=7)
    norm: Literal["train", "frozen"] = setting("train", "batch norm by batch or running statistics")
    norm_group_size: int = setting(16, "images that share batch-norm statistics", low=1)
    norm_decay: float = setting(0.997, "share of running statistics a step keeps", low=0, high=1)
    norm_running: Literal["mean", "first"] = setting(
        "mean", "running statistics follow all groups' mean, or the last micro-batch's first group"
    )
    norm_eps: float = setting(1e-5, "added to the variance", above=0)
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "arithmetic of the backbone; auto: bfloat16 on GPU and TPU, float32 on CPU"
    )
    remat: bool = setting(False, "recompute activations in the backward pass to save memory")
    pooling: PoolingName = setting(
        "gap",
        "mean; max; attention: linear saliency; gap: factored saliency; second_order: all of "
        "X^T X; compact_bilinear: a sketch of it; pose_parts: joint heatmaps as attention; rcnn: "
        "people's boxes; rstarcnn: and the best of their secondary regions (data.regions)",
    )
    regions: Regions = setting(
        "image", "what is pooled: the image, or people, each in their box and in the whole image"
    )
    region_grow: float = setting(
        1.5, "people: factor of a box's sides, about its centre", above=0, high=100
    )
    region_pool: RegionPool = setting(
        "max", "rcnn: RoI max pooling with Caffe's rounding, or align: RoIAlign"
    )
    region_side: int = setting(7, "rcnn, people: cells along each side of a region", low=1, high=32)
    region_channels: int = setting(
        512, "rcnn: a map of more channels is reduced to these by a 1x1 convolution", low=1
    )
    region_widths: tuple[int, ...] = setting(
        (4096, 4096), "rcnn: widths of the dense layers; VGG16's fc6 and fc7 fill 4096, 4096", low=1
    )
    over_people: OverPeople = setting(
        "max", "scores of an image from those of its people: the largest, or the mean"
    )
    frames: int = setting(1, "frames of a clip, pooled separately; 1: images", low=1, high=64)
    temporal: Literal["mean", "attention"] = setting(
        "mean", "logits of a clip: mean over frames, or attention: frames weighted by their logits"
    )
    T: int = setting(3, "layers of the factored saliency; 0 is attentional pooling", low=0, high=8)
    widths: tuple[int, ...] = setting((), "widths r_1..r_T; empty: 4096, halved T - 1 times", low=1)
    space: Space = setting(
        "activation", "gap: relu layers on the map, or one vector from weights after relu"
    )
    saliency_input: Literal["features", "pose"] = setting(
        "features", "input of the bottom-up map: the features or the pose branch's hidden layer"
    )
    saliency_activation: Activation = setting("none", "activation of the bottom-up maps")
    rank: int = setting(1, "number of bottom-up / top-down pairs", low=1, high=64)
    rank_form: Literal["independent", "chained"] = setting(
        "independent", "bottom-up maps read the features, or (chained, AP's code) the previous map"
    )
    per_class: bool = setting(False, "one bottom-up map for each class")
    sketch_features: int = setting(0, "compact_bilinear's length; 0: the map's channels", low=0)
    sketch_normalisation: Literal["none", "signed_sqrt"] = setting(
        "none", "compact_bilinear: none, or signed square root and unit length"
    )
    gate_init: GateInit = setting("paper", "initial bottom-up map: small noise, or 1 (small data)")
    dropout: float = setting(0.8, "share of the top-down input that is dropped", low=0, high=0.99)
    dropout_where: DropoutWhere = setting("map", "drop map values or channels of the pooled vector")

    @property
    def input_mean(self) -> Colours:
        return INPUTS[self.input][0]

    @property
    def input_scale(self) -> Colours:
        return INPUTS[self.input][1]

    @property
    def reads_boxes(self) -> bool:
        """Returns whether the network reads the boxes of people."""
        return self.regions == "people" or self.pooling in HARD

    @property
    def factored_widths(self) -> tuple[int, ...]:
        """Returns the widths of the factored layers; by default 4096, halved T - 1 times."""
        return self.widths or tuple(4096 >> t for t in range(self.T))


@dataclasses.dataclass
class PoseConfig(Settings, group="pose"):
    """The pose branch, its target and its loss."""

    branch: bool = setting(True, "predict 16 joint heatmaps besides the classes")
    weight: float = setting(1e-6, "weight of the pose loss added to cross-entropy", low=0)
    reduction: Literal["reference", "mean", "sum_per_image"] = setting(
        "sum_per_image", "reduction of the squared errors"
    )
    target: Literal["disc", "gaussian"] = setting("disc", "shape drawn at a joint")
    sigma_cells: float = setting(0.7, "gaussian target: deviation in cells of the map", above=0)
    hidden: tuple[int, ...] = setting((768,), "widths of the layers before the heatmaps", low=1)
    kernel_size: int = setting(1, "side of the branch's hidden convolutions", low=1, high=7)


@dataclasses.dataclass
class InitConfig(Settings, group="init"):
    """The source of the initial parameters."""

    weights: str = setting(
        "weights/resnet101.safetensors",
        "file of converted weights, or a shipped or installed name of `gap_jax weights list`",
    )
    parts: Literal["backbone", "all"] = setting(
        "backbone", "parameters to read: the backbone, or all: the classifier and pose branch too"
    )
    allow_random: bool = setting(False, "use a random backbone if the weights are absent")


READ_BY: Mapping[str, tuple[str, ...]] = {  # the poolings that read a field
    "rank": ("mean", *SALIENT),
    **dict.fromkeys(("rank_form", "per_class", "saliency_activation", "saliency_input"), SALIENT),
    "dropout_where": ("mean", *SALIENT, "pose_parts"),
    **dict.fromkeys(("T", "widths", "space"), ("gap",)),
    **dict.fromkeys(("sketch_features", "sketch_normalisation"), ("compact_bilinear",)),
    **dict.fromkeys(("region_pool", "region_channels", "region_widths"), HARD),
}


def without_ignored(model: ModelConfig) -> ModelConfig:
    """Resets fields that the pooling ignores to their defaults; older runs may have set them."""
    ignored = [name for name, poolings in READ_BY.items() if model.pooling not in poolings]
    return dataclasses.replace(model, **{name: getattr(ModelConfig, name) for name in ignored})


def check_model(model: ModelConfig, pose: PoseConfig) -> None:
    """Refuses fields that contradict each other."""
    is_resnet = model.backbone.startswith("resnet")
    readers = {
        "strides": is_resnet,
        "stem_padding": is_resnet,
        "final_relu": model.backbone == "vgg16",
    }
    _refuse_ignored(model, readers, f"model.backbone={model.backbone}")
    readers = {name: model.pooling in poolings for name, poolings in READ_BY.items()}
    _refuse_ignored(model, readers, f"model.pooling={model.pooling}")
    _refuse_ignored(model, {"temporal": model.frames > 1}, f"model.frames={model.frames}")
    _check_regions(model)
    if model.pooling == "pose_parts" and not pose.branch:
        raise ConfigError(
            "model.pooling=pose_parts pools by the pose branch's heatmaps; set pose.branch=true"
        )
    if model.rank_form == "chained" and model.rank > 1 and model.per_class:
        raise ConfigError(
            "model.rank_form=chained cannot be combined with model.per_class=true; set "
            "model.rank_form=independent or model.per_class=false"
        )
    if model.widths and len(model.widths) != model.T:
        raise ConfigError(
            f"model.widths={model.widths} has {len(model.widths)} widths and model.T={model.T}; "
            "set model.widths=(), or one width for each layer"
        )
    if model.space == "weight" and (model.T == 0 or model.gate_init == "one"):
        raise ConfigError(
            f"model.space=weight (model.T={model.T}, model.gate_init={model.gate_init}) multiplies "
            f"the weights of one layer or more, without a gate; set model.T={max(model.T, 1)} and "
            "model.gate_init=paper, or model.space=activation"
        )
    if model.frames > 1 and pose.branch and pose.weight:
        raise ConfigError(
            f"pose.weight={pose.weight:g} needs joints, and clips (model.frames={model.frames}) "
            "have none; set pose.weight=0"
        )
    if pose.kernel_size % 2 == 0:
        raise ConfigError(
            f"pose.kernel_size={pose.kernel_size} is even and must be odd; set "
            f"pose.kernel_size={pose.kernel_size - 1} or pose.kernel_size={pose.kernel_size + 1}"
        )
    if model.saliency_input == "pose" and not (pose.branch and pose.hidden):
        raise ConfigError(
            "model.saliency_input=pose reads the pose branch's hidden layer; set "
            "model.saliency_input=features, or pose.branch=true and "
            f"pose.hidden={_spell(pose.hidden or PoseConfig.hidden)}"
        )


def find_region_readers(model: ModelConfig) -> dict[str, bool]:
    """Tells for the fields of people's boxes whether the network reads them."""
    return {
        "region_grow": model.regions == "people",
        "region_side": model.reads_boxes,
        "over_people": model.reads_boxes,
    }


def _check_regions(model: ModelConfig) -> None:
    readers = find_region_readers(model)
    owner = f"model.pooling={model.pooling} and model.regions={model.regions}"
    _refuse_ignored(model, readers, owner)
    if model.regions == "people" and model.pooling in HARD:
        raise ConfigError(
            f"model.pooling={model.pooling} reads people's boxes itself, and model.regions=people "
            "is for the other poolings; set model.regions=image"
        )


def _refuse_ignored(model: ModelConfig, readers: Mapping[str, bool], owner: str) -> None:
    """Refuses a field that differs from its default and has no effect."""
    for name, is_read in readers.items():
        value, default = getattr(model, name), getattr(ModelConfig, name)
        if value != default and not is_read:
            raise ConfigError(
                f"model.{name}={_spell(value)} has no effect with {owner}; "
                f"set model.{name}={_spell(default)}"
            )


def _spell(value: object) -> str:
    """Formats a value as in an override."""
    return str(value).lower().replace(" ", "")
