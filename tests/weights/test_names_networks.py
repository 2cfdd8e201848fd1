"""VGG16 and the Inceptions: arrays and names of each source match one to one."""

from collections import Counter

import numpy as np
import pytest

from gap_jax.config import Config
from gap_jax.learning.state import describe_model
from gap_jax.model_config import ModelConfig, PoseConfig
from gap_jax.models.backbones.efficientnet_lite import STAGES
from gap_jax.weights import native
from gap_jax.weights.names import efficientnet_lite as lite
from gap_jax.weights.names import inception, vgg
from gap_jax.weights.names.forms import NameMap, number_variables, to_ours


def paths(backbone: str, stage: int = 0) -> set[str]:
    model = ModelConfig(backbone=backbone, pooling="mean", stage=stage)
    cfg = Config(model=model, pose=PoseConfig(branch=False))
    return set(native.name_arrays(describe_model(cfg, 1000)[1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "stage", "maps", "count"),
    [
        ("vgg16", 7, (vgg.torch_names(), vgg.keras_names(), vgg.slim_names()), 32),
        ("inception_v3", 0, (inception.keras_names(), inception.keras_names(1),
                             inception.slim_names()), 94 * 4 + 2),
        ("inception_v3_torch", 0, (inception.torch_names(),), 94 * 5 + 2),
        ("bn_inception", 0, (inception.bn_inception_names(),), 69 * 6),
        ("efficientnet_lite0", 0, (lite.torch_names(STAGES["efficientnet_lite0"]),), 49 * 5 + 2),
    ],
)  # fmt: skip
def test_names_and_arrays_match_one_to_one(
    backbone: str, stage: int, maps: tuple[NameMap, ...], count: int
) -> None:
    ours = paths(backbone, stage)
    for names in maps:
        with_head = "pooling/kernel" in names
        assert names.keys() == (ours if with_head else {p for p in ours if p[:7] != "pooling"})
        assert len(names) == count
        used = Counter(name for source in names.values() for name in source.names)
        assert set(used.values()) == {1}


def test_vgg_without_dense_layers() -> None:
    for make in (vgg.torch_names, vgg.keras_names, vgg.slim_names):
        backbone = {path for path in paths("vgg16") if path.startswith("backbone/")}
        assert make(dense=False).keys() == backbone
        assert make(dense=False).items() <= make().items()


def test_names_match_published_names() -> None:
    """Checks a few names of each library."""
    for names, path, published in (
        (vgg.torch_names(), "stages/0/1/kernel", "features.2.weight"),
        (vgg.torch_names(), "stages/4/2/bias", "features.28.bias"),
        (vgg.torch_names(), "stages/6/0/kernel", "classifier.3.weight"),
        (vgg.keras_names(), "stages/3/2/kernel", "block4_conv3/kernel"),
        (vgg.slim_names(), "stages/4/2/kernel", "vgg_16/conv5/conv5_3/weights"),
        (inception.keras_names(), "stages/0/0/layers/0/conv/kernel", "conv2d/kernel"),
        (inception.keras_names(), "stages/4/2/layers/0/3/layers/0/conv/kernel",
         "conv2d_93/kernel"),
        (number_variables(inception.keras_names()), "stages/0/0/layers/0/norm/var",
         "batch_normalization/2"),
        (number_variables(vgg.keras_names()), "stages/6/0/bias", "fc2/1"),
        (inception.slim_names(), "stages/2/1/layers/0/1/layers/1/conv/kernel",
         "InceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5/weights"),
        (inception.slim_names(), "stages/4/1/layers/0/1/layers/1/1/layers/0/norm/beta",
         "InceptionV3/Mixed_7b/Branch_1/Conv2d_0b_3x1/BatchNorm/beta"),
        (inception.slim_names(), "stages/3/4/layers/0/2/layers/4/norm/var",
         "InceptionV3/Mixed_6e/Branch_2/Conv2d_0e_1x7/BatchNorm/moving_variance"),
        (inception.torch_names(), "stages/4/1/layers/0/2/layers/2/1/layers/0/norm/gamma",
         "Mixed_7b.branch3x3dbl_3b.bn.weight"),
        (inception.torch_names(), "stages/3/0/layers/0/0/layers/0/conv/kernel",
         "Mixed_6a.branch3x3.conv.weight"),
        (inception.torch_names(), "stages/1/1/layers/0/norm/var",
         "Conv2d_4a_3x3.bn.running_var"),
        (inception.bn_inception_names(), "stages/0/0/layers/0/norm/gamma", "conv1_7x7_s2_bn/scale"),
        (inception.bn_inception_names(), "stages/4/1/layers/0/3/layers/0/conv/bias",
         "inception_5b_pool_proj/biases"),
    ):  # fmt: skip
        assert names[f"backbone/{path}"].names == (published,)


def test_dense_layers_become_7x7_convolutions() -> None:
    rng = np.random.default_rng(0)
    kernel, map_ = rng.normal(size=(7, 7, 2, 3)), rng.normal(size=(7, 7, 2))
    expected = np.tensordot(map_, kernel, 3)
    keras = kernel.reshape(-1, 3)
    torch = kernel.transpose(3, 2, 0, 1).reshape(3, -1)
    np.testing.assert_allclose(map_.ravel() @ keras, expected)
    np.testing.assert_allclose(torch @ map_.transpose(2, 0, 1).ravel(), expected)
    np.testing.assert_array_equal(to_ours([keras], "map_io"), kernel)
    np.testing.assert_array_equal(to_ours([torch], "map_oi"), kernel)
    np.testing.assert_array_equal(to_ours([keras], "cell_io")[0, 0], keras)
    np.testing.assert_array_equal(to_ours([torch], "cell_oi")[0, 0], torch.T)
