"""Compares optimisers with numpy over several steps, and checks the paths of their options."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Float

from data_pipelines.core.errors import ConfigError
from gap_jax.config import OptimConfig
from gap_jax.learning import optim
from gap_jax.learning.state import count_parameters

Tree = dict[str, Any]
Flat = dict[str, Float[np.ndarray, "..."]]
STEPS = 8


def _tree(seed: int) -> Tree:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Float[np.ndarray, "..."]:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "backbone": {
            "stem": {"kernel": draw(3, 4), "gamma": draw(4), "beta": draw(4)},
            "stages": [{"kernel": draw(4, 4)}, {"kernel": draw(4, 2)}],
        },
        "pooling": {"kernel": draw(1, 4, 5), "bias": draw(1, 5), "saliency": {"gate": draw(4, 1)}},
    }


def _flat(tree: Tree) -> Flat:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {optim.name_path(path): np.asarray(leaf) for path, leaf in leaves}


def _run(cfg: OptimConfig, gradients: list[Tree], steps: list[int]) -> tuple[Flat, Any]:
    params = jax.tree.map(jnp.asarray, _tree(0))
    tx = optim.build_optimizer(cfg, STEPS, params)
    state = tx.init(params)

    @jax.jit
    def advance(params: Tree, state: Any, gradient: Tree, step: jax.Array) -> tuple[Tree, Any]:
        updates, state = tx.update(gradient, state, params, step=step)
        return jax.tree.map(jnp.add, params, updates), state

    for step, gradient in zip(steps, gradients, strict=True):
        params, state = advance(params, state, gradient, jnp.int32(step))
    return _flat(params), state


GRADIENTS = [_tree(seed) for seed in range(10, 10 + STEPS)]
DECAYED = {
    "backbone/stem/kernel",
    "backbone/stages/0/kernel",
    "backbone/stages/1/kernel",
    "pooling/kernel",
}


def _literal(cfg: OptimConfig, factors: Mapping[str, float], rates: list[float]) -> Flat:
    """The textbook loops in float64, one parameter at a time."""
    results = {}
    for name, start in _flat(_tree(0)).items():
        p = start.astype(np.float64)
        v, m, s = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
        decay = cfg.weight_decay if name in DECAYED else 0.0
        for t, (rate, gradient) in enumerate(zip(rates, GRADIENTS, strict=True), start=1):
            g = _flat(gradient)[name].astype(np.float64)
            norm = np.sqrt(
                sum((each.astype(np.float64) ** 2).sum() for each in _flat(gradient).values())
            )
            if cfg.clip_norm:
                g = g * min(1, cfg.clip_norm / norm)
            rate = rate * factors.get(name, 1.0)
            if cfg.name == "sgd":
                v = cfg.momentum * v + (g + decay * p)
                p = p - rate * v
            else:
                m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
                direction = (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
                p = p - rate * (direction + decay * p)
        results[name] = p
    return results


def _assert_close(ours: Flat, literal: Flat) -> None:
    assert ours.keys() == literal.keys()
    for name, value in literal.items():
        np.testing.assert_allclose(ours[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("clip_norm", [0.0, 2.0])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimiser_matches_numpy_loop(name: Any, clip_norm: float) -> None:
    cfg = OptimConfig(
        name=name,
        learning_rate=0.1,
        decay_every_steps=3,
        weight_decay=0.05,
        clip_norm=clip_norm,
        multipliers=("backbone=0.1", "backbone/stages/1=0.5", "pooling/saliency/gate=2"),
    )
    factors = {
        "backbone/stem/kernel": 0.1,
        "backbone/stem/gamma": 0.1,
        "backbone/stem/beta": 0.1,
        "backbone/stages/0/kernel": 0.1,
        "backbone/stages/1/kernel": 0.5,
        "pooling/saliency/gate": 2.0,
    }
    rates = [0.1 * 0.33 ** (step // 3) for step in range(STEPS)]
    ours, _ = _run(cfg, GRADIENTS, list(range(STEPS)))
    _assert_close(ours, _literal(cfg, factors, rates))


def test_biases_have_a_rate_of_their_own() -> None:
    """Fast R-CNN's recipe: twice the rate, without decay, besides the factors of paths."""
    cfg = OptimConfig(
        learning_rate=0.1, weight_decay=0.05, bias_multiplier=2.0, multipliers=("pooling=0.5",)
    )
    factors = {name: 0.5 for name in _flat(_tree(0)) if name.startswith("pooling")}
    factors["pooling/bias"] = 1.0
    ours, _ = _run(cfg, GRADIENTS, list(range(STEPS)))
    _assert_close(ours, _literal(cfg, factors, [0.1] * STEPS))


