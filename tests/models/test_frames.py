"""Clips: each frame is pooled separately, and logits are joined as in AP's code for videos."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipelines.core.errors import ConfigError
from data_pipelines.example import HostBatch
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning import sharding
from gap_jax.learning.setup import assemble, describe_state
from gap_jax.learning.state import fold_network, split_network, start_state
from gap_jax.learning.steps import build_train_step, jit_eval_step
from gap_jax.models.build import build
from gap_jax.models.network import Network
from tests.support.small_networks import UNOPTIMISED, by_path, drawn
from tests.support.tiny_run import people

K, T, SIDE_PX = 4, 3, 32
POOLINGS = ("mean", "attention", "gap", "max", "second_order", "pose_parts")


def configure(pooling: str = "gap", **fields: Any) -> Config:
    values = {
        "model.frames": T, "model.stage": 2, "model.dropout": 0.0, "model.gate_init": "paper",
        "model.saliency_input": "features", "pose.weight": 0.0, "pose.hidden": (5,),
        "data.image_size_px": SIDE_PX, "data.short_side_px": SIDE_PX, "train.batch_size": 2,
        "eval.batch_size": 2,
        **{name.replace("__", "."): value for name, value in fields.items()},
    }  # fmt: skip
    words = [f"--config.{name}={value}" for name, value in values.items()]
    return read_config(f"configs/gap_pose.py:{pooling},demo", words)


def make(cfg: Config) -> Network:
    return drawn(lambda: build(cfg, K, 0))


def draw_clips(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, T, SIDE_PX, SIDE_PX, 3), np.uint8)


def batch_of(image: np.ndarray) -> HostBatch:
    rows = len(image)
    return HostBatch(
        image=image,
        keypoints=np.zeros((rows, 1, 16, 3), np.float32),
        disc_radius=np.ones(rows, np.float32),
        label=np.arange(rows, dtype=np.int32),
        weight=np.ones(rows, np.float32),
        id=np.arange(rows, dtype=np.int64),
    )


@pytest.mark.slow
@pytest.mark.parametrize("temporal", ["mean", "attention"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_clip_logits_join_frame_logits(pooling: str, temporal: str) -> None:
    network = make(configure(pooling, model__temporal=temporal))
    clips = jnp.asarray(draw_clips())
    single = nnx.clone(network)
    single.over_frames = None
    frames = np.stack(
        [np.asarray(single(clips[:, t]).logits, np.float64) for t in range(T)], axis=1
    )
    g = np.ones((2, T, 1))
    if temporal == "attention":
        weights = by_path(nnx.state(network.over_frames, nnx.Param))
        g = frames @ np.float64(weights["kernel"]) + np.float64(weights["bias"])
    expected = (frames * g).mean(1)
    outputs = network(clips, want_maps=True)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(network(clips).logits, expected, rtol=1e-5, atol=1e-5 * scale)
    assert outputs.maps is not None
    assert outputs.maps.combined.shape == (2, T, 8, 8, K)
    assert outputs.maps.bottom_up.shape[:4] == (2, T, 8, 8)
    combined = (outputs.maps.bottom_up[..., None, :] * outputs.maps.top_down).sum(-1)
    if pooling in ("mean", "attention", "gap", "pose_parts"):
        np.testing.assert_allclose(combined, outputs.maps.combined, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.slow
def test_frame_weight_gradient_matches_numeric() -> None:
    """d logit_k / d w = mean_t L_tk L_t and d logit_k / d c = mean_t L_tk."""
    network = make(configure(model__temporal="attention"))
    clips = jnp.asarray(draw_clips())
    single = nnx.clone(network)
    single.over_frames = None
    frames = np.stack([np.asarray(single(clips[:, t]).logits, np.float64) for t in range(T)], 1)
    graph, params, rest = nnx.split(network, nnx.Param, ...)

    def score(params: Any) -> jax.Array:
        return nnx.merge(graph, params, rest, copy=True)(clips).logits[1, 2]

    gradient = by_path(jax.grad(score)(params)["over_frames"])
    literal = {
        "kernel": (frames[1, :, 2, None] * frames[1]).mean(0)[:, None],
        "bias": frames[1, :, 2].mean(keepdims=True),
    }
    for name, expected in literal.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.slow
def test_frame_weights_have_expected_size_and_start() -> None:
    def first(**fields: Any) -> dict[str, jax.Array]:
        variables = split_network(build(configure(**fields), K, 0))[1]
        return by_path(variables.params)

    pictures, mean = first(model__frames=1), first()
    assert pictures.keys() == mean.keys()
    assert all((pictures[name] == mean[name]).all() for name in mean), "the same start"
    weighed = first(model__temporal="attention")
    assert {name: weighed[name].size for name in weighed.keys() - mean.keys()} == {
        "over_frames/kernel": K,
        "over_frames/bias": 1,
    }
    assert weighed["over_frames/bias"].tolist() == [np.float32(1 / T)]
    gated = first(model__temporal="attention", model__gate_init="one")
    assert gated["over_frames/gate"].tolist() == [[0]] * K, "the mean at first"


@pytest.mark.slow
def test_training_step_updates_frame_weights() -> None:
    cfg = configure("pose_parts", model__temporal="attention", optim__warmup_steps=0)
    mesh = sharding.make_mesh(cfg, jax.devices()[:1])
    model, variables = split_network(build(cfg, K, 0))
    optimizer, _ = describe_state(cfg, variables)
    step = jax.jit(build_train_step(cfg, model, optimizer, mesh), compiler_options=UNOPTIMISED)
    before = start_state(variables, optimizer, averaged=False)
    after, metrics = step(before, sharding.globalise([batch_of(draw_clips())], mesh))
    numbers = metrics.compute()
    assert numbers["finite"] == 1 and numbers["loss_pose"] == 0
    old, new = by_path(variables.params), by_path(after.variables.params)
    for name in ("over_frames/kernel", "over_frames/bias", "pooling/kernel"):
        assert (old[name] != new[name]).any(), name


def test_folding_and_views_keep_clip_logits() -> None:
    """The axis of views precedes that of frames; the mean over two views equals two evaluations."""
    model, variables = split_network(make(configure(model__temporal="attention")))
    folded, multiplied = fold_network(model, variables)
    one, other = draw_clips(1), draw_clips(2)
    expected = [model.apply(variables, jnp.asarray(clips))[0].logits for clips in (one, other)]
    np.testing.assert_allclose(
        folded.apply(multiplied, jnp.asarray(one))[0].logits, expected[0], rtol=1e-4, atol=1e-4
    )
    mesh = sharding.make_mesh(configure(), jax.devices()[:1])
    both = sharding.globalise([batch_of(np.stack([one, other], 1))], mesh)
    logits = jit_eval_step(folded, mesh, 2)(multiplied, both)
    np.testing.assert_allclose(logits, (expected[0] + expected[1]) / 2, rtol=1e-4, atol=1e-4)


def test_network_refuses_pictures_for_clips_and_clips_for_pictures() -> None:
    with pytest.raises(ValueError, match=r"this network takes \(b, frames, h, w, 3\)"):
        make(configure())(jnp.asarray(draw_clips()[:, 0]))
    with pytest.raises(ValueError, match=r"this network takes \(b, h, w, 3\)"):
        make(configure(model__frames=1))(jnp.asarray(draw_clips()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "pose_parts", "pose__weight": 0.1}, "pose.weight=0.1 needs joints"),
        ({"model__frames": 1, "model__temporal": "attention"}, "has no effect with model.frames=1"),
        ({"model__norm_group_size": 4}, "does not divide the 6 images"),
    ],
)
def test_contradictory_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(**fields)


def test_picture_data_is_refused_for_clips() -> None:
    message = r"model.frames=3 takes clips, and people holds pictures; set model.frames=1, or"
    with pytest.raises(ConfigError, match=message):
        assemble(dataclasses.replace(configure()).resolved(), people())
