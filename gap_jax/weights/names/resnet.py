"""The names of ResNets in torchvision, timm, Hugging Face, Keras and TF-slim."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from gap_jax.weights.names.forms import (
    SLIM_NORM,
    TORCH_NORM,
    NameMap,
    Source,
    classifier_names,
    conv_norm_names,
)

Blocks = tuple[int, ...]


class Layer(NamedTuple):
    """A convolution with its norm: our path and its indices (the stem is block -1)."""

    path: str
    block: int = -1
    unit: int = -1
    conv: int = -1  # 0 the shortcut, 1 to 3 the convolutions


def layers(blocks: Blocks) -> Iterator[Layer]:
    """Every convolution of a ResNet with its norm."""
    yield Layer("backbone/conv1")
    for block, units in enumerate(blocks):
        for unit in range(units):
            path = f"backbone/stages/{block}/{unit}"
            if unit == 0:
                yield Layer(f"{path}/shortcut", block, unit, 0)
            for conv in (1, 2, 3):
                yield Layer(f"{path}/conv{conv}", block, unit, conv)


def torch_names(blocks: Blocks) -> NameMap:
    """The names of torchvision and timm."""

    def stems(layer: Layer) -> tuple[str, str]:
        if layer.block < 0:
            return "conv1", "bn1"
        unit = f"layer{layer.block + 1}.{layer.unit}"
        if layer.conv == 0:
            return f"{unit}.downsample.0", f"{unit}.downsample.1"
        return f"{unit}.conv{layer.conv}", f"{unit}.bn{layer.conv}"

    return _name_layers(blocks, stems, "fc")


def hugging_face_names(blocks: Blocks) -> NameMap:
    """The names of transformers' ResNetForImageClassification."""

    def stems(layer: Layer) -> tuple[str, str]:
        if layer.block < 0:
            stem = "resnet.embedder.embedder"
        else:
            stem = f"resnet.encoder.stages.{layer.block}.layers.{layer.unit}"
            stem += ".shortcut" if layer.conv == 0 else f".layer.{layer.conv - 1}"
        return f"{stem}.convolution", f"{stem}.normalization"

    return _name_layers(blocks, stems, "classifier.1")


def _name_layers(
    blocks: Blocks, stems: Callable[[Layer], tuple[str, str]], classifier: str
) -> NameMap:
    names: NameMap = {}
    for layer in layers(blocks):
        conv, norm = stems(layer)
        names |= conv_norm_names(layer.path, f"{conv}.weight", f"{norm}.", TORCH_NORM, "oihw")
    return names | classifier_names(f"{classifier}.weight", f"{classifier}.bias", "classifier_oi")


def keras_names(blocks: Blocks, classifier: str = "predictions") -> NameMap:
    """Keras' names as LAYER/VARIABLE.

    Its convolutions have biases, which are subtracted from the running mean, and read BGR.
    """
    names: NameMap = {}
    for layer in layers(blocks):
        stem, form = "conv1", "bgr"
        if layer.block >= 0:
            stem = f"conv{layer.block + 2}_block{layer.unit + 1}_{layer.conv}"
            form = "same"
        kernel = f"{stem}_conv/kernel"
        names |= conv_norm_names(layer.path, kernel, f"{stem}_bn/", SLIM_NORM, form)
        mean = (f"{stem}_bn/moving_mean", f"{stem}_conv/bias")
        names[f"{layer.path}/norm/mean"] = Source(mean, "difference")
    return names | classifier_names(f"{classifier}/kernel", f"{classifier}/bias", "classifier_io")


def slim_names(blocks: Blocks, scope: str) -> NameMap:
    """TF-slim's names, as in resnet_v1_101.ckpt, with the classifier."""
    names: NameMap = {}
    for layer in layers(blocks):
        stem = f"{scope}/conv1"
        if layer.block >= 0:
            conv = "shortcut" if layer.conv == 0 else f"conv{layer.conv}"
            stem = f"{scope}/block{layer.block + 1}/unit_{layer.unit + 1}/bottleneck_v1/{conv}"
        names |= conv_norm_names(layer.path, f"{stem}/weights", f"{stem}/BatchNorm/", SLIM_NORM)
    logits = f"{scope}/logits"
    return names | classifier_names(f"{logits}/weights", f"{logits}/biases", "classifier_pointwise")


POSE_BRANCH: NameMap = {
    "pose/hidden/0/kernel": Source(("PoseLogits/ExtraConv2d_1x1/weights",)),
    "pose/hidden/0/bias": Source(("PoseLogits/ExtraConv2d_1x1/biases",)),
    "pose/joints/kernel": Source(("PoseLogits/Conv2d_1c_1x1/weights",), "pointwise"),
    "pose/joints/bias": Source(("PoseLogits/Conv2d_1c_1x1/biases",)),
}
ATTENTION = "PosePrelogitsBasedAttention"
ATTENTION_HEAD: NameMap = {
    **classifier_names(
        f"{ATTENTION}/Conv/weights", f"{ATTENTION}/Conv/biases", "classifier_pointwise"
    ),
    "pooling/saliency/kernel": Source((f"{ATTENTION}/Conv2d_PrePose_Attn/weights",), "pointwise"),
    "pooling/saliency/bias": Source((f"{ATTENTION}/Conv2d_PrePose_Attn/biases",)),
}


def released_names(blocks: Blocks, scope: str, *, attention: bool) -> NameMap:
    """The names of the released Attentional Pooling checkpoints.

    They are slim's and the pose branch's. With `attention` two maps replace slim's classifier.
    """
    head = ATTENTION_HEAD if attention else {}
    return slim_names(blocks, scope) | POSE_BRANCH | head