def test_schedule_advances_over_skipped_update() -> None:
    """Step 2 was skipped: no update, but the rates advance."""
    cfg = OptimConfig(learning_rate=0.1, decay_every_steps=2)
    ours, _ = _run(cfg, GRADIENTS, [0, 1, 3, 4, 5, 6, 7, 8])
    rates = [0.1 * 0.33 ** (step // 2) for step in (0, 1, 3, 4, 5, 6, 7, 8)]
    _assert_close(ours, _literal(cfg, {}, rates))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_leaves_stay_equal_and_outside_norm(name: Any) -> None:
    cfg = OptimConfig(
        name=name, weight_decay=0.5, clip_norm=1.0, frozen=("backbone/stages", "pooling/saliency")
    )
    loud = [jax.tree.map(np.copy, gradient) for gradient in GRADIENTS]
    for gradient in loud:
        gradient["backbone"]["stages"][1]["kernel"][:] = np.nan
        gradient["pooling"]["saliency"]["gate"][:] = 1e9
    ours, state = _run(cfg, loud, list(range(STEPS)))
    before = _flat(_tree(0))
    frozen = {name for name in before if name.startswith(("backbone/stages", "pooling/saliency"))}
    assert len(frozen) == 3
    for path, value in before.items():
        assert np.isfinite(ours[path]).all()
        assert (ours[path].tobytes() == value.tobytes()) == (path in frozen), path
    sizes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert (4, 2) not in sizes  # frozen parameters have no momentum
    norm = optim.gradient_norm(loud[0], cfg.frozen)
    moving = [leaf for path, leaf in _flat(loud[0]).items() if path not in frozen]
    np.testing.assert_allclose(norm, np.sqrt(sum((leaf**2).sum() for leaf in moving)), rtol=1e-5)


def test_statistics_freeze_by_same_paths() -> None:
    statistics = {"backbone": {"mean": np.zeros(2)}, "backbone2": {"mean": np.zeros(2)}}
    mask = optim.mask_frozen(statistics, ("backbone",))
    assert mask == {"backbone": {"mean": True}, "backbone2": {"mean": False}}


@pytest.mark.slow
def test_paths_ignore_nnx_variables() -> None:
    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.backbone = nnx.Linear(3, 4, rngs=rngs)
            self.head = nnx.List([nnx.Linear(4, 4, rngs=rngs)])

    params = nnx.state(Network(nnx.Rngs(0)), nnx.Param)
    boxed = [optim.name_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert boxed == ["backbone/bias", "backbone/kernel", "head/0/bias", "head/0/kernel"]
    assert jax.tree.leaves(optim.mask_decayed(params)) == [False, True, False, True]
    cfg = OptimConfig(frozen=("backbone",), multipliers=("head=0.5",))
    tx = optim.build_optimizer(cfg, STEPS, params)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params), params, step=0)
    moved = [bool(leaf.any()) for leaf in jax.tree.leaves(updates)]
    assert moved == [False, False, True, True]


def _rates(cfg: OptimConfig, steps: int, at: list[int]) -> list[float]:
    return [optim.learning_rate(cfg, steps, jnp.int32(step)).item() for step in at]


def test_paper_staircase() -> None:
    stairs = _rates(OptimConfig(), 12_000, [0, 4999, 5000, 9999, 10_000, 11_999])
    expected = [1e-3, 1e-3, 3.3e-4, 3.3e-4, 1.089e-4, 1.089e-4]
    np.testing.assert_allclose(stairs, expected, rtol=1e-6)


def test_warm_up_then_cosine() -> None:
    cfg = OptimConfig(schedule="cosine", learning_rate=2.0, warmup_steps=4)
    rates = _rates(cfg, 12, [0, 1, 3, 4, 8, 11, 12, 40])
    expected = [0.5, 1, 2, 2, 1, 1 + np.cos(np.pi * 7 / 8), 0, 0]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-6)
    short = _rates(cfg, 2, [0, 1])  # a trial run may end inside the warm-up
    np.testing.assert_allclose(short, [0.5, 1], rtol=1e-6)


def test_constant_rate_with_warm_up() -> None:
    cfg = OptimConfig(schedule="constant", learning_rate=0.3, warmup_steps=2)
    np.testing.assert_allclose(_rates(cfg, 9, [0, 1, 8]), [0.15, 0.3, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": ("bakbone",)}, r"optim\.frozen.*'bakbone'; did you mean 'backbone'"),
        ({"multipliers": ("backbone/stem/kernl=1",)}, "did you mean 'backbone/stem/kernel'"),
        ({"multipliers": ("backbone.stem=1",)}, "did you mean 'backbone/stem'"),
        ({"frozen": ("",)}, "no parameters at ''"),
        ({"multipliers": ("backbone",)}, "'backbone' is not PATH=FACTOR"),
        ({"multipliers": ("backbone=slow",)}, "'backbone=slow' is not PATH=FACTOR"),
        ({"multipliers": ("backbone=-1",)}, "factor of 0 or more"),
        ({"multipliers": ("backbone=nan",)}, "factor of 0 or more"),
        ({"multipliers": ("pooling=1", "pooling=2")}, "names 'pooling' twice"),
        ({"frozen": ("backbone", "pooling")}, "freezes every parameter"),
    ],
)
def test_unknown_path_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        optim.build_optimizer(OptimConfig(**settings), STEPS, _tree(0))
    assert "\n" not in str(refusal.value)


def test_refusal_without_near_name_lists_top_paths() -> None:
    many = {f"part{i}": {"kernel": np.zeros(1), "bias": np.zeros(1)} for i in range(9)}
    with pytest.raises(ConfigError, match="'xyz'; known are part0, part1"):
        optim.check_paths("optim.frozen", ["xyz"], many)


def test_parameters_are_counted_by_part() -> None:
    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.backbone = nnx.Linear(3, 4, rngs=rngs)
            self.head = nnx.List([nnx.Linear(4, 4, rngs=rngs)])

    shapes = jax.eval_shape(lambda: nnx.state(Network(nnx.Rngs(0)), nnx.Param))
    assert count_parameters(shapes) == {"backbone": 16, "head": 20}
