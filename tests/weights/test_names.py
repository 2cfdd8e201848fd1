"""Arrays of a network and names of each source match one to one."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.core.errors import CheckpointError
from gap_jax.config import Config
from gap_jax.learning.state import describe_model
from gap_jax.model_config import BACKBONES, ModelConfig, PoseConfig
from gap_jax.models.backbones.resnet import BLOCKS
from gap_jax.weights import native
from gap_jax.weights.convert import convert
from gap_jax.weights.formats import ForeignFile
from gap_jax.weights.names import recognise as recognise_module
from gap_jax.weights.names import resnet, vgg
from gap_jax.weights.names.forms import NameMap, number_variables, to_ours
from gap_jax.weights.names.recognise import EXTRA, SKIPPED, every_known, recognise
from tests.support.foreign_names import rename

SCOPE = "resnet_v1_101"


def shapes(backbone: str, pooling: Any = "mean", *, pose: bool = False, classes: int = 1000,
           reads: Any = "features") -> dict[str, tuple[int, ...]]:  # fmt: skip
    """The network's arrays, by path."""
    model = ModelConfig(backbone=backbone, pooling=pooling, saliency_input=reads)
    cfg = Config(model=model, pose=PoseConfig(branch=pose))
    named = native.name_arrays(describe_model(cfg, classes)[1])
    return {path: leaf.shape for path, leaf in named.items()}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BLOCKS)
def test_names_and_arrays_match_one_to_one(backbone: str) -> None:
    paths = shapes(backbone).keys()
    counts = {"resnet50": 267, "resnet101": 522, "resnet152": 777}
    for make in (
        resnet.torch_names,
        resnet.hugging_face_names,
        resnet.keras_names,
        lambda blocks: number_variables(resnet.keras_names(blocks)),
        lambda blocks: resnet.slim_names(blocks, SCOPE),
    ):
        names = make(BLOCKS[backbone])
        assert names.keys() == paths and len(names) == counts[backbone]
        used = Counter(name for source in names.values() for name in source.names)
        assert set(used.values()) == {1}


def test_names_match_published_names() -> None:
    """Checks a few names of each library."""
    blocks = BLOCKS["resnet101"]
    for names, path, published in (
        (resnet.torch_names(blocks), "stages/2/22/conv3/norm/var", "layer3.22.bn3.running_var"),
        (resnet.torch_names(blocks), "stages/1/0/shortcut/conv/kernel",
         "layer2.0.downsample.0.weight"),
        (resnet.hugging_face_names(blocks), "stages/0/1/conv2/norm/gamma",
         "resnet.encoder.stages.0.layers.1.layer.1.normalization.weight"),
        (resnet.hugging_face_names(blocks), "stages/0/0/shortcut/norm/mean",
         "resnet.encoder.stages.0.layers.0.shortcut.normalization.running_mean"),
        (resnet.keras_names(blocks), "stages/2/22/conv1/conv/kernel",
         "conv4_block23_1_conv/kernel"),
        (resnet.keras_names(blocks), "stages/3/0/shortcut/norm/beta", "conv5_block1_0_bn/beta"),
        (number_variables(resnet.keras_names(blocks)), "stages/3/0/shortcut/norm/var",
         "conv5_block1_0_bn/3"),
        (number_variables(resnet.keras_names(blocks)), "conv1/norm/gamma", "conv1_bn/0"),
        (number_variables(resnet.keras_names(blocks)), "stages/3/0/shortcut/norm/mean",
         "conv5_block1_0_conv/1"),
        (resnet.slim_names(blocks, SCOPE), "stages/3/2/conv2/conv/kernel",
         f"{SCOPE}/block4/unit_3/bottleneck_v1/conv2/weights"),
    ):  # fmt: skip
        assert published in names[f"backbone/{path}"].names
    mean = resnet.keras_names(blocks)["backbone/conv1/norm/mean"]
    values = [np.array([3.0, 5.0]), np.array([1.0, 7.0])]
    assert mean.names == ("conv1_bn/moving_mean", "conv1_conv/bias")
    np.testing.assert_array_equal(to_ours(values, mean.form), [2, -2])


def theirs(shape: tuple[int, ...], form: str) -> tuple[int, ...]:
    """The source's shape of an array that has `shape` here."""
    match form:
        case "classifier_pointwise":
            return (1, *shape)
        case "pointwise":
            return (1, 1, *shape)
        case "row":
            return shape[1:]
        case _:
            return shape


