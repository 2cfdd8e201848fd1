"""The names of Inception-v3 in TF-slim, Keras and torchvision, and of BN-Inception."""

from collections.abc import Iterator

from gap_jax.models.backbones import bn_inception, inception_v3
from gap_jax.models.backbones.inception import Conv, Fork, Pool, Stages, Steps
from gap_jax.weights.names.forms import (
    SLIM_NORM,
    TORCH_NORM,
    NameMap,
    Source,
    classifier_names,
    conv_norm_names,
)

NORM = {ours: name for ours, name in SLIM_NORM.items() if ours != "gamma"}
CAFFE_NORM = {"gamma": "scale", "beta": "shift", "mean": "mean", "var": "variance"}


def convolutions(stages: Stages) -> Iterator[str]:
    """The path of every convolution with its norm, branch by branch."""
    for stage, blocks in enumerate(stages):
        for block, steps in enumerate(blocks):
            yield from _convolutions_of(f"backbone/stages/{stage}/{block}", steps)


def _convolutions_of(path: str, steps: Steps) -> Iterator[str]:
    layers = (step for step in steps if not isinstance(step, Pool))
    for index, step in enumerate(layers):
        match step:
            case Conv():
                yield f"{path}/layers/{index}"
            case Fork(branches):
                for branch, branch_steps in enumerate(branches):
                    yield from _convolutions_of(f"{path}/layers/{index}/{branch}", branch_steps)


def bn_inception_names() -> NameMap:
    """The names in the numpy dictionary of temporal segment networks' weights."""
    layers = list(zip(convolutions(bn_inception.STAGES), _caffe_layers(), strict=True))
    names = conv_norm_names(layers, "{}/weights", "{}_bn/", CAFFE_NORM)
    return names | {f"{path}/conv/bias": Source((f"{stem}/biases",)) for path, stem in layers}


def _caffe_layers() -> Iterator[str]:
    yield from ("conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3")
    inner = ("3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2")
    for module in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        halves = module in ("3c", "4e")
        for name in inner if halves else ("1x1", *inner, "pool_proj"):
            yield f"inception_{module}_{name}"


def keras_names(first: int = 0) -> NameMap:
    """Keras' Inception-v3 as LAYER/VARIABLE; layers are numbered in the order of creation.

    Released files count from `first` = 1, a new network from 0, which is left out of the name.
    """
    layers = [
        (path, f"_{index}" if index else "")
        for index, path in enumerate(convolutions(inception_v3.STAGES), start=first)
    ]
    names = conv_norm_names(layers, "conv2d{}/kernel", "batch_normalization{}/", NORM)
    return names | classifier_names("predictions/kernel", "predictions/bias", "classifier_io")


def slim_names() -> NameMap:
    """TF-slim's names, as in inception_v3.ckpt; its class 0 is the background."""
    layers = zip(convolutions(inception_v3.STAGES), _slim_layers(), strict=True)
    names = conv_norm_names(layers, "InceptionV3/{}/weights", "InceptionV3/{}/BatchNorm/", NORM)
    logits = "InceptionV3/Logits/Conv2d_1c_1x1"
    return names | classifier_names(f"{logits}/weights", f"{logits}/biases", "classifier_pointwise")


def _slim_layers() -> Iterator[str]:
    yield from ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    double_5, seven = "0a_1x1 0b_3x3 0c_3x3", "0a_1x1 0b_1x7 0c_7x1"
    sixes = ("0a_1x1", seven, "0a_1x1 0b_7x1 0c_1x7 0d_7x1 0e_1x7", "0b_1x1")
    double_7 = "0a_1x1 0b_3x3 0c_1x3 0d_3x1"
    modules = {
        "5b": ("0a_1x1", "0a_1x1 0b_5x5", double_5, "0b_1x1"),
        "5c": ("0a_1x1", "0b_1x1 _1_0c_5x5", double_5, "0b_1x1"),
        "5d": ("0a_1x1", "0a_1x1 0b_5x5", double_5, "0b_1x1"),
        "6a": ("1a_1x1", "0a_1x1 0b_3x3 1a_1x1"),
        **dict.fromkeys(("6b", "6c", "6d", "6e"), sixes),
        "7a": ("0a_1x1 1a_3x3", f"{seven} 1a_3x3"),
        "7b": ("0a_1x1", "0a_1x1 0b_1x3 0b_3x1", double_7, "0b_1x1"),
        "7c": ("0a_1x1", "0a_1x1 0b_1x3 0c_3x1", double_7, "0b_1x1"),
    }
    for module, branches in modules.items():
        for index, branch in enumerate(branches):
            for name in branch.split():
                conv = f"Conv{name}" if name.startswith("_") else f"Conv2d_{name}"
                yield f"Mixed_{module}/Branch_{index}/{conv}"


def torch_names() -> NameMap:
    """The names of torchvision's inception_v3; timm's are the same but for the auxiliary head."""
    layers = zip(convolutions(inception_v3.TORCH_STAGES), _torch_layers(), strict=True)
    names = conv_norm_names(layers, "{}.conv.weight", "{}.bn.", TORCH_NORM, "oihw")
    return names | classifier_names("fc.weight", "fc.bias", "classifier_oi")


def _torch_layers() -> Iterator[str]:
    for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"):
        yield f"Conv2d_{name}"
    fives = "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 _pool"
    sixes = "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 _pool"
    sevens = "1x1 3x3_1 3x3_2a 3x3_2b 3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b _pool"
    modules = {
        **dict.fromkeys(("5b", "5c", "5d"), fives),
        "6a": "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3",
        **dict.fromkeys(("6b", "6c", "6d", "6e"), sixes),
        "7a": "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4",
        **dict.fromkeys(("7b", "7c"), sevens),
    }
    for module, branches in modules.items():
        for branch in branches.split():
            yield f"Mixed_{module}.branch{branch}"
