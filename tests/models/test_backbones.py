"""VGG16 and the Inceptions: sizes at full scale, and small ones compared with numpy networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipelines.core.errors import ConfigError
from gap_jax.config import Config
from gap_jax.models.backbones import bn_inception, inception_v3
from gap_jax.models.backbones.inception import Block, Inception, Pool, Stages
from gap_jax.models.backbones.vgg import VGG16
from gap_jax.models.build import build
from gap_jax.models.folding import fold
from gap_jax.models.layers import BatchNorm, Norm
from gap_jax.models.network import Backbone, Network
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.weights.names.inception import bn_inception_names
from tests.support import oracles
from tests.support.small_networks import UNOPTIMISED, by_path, drawn

Shape = tuple[int, ...]


def settings(backbone: str, **fields: Any) -> Config:
    cfg = Config()
    cfg.model.backbone, cfg.model.pooling = backbone, "mean"
    cfg.pose.branch = False
    for name, value in fields.items():
        setattr(cfg.model, name, value)
    return cfg.resolved()


def built(backbone: str, **fields: Any) -> Network:
    """Builds the network of a config without values."""
    cfg = settings(backbone, **fields)
    return nnx.eval_shape(lambda: build(cfg, 7, 0))


def map_shape(backbone: Backbone, px: int) -> Shape:
    graph, state = nnx.split(backbone)
    image = jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32)
    shape = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x, train=False), state, image).shape
    assert shape[-1] == backbone.features
    return shape[1:]


def parameters(backbone: Backbone) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(backbone, nnx.Param)))


def run(backbone: Any, image: np.ndarray) -> np.ndarray:
    graph, state = nnx.split(backbone)

    def apply(state: nnx.State, image: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(image, train=False)

    return np.asarray(jax.jit(apply, compiler_options=UNOPTIMISED)(state, image))


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)


def assert_equal_maps(ours: np.ndarray, expected: np.ndarray) -> None:
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "stage", "shapes", "size"),
    [
        ("vgg16", 0, {450: (28, 28, 512)}, 14_714_688),
        ("vgg16", 7, {224: (1, 1, 4096)}, 134_260_544),
        ("inception_v3", 0, {299: (8, 8, 2048), 450: (12, 12, 2048)}, 21_768_352),
        ("inception_v3_torch", 0, {299: (8, 8, 2048), 450: (12, 12, 2048)}, 21_785_568),
        ("bn_inception", 0, {224: (7, 7, 1024), 450: (15, 15, 1024)}, 10_270_240),
    ],
)
def test_backbone_has_published_size(
    backbone: str, stage: int, shapes: dict[int, Shape], size: int
) -> None:
    network = built(backbone, stage=stage).backbone
    assert {px: map_shape(network, px) for px in shapes} == shapes
    assert parameters(network) == size


@pytest.mark.slow
def test_torch_inception_differs_only_in_gammas_and_mean_pools() -> None:
    ours, theirs = (str(stages) for stages in (inception_v3.STAGES, inception_v3.TORCH_STAGES))
    assert theirs == ours.replace("of='mean'", "of='mean of nine'") and ours.count("'mean'") == 9
    for name, stages in (
        ("inception_v3", inception_v3.STAGES),
        ("inception_v3_torch", inception_v3.TORCH_STAGES),
    ):
        backbone = built(name).backbone
        assert isinstance(backbone, Inception)
        assert [[block.steps for block in blocks] for blocks in backbone.stages] == [
            list(chains) for chains in stages
        ]
        scaled = any(path[-1] == "gamma" for path in nnx.to_flat_state(nnx.state(backbone)).paths)
        assert scaled == (name == "inception_v3_torch")
    pool = Block(2, (Pool("mean of nine"),), bias=False, norm=Norm(), rngs=nnx.Rngs(0))
    one = pool(jnp.ones((1, 3, 3, 2)), train=False)
    np.testing.assert_allclose(one[0, :, :, 0] * 9, [[4, 6, 4], [6, 9, 6], [4, 6, 4]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "px", "shapes"),
    [
        ("vgg16", 224, [(224, 64), (112, 128), (56, 256), (28, 512), (14, 512), (1, 4096)]),
        ("inception_v3", 299, [(147, 64), (71, 192), (35, 288), (17, 768)]),
        ("bn_inception", 224, [(112, 64), (56, 192), (14, 576), (7, 1056)]),
    ],
)
def test_stage_map_shapes(backbone: str, px: int, shapes: list[Shape]) -> None:
    for stage, (side, features) in enumerate(shapes, start=1):
        assert map_shape(built(backbone, stage=stage).backbone, px) == (side, side, features)


@pytest.mark.parametrize(
    ("backbone", "fields", "line"),
    [
        ("bn_inception", {"stage": 6}, "model.stage=6: bn_inception has 5 stages"),
        ("resnet50", {"stage": 7}, "model.stage=7: resnet50 has 4 stages"),
        ("resnet50", {"final_relu": False}, "model.final_relu=false has no effect with"),
        (
            "vgg16",
            {"strides": "v1_5"},
            "model.strides=v1_5 has no effect with model.backbone=vgg16",
        ),
        ("small", {"stem_padding": "same"}, "model.stem_padding=same has no effect with"),
    ],
)
def test_fields_without_effect_on_backbone_are_refused(
    backbone: str, fields: Any, line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        built(backbone, **fields)


@pytest.mark.slow
def test_vgg_matches_numpy() -> None:
    """The input has 224 px or more, so that the map is at least as large as fc6's 7x7 window."""
    network = drawn(lambda: VGG16(stage=7, width=2, rngs=nnx.Rngs(0)))
    image = random_image(1, 225, 256)
    expected = np.asarray(image, np.float64)
    for index, stage in enumerate(network.stages):
        if 1 <= index <= 5:
            b, h, w, c = (size - size % 2 if axis in (1, 2) else size
                          for axis, size in enumerate(expected.shape))  # fmt: skip
            expected = expected[:, :h, :w].reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        for conv in stage:
            kernel, bias = (np.asarray(v[...], np.float64) for v in (conv.kernel, conv.bias))
            expected = oracles.relu(oracles.convolve(expected, kernel, 1, padded=index < 5) + bias)
    assert expected.shape == (1, 1, 2, 128)
    assert_equal_maps(run(network, image), expected)