def described(names: NameMap, ours: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {
        source.names[0]: theirs(ours[path], source.form)
        for path, source in names.items()
        if path in ours
    }


@pytest.mark.slow
def test_slim_names_and_shapes_match_published_digest() -> None:
    """Compares the digest of the sorted lines; the next test reads the list if it is available."""
    file = described(resnet.slim_names(BLOCKS["resnet101"], SCOPE), shapes("resnet101"))
    lines = sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in file.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == (
        "28a9dc0505c129629bdb97395e8e50ae1532567b88556d4e1990abf25b92e526"
    )


def test_slim_names_and_shapes_match_checkpoint(reference_data: Path) -> None:
    lines = (reference_data / "slim_resnet_v1_101_vars.tsv").read_text().split()
    published = {
        name: tuple(map(int, shape.split("x")))
        for name, shape in zip(lines[::2], lines[1::2], strict=True)
    }
    names = resnet.slim_names(BLOCKS["resnet101"], SCOPE)
    assert described(names, shapes("resnet101")) == published and len(published) == 522


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "reads", "tensors", "values"),
    [
        ("mean", "features", 526, 44_996_697),
        ("attention", "features", 530, 45_804_003),
        ("attention", "pose", 530, 45_802_723),
    ],
)
def test_released_checkpoints_match_completely(
    pooling: str, reads: str, tensors: int, values: int
) -> None:
    ours = shapes("resnet101", pooling, pose=True, classes=393, reads=reads)
    attention = pooling == "attention"
    names = resnet.released_names(BLOCKS["resnet101"], SCOPE, attention=attention)
    assert names.keys() == ours.keys()
    file = described(names, ours)
    if attention:  # slim's own classifier is always there
        file |= {f"{SCOPE}/logits/weights": (1, 1, 2048, 393), f"{SCOPE}/logits/biases": (393,)}
    assert len(file) == tensors
    assert sum(int(np.prod(shape)) for shape in file.values()) == values
    known = recognise("model.ckpt", [*file, "global_step", f"{SCOPE}/conv1/weights/Momentum"])
    assert known.source == "attentional pooling" and known.names == names


@pytest.mark.slow
def test_every_network_is_recognised_by_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Includes names that are a subset of another's, as a ResNet-50's of a ResNet-101's."""
    every_network = list(recognise_module.every_known())
    monkeypatch.setattr(recognise_module, "every_known", lambda: every_network)
    for known in every_network:
        every = {name for source in known.names.values() for name in source.names}
        for held in (every, known.backbone_names):
            found = recognise("file", held, dict([known.mark]))
            assert found.backbone == known.backbone
            assert found.names == known.names or held is not every
            assert found.convention.strides == known.convention.strides


@pytest.mark.slow
def test_unknown_and_incomplete_files_are_refused() -> None:
    names = {name for source in resnet.torch_names(BLOCKS["resnet50"]).values()
             for name in source.names}  # fmt: skip
    with pytest.raises(CheckpointError, match=r"looks like a resnet50 of torch and lacks 1 of its"):
        recognise("file", names - {"layer4.2.bn3.running_var"})
    with pytest.raises(CheckpointError, match="holds no network that gap_jax knows"):
        recognise("file", {"encoder.weight"})
    skipped = ("bn1.num_batches_tracked", "global_step", "resnet_v1_50/mean_rgb", "a/b/Momentum")
    assert all(map(SKIPPED.search, skipped)) and not SKIPPED.search("conv1.weight")


@pytest.mark.slow
def test_vgg19_is_refused_as_vgg16() -> None:
    """With torchvision's numbers it lacks layers; with Keras' names it has more."""
    layers = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    names = {f"features.{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    with pytest.raises(CheckpointError, match="looks like a vgg16 of torch and lacks 6 of its"):
        recognise("file", names)
    ours = {path: np.zeros(shape, np.float32) for path, shape in shapes("vgg16").items()}
    arrays = rename(ours, vgg.keras_names(dense=False))
    assert len(convert(ForeignFile(Path("w"), "", "", arrays), "").arrays) == len(arrays)
    for block in (3, 4, 5):
        for part in ("kernel", "bias"):
            arrays[f"block{block}_conv4/{part}"] = arrays[f"block{block}_conv3/{part}"]
    with pytest.raises(CheckpointError, match="holds all of a vgg16 of keras and 6 arrays more"):
        convert(ForeignFile(Path("w"), "", "", arrays), "")


def test_slim_resnet_v1_200_is_refused_as_resnet152() -> None:
    names = resnet.slim_names((3, 24, 36, 3), "resnet_v1_200")
    with pytest.raises(CheckpointError, match="holds no network that gap_jax knows"):
        recognise("file", {name for source in names.values() for name in source.names})
    names = resnet.torch_names((3, 24, 36, 3))  # timm's, in which all of a ResNet-152's are
    held = {name for source in names.values() for name in source.names}
    known = recognise("file", held)
    beyond = held - known.every_name
    assert known.backbone == "resnet152" and not any(map(EXTRA.search, beyond))


def test_forms_convert_to_ours() -> None:
    oihw = np.arange(2.0 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    assert to_ours([oihw], "oihw")[4, 6, 2, 1] == oihw[1, 2, 4, 6]
    assert to_ours([oihw], "bgr")[1, 2, 0, 6] == oihw[1, 2, 4, 6]
    assert to_ours([oihw[0, 0]], "classifier_oi")[0, 6, 4] == oihw[0, 0, 4, 6]
    assert to_ours([oihw[:1, :1]], "classifier_pointwise").shape == (1, 5, 7)
    assert to_ours([oihw[:1, :1]], "pointwise").shape == (5, 7)
    with pytest.raises(ValueError, match="has 1 axes and must have 4"):
        to_ours([np.zeros(3)], "oihw")


def test_known_networks_name_backbone_and_all_layers_of_vgg16() -> None:
    for known in every_known():
        assert known.backbone in BACKBONES, known.source
    dense = (vgg.torch_names(), vgg.keras_names(), vgg.slim_names())
    assert [len(names) for names in dense] == [len(vgg.slim_names(dense=False)) + 6] * 3
