"""Whole networks: `build`, precision, folding, and the step's HLO."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from configs.gap_pose import get_config
from data_pipelines.core.errors import ConfigError
from gap_jax.batch import Outputs
from gap_jax.config import Config
from gap_jax.model_config import INPUTS, ModelConfig, PoseConfig
from gap_jax.models.backbones.small import SmallBackbone
from gap_jax.models.build import build
from gap_jax.models.folding import fold
from gap_jax.models.layers import Norm
from gap_jax.models.network import normalise
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import FactoredSaliency, LinearSaliency
from gap_jax.variants import METHODS
from tests.support.small_networks import UNOPTIMISED, drawn, pictures, small_network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "scale"), [("gap_pose", "full"), *((method, "demo") for method in METHODS)]
)
def test_every_published_variant_builds(method: str, scale: str) -> None:
    """Checks shapes and types at full size without computing values."""
    cfg = get_config(f"{method},{scale}")
    if scale == "full":
        cfg.model.backbone = "resnet50"  # the same map in half the time
    network = nnx.eval_shape(lambda: build(cfg, 393, 0))
    network.dtype = jnp.bfloat16
    graph, state = nnx.split(network)
    side, cells = cfg.data.image_size_px, {"full": 15, "demo": 12}[scale]
    pixels = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))

    def train(state: nnx.State, image: Array, keys: Array) -> Outputs:
        return nnx.merge(graph, state, copy=True)(image, train=True, keys=keys, want_maps=True)

    outputs = jax.eval_shape(train, state, pixels, keys)
    assert outputs.logits.shape == (2, 393)
    assert outputs.maps is not None
    assert outputs.maps.combined.shape == (2, cells, cells, 393)
    assert (outputs.pose is not None) == cfg.pose.branch
    if outputs.pose is not None:
        assert outputs.pose.shape == (2, cells, cells, 16)
    scores = outputs._replace(winner=None)
    assert {leaf.dtype for leaf in jax.tree.leaves(scores)} == {jnp.dtype("float32")}


def test_settings_reach_the_layers() -> None:
    model = ModelConfig(
        backbone="small", stage=2, norm="frozen", norm_group_size=4, norm_decay=0.5, norm_eps=0.1,
        dtype="bfloat16", pooling="gap", T=2, widths=(7, 5), saliency_input="pose", rank=3,
        per_class=True, dropout=0.25, dropout_where="pooled",
    )  # fmt: skip
    cfg = Config(model=model, pose=PoseConfig(hidden=(9, 6), kernel_size=3)).resolved()
    network = drawn(lambda: build(cfg, 4, 0))
    backbone, pose, pooling = network.backbone, network.pose, network.pooling
    assert isinstance(pooling, AttentionalPooling)
    saliency = pooling.saliency
    assert isinstance(backbone, SmallBackbone)
    assert pose is not None
    assert isinstance(saliency, FactoredSaliency)
    assert backbone.layers[1].norm.norm == Norm(4, decay=0.5, eps=0.1, frozen=True)
    assert len(backbone.layers) == 2
    assert [layer.kernel.shape for layer in pose.hidden] == [(3, 3, 48, 9), (3, 3, 9, 6)]
    assert [layer.kernel.shape for layer in saliency.chain] == [(6, 7), (7, 5)]
    assert saliency.last.kernel.shape == (5, 12)
    assert pooling.kernel.shape == (3, 48, 4)
    assert (pooling.dropout, pooling.dropout_where) == (0.25, "pooled")
    assert jnp.dtype(network.dtype) == jnp.bfloat16


def test_missing_stage_is_refused() -> None:
    cfg = Config(model=ModelConfig(backbone="resnet50", stage=5))
    with pytest.raises(ConfigError, match=r"model.stage=5: resnet50 has 4 stages; use 1 to 4"):
        nnx.eval_shape(lambda: build(cfg, 4, 0))


def test_pixels_are_normalised_per_channel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    mean, scale = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
    expected = (image - np.array(mean)) / np.array(scale)
    np.testing.assert_allclose(normalise(jnp.asarray(image), mean, scale), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "grey"), [("reference", 128), ("vgg", 110), ("torchvision", 110), ("inception", 127)]
)
def test_network_normalises_by_config(name: str, grey: int) -> None:
    """Checks the input of the backbone for a grey picture."""
    model = ModelConfig(backbone="small", input=name, T=1, widths=(4,))
    network = nnx.eval_shape(lambda: build(Config(model=model).resolved(), 4, 0))
    image = jnp.full((1, 2, 2, 3), grey, jnp.uint8)
    seen = normalise(image, network.mean, network.scale)
    mean, scale = INPUTS[name]
    np.testing.assert_allclose(seen[0, 0, 0], (grey - np.array(mean)) / np.array(scale), rtol=1e-5)
    assert np.abs(np.asarray(seen)).max() < (20 if scale[0] == 1 else 0.5)


def convolutions(text: str | None) -> int:
    assert text is not None
    return len(re.findall(r"[ .]convolution\(", text))


@pytest.mark.slow
def test_training_step_has_no_1x1_convolution() -> None:
    """Three for each 3x3 layer of the four blocks and of the branch; two for the stem."""
    network = small_network(residual=True)
    graph, parameters, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
    keys = jax.random.split(jax.random.key(0), 4)

    def loss(parameters: nnx.State, statistics: nnx.State, image: Array) -> tuple[Array, Any]:
        network = nnx.merge(graph, parameters, statistics, copy=True)
        logits, heatmaps, *_ = network(image, train=True, keys=keys)
        assert heatmaps is not None
        moved = nnx.state(network, nnx.BatchStat)
        return jnp.square(logits).sum() + jnp.square(heatmaps).sum(), moved

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=UNOPTIMISED)
    traced = step.trace(parameters, statistics, pictures())
    assert str(traced.jaxpr).count("name=unit") == 4  # the outputs that jax.checkpoint stores
    compiled = traced.lower().compile()
    assert convolutions(compiled.as_text()) == 3 * (4 + 1) + 2
    (_, moved), gradient = compiled(parameters, statistics, pictures())
    before, after = jax.tree.leaves(statistics), jax.tree.leaves(moved)
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_rows_are_independent_of_micro_batches() -> None:
    """With groups of two a batch of four equals two of two, masks and statistics included."""
    graph, state = nnx.split(small_network())
    keys = jax.random.split(jax.random.key(0), 4)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def train(state: nnx.State, image: Array, keys: Array) -> tuple[Outputs, nnx.State]:
        network = nnx.merge(graph, state, copy=True)
        return network(image, train=True, keys=keys), nnx.state(network, nnx.BatchStat)

    image = pictures()
    whole, moved = train(state, image, keys)
    (first, moved_1), (second, moved_2) = (
        train(state, image[part], keys[part]) for part in (slice(2), slice(2, 4))
    )
    np.testing.assert_allclose(
        whole.logits, jnp.concatenate([first.logits, second.logits]), rtol=1e-3, atol=1e-7
    )
    average = jax.tree.map(lambda a, b: (a + b) / 2, moved_1, moved_2)
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_training_with_dropout_needs_keys() -> None:
    with pytest.raises(ValueError, match="needs `keys`, one for each row"):
        small_network()(pictures(), train=True)


def test_saliency_reads_pose_branch() -> None:
    network = small_network("linear")
    assert network.pose is not None
    kernel = network.pose.hidden[0].kernel
    kernel[...] = jnp.zeros_like(kernel[...])
    maps = jax.jit(lambda x: network(x, want_maps=True).maps)(pictures())
    assert maps is not None
    assert float(jnp.ptp(maps.bottom_up)) < 1e-6
    assert float(jnp.ptp(maps.top_down)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saliency", "residual"), [("linear", True), ("activation", False), ("weight", False)]
)
def test_folding_changes_no_output(saliency: str, residual: bool) -> None:
    network = small_network(saliency, residual=residual)
    folded = fold(network)
    assert not jax.tree.leaves(nnx.state(folded, nnx.BatchStat))
    assert jax.tree.leaves(nnx.state(network, nnx.BatchStat))
    if saliency == "weight":
        assert isinstance(folded.pooling, AttentionalPooling)
        assert isinstance(folded.pooling.saliency, LinearSaliency)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def evaluate(image: Array) -> list[Outputs]:
        return [model(image, want_maps=True) for model in (network, folded)]

    ours, theirs = evaluate(pictures())
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(a).max()))
