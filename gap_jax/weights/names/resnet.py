"""The names of ResNets in torchvision, timm, Hugging Face, Keras and TF-slim."""

from collections.abc import Callable, Iterator

from gap_jax.weights.names.forms import (
    SLIM_NORM,
    TORCH_NORM,
    NameMap,
    Source,
    classifier_names,
    conv_norm_names,
)

Blocks = tuple[int, ...]


def _layers(
    blocks: Blocks, stem: str, name: Callable[[int, int, int], str]
) -> Iterator[tuple[str, str]]:
    """Yields our path and another library's name of every convolution.

    `name` takes the block, the unit and the convolution of the unit, where 0 is the shortcut.
    """
    yield "backbone/conv1", stem
    for block, units in enumerate(blocks):
        for unit in range(units):
            path = f"backbone/stages/{block}/{unit}"
            if unit == 0:
                yield f"{path}/shortcut", name(block, unit, 0)
            for conv in (1, 2, 3):
                yield f"{path}/conv{conv}", name(block, unit, conv)


def torch_names(blocks: Blocks) -> NameMap:
    """The names of torchvision and timm."""

    def name(block: int, unit: int, conv: int) -> str:
        return f"layer{block + 1}.{unit}." + (f"conv{conv}" if conv else "downsample.0")

    layers = [
        (path, conv, conv.replace("conv", "bn").replace("downsample.0", "downsample.1"))
        for path, conv in _layers(blocks, "conv1", name)
    ]
    names = conv_norm_names(layers, "{0}.weight", "{1}.", TORCH_NORM, "oihw")
    return names | classifier_names("fc.weight", "fc.bias", "classifier_oi")


def hugging_face_names(blocks: Blocks) -> NameMap:
    """The names of transformers' ResNetForImageClassification."""

    def name(block: int, unit: int, conv: int) -> str:
        layer = f"layer.{conv - 1}" if conv else "shortcut"
        return f"resnet.encoder.stages.{block}.layers.{unit}.{layer}"

    layers = _layers(blocks, "resnet.embedder.embedder", name)
    names = conv_norm_names(
        layers, "{}.convolution.weight", "{}.normalization.", TORCH_NORM, "oihw"
    )
    return names | classifier_names("classifier.1.weight", "classifier.1.bias", "classifier_oi")


def keras_names(blocks: Blocks, classifier: str = "predictions") -> NameMap:
    """Keras' names as LAYER/VARIABLE.

    Its convolutions have biases, which are subtracted from the running mean, and read BGR.
    """

    def name(block: int, unit: int, conv: int) -> str:
        return f"conv{block + 2}_block{unit + 1}_{conv}"

    layers = list(_layers(blocks, "conv1", name))
    names = conv_norm_names(layers, "{}_conv/kernel", "{}_bn/", SLIM_NORM)
    names["backbone/conv1/conv/kernel"] = Source(("conv1_conv/kernel",), "bgr")
    for path, stem in layers:
        mean = (f"{stem}_bn/moving_mean", f"{stem}_conv/bias")
        names[f"{path}/norm/mean"] = Source(mean, "difference")
    return names | classifier_names(f"{classifier}/kernel", f"{classifier}/bias", "classifier_io")


def slim_names(blocks: Blocks, scope: str) -> NameMap:
    """TF-slim's names, as in resnet_v1_101.ckpt, with the classifier."""

    def name(block: int, unit: int, conv: int) -> str:
        layer = f"conv{conv}" if conv else "shortcut"
        return f"{scope}/block{block + 1}/unit_{unit + 1}/bottleneck_v1/{layer}"

    layers = _layers(blocks, f"{scope}/conv1", name)
    names = conv_norm_names(layers, "{}/weights", "{}/BatchNorm/", SLIM_NORM)
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
    """The names of Attentional Pooling's checkpoints: slim's and those of the pose branch.

    With `attention` two maps replace slim's classifier.
    """
    return slim_names(blocks, scope) | POSE_BRANCH | (ATTENTION_HEAD if attention else {})