@pytest.mark.slow
def test_vgg_without_final_relu() -> None:
    with_relu, without = (
        drawn(lambda relu=relu: VGG16(final_relu=relu, width=4, rngs=nnx.Rngs(0)))
        for relu in (True, False)
    )
    image = random_image(1, 64, 64)
    plain = run(without, image)
    assert (plain < 0).any()
    np.testing.assert_array_equal(run(with_relu, image), np.maximum(plain, 0))
    configured = built("vgg16", final_relu=False).backbone
    assert isinstance(configured, VGG16) and not configured.final_relu


@pytest.mark.slow
def test_bn_inception_matches_numpy() -> None:
    network = drawn(
        lambda: Inception(bn_inception.STAGES, bias=True, norm=Norm(), rngs=nnx.Rngs(0))
    )
    image = random_image(1, 52, 65)
    arrays = {f"backbone/{path}": x for path, x in by_path(nnx.state(network)).items()}
    blobs = {
        name: np.asarray(arrays[path], np.float64)
        for path, (names, _) in bn_inception_names().items()
        for name in names
    }
    assert len(blobs) == len(arrays)
    expected = oracles.bn_inception(blobs, np.asarray(image, np.float64))
    assert_equal_maps(run(network, image), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "bias", "px"),
    [(bn_inception.STAGES[:2], True, 24), (inception_v3.STAGES[:2], False, 40)],
)
def test_folding_handles_biases_and_norms_without_gamma(
    stages: Stages, bias: bool, px: int
) -> None:
    norm = Norm(scaled=bias)

    def make() -> Network:
        rngs = nnx.Rngs(0)
        backbone = Inception(stages, bias=bias, norm=norm, rngs=rngs)
        return Network(backbone, AttentionalPooling(backbone.features, 3, rngs=rngs))

    network, image = drawn(make), random_image(1, px, px)
    folded = fold(network)
    assert not jax.tree.leaves(nnx.state(folded, nnx.BatchStat))
    assert_equal_maps(run(folded.backbone, image), run(network.backbone, image))


@pytest.mark.slow
def test_norm_without_gamma_equals_gamma_of_one() -> None:
    x = jnp.asarray(random_image(4, 5, 6))
    for train in (True, False):
        plain, scaled = (BatchNorm(3, Norm(2, scaled=scaled)) for scaled in (False, True))
        for norm in (plain, scaled):
            norm.mean[...], norm.beta[...] = jnp.arange(3.0), jnp.array([3.0, 1.0, 2.0])
        np.testing.assert_array_equal(plain(x, train=train), scaled(x, train=train))
        assert len(jax.tree.leaves(nnx.state(plain, nnx.Param))) == 1
