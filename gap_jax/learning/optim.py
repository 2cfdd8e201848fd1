"""The optimiser of a run: decay, momentum or Adam, schedule, clipping, factors by path, freezing.

A path joins the names down to a parameter by slashes, as in backbone/stage1/0/conv1/kernel; a
shorter path selects all parameters below it.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from data_pipelines.core.errors import ConfigError, nearest
from gap_jax.config import OptimConfig

Step = Int[Array, ""] | int


def learning_rate(cfg: OptimConfig, steps: int, step: Step) -> Float[Array, ""]:
    """The rate of update number `step`, counted from 0, in a run of `steps`.

    With warm-up over W steps the rate is multiplied by (step + 1) / W until that is 1. Stairs are
    counted from step 0; the cosine starts after the warm-up and reaches 0 at `steps`.
    """
    at = jnp.asarray(step, jnp.int32)
    match cfg.schedule:
        case "staircase":
            stairs = at // cfg.decay_every_steps  # optax's float32 division may miss a stair's step
            decay = optax.schedules.exponential_decay(cfg.learning_rate, 1, cfg.decay_factor)
            rate = decay(stairs)
        case "cosine":
            share = jnp.clip((at - cfg.warmup_steps) / max(steps - cfg.warmup_steps, 1), 0, 1)
            rate = optax.schedules.cosine_decay_schedule(cfg.learning_rate, 1)(share)
        case _:
            rate = jnp.float32(cfg.learning_rate)
    if cfg.warmup_steps:  # not optax's linear_schedule, which computes x as 1 - (1 - x)
        rate = rate * jnp.minimum((at + 1) / cfg.warmup_steps, 1)
    return jnp.asarray(rate)


def build_optimizer(
    cfg: OptimConfig, steps: int, params: PyTree
) -> optax.GradientTransformationExtraArgs:
    """Builds the optimiser for parameters (or their shapes); `update` takes the keyword `step`.

    The rate is a function of `step`, so the schedule also advances if an update is skipped. In
    order: clipping of the global gradient norm; then `sgd`: decay added to the gradient,
    v = momentum v + g, update -rate v; or `adamw`: Adam's direction plus decay, update -rate times
    it. Frozen parameters have no state, do not count in the norm, and their update is 0.
    """
    factors = parse_multipliers(cfg.multipliers)
    check_paths("optim.multipliers", factors, params)
    check_paths("optim.frozen", cfg.frozen, params)
    decay = optax.add_decayed_weights(cfg.weight_decay, mask=mask_decayed)
    sgd, adamw = (decay, optax.trace(cfg.momentum)), (optax.scale_by_adam(), decay)
    rule = sgd if cfg.name == "sgd" else adamw
    clip = (optax.clip_by_global_norm(cfg.clip_norm),) if cfg.clip_norm else ()
    moving = optax.chain(*clip, *rule, _scale_by_rate(cfg, steps, factors))
    frozen = mask_frozen(params, cfg.frozen)
    if not any(jax.tree.leaves(frozen)):
        return moving
    if all(jax.tree.leaves(frozen)):
        raise ConfigError(f"optim.frozen={cfg.frozen} freezes every parameter; leave some to train")
    return optax.partition({False: moving, True: optax.set_to_zero()}, frozen)


def mask_decayed(params: PyTree) -> PyTree[bool]:
    """True at leaves named `kernel`; bias, batch norm's factors and a saliency's gate are not."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: name_path(path).split("/")[-1] == "kernel", params
    )


def mask_frozen(tree: PyTree, frozen: Iterable[str]) -> PyTree[bool]:
    """True at the leaves on or below a frozen path; for parameters and statistics alike."""
    tops = tuple(f"{path}/" for path in frozen)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: f"{name_path(path)}/".startswith(tops), tree
    )


def stop_frozen(params: PyTree, frozen: Iterable[str]) -> PyTree:
    """Stops the gradient of parameters on or below a frozen path, so that none is computed."""
    return jax.tree.map(
        lambda is_frozen, leaf: jax.lax.stop_gradient(leaf) if is_frozen else leaf,
        mask_frozen(params, frozen),
        params,
    )


def gradient_norm(grads: PyTree, frozen: Iterable[str]) -> Float[Array, ""]:
    """The global norm of the gradients of parameters that are not frozen, as for clipping."""
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(mask_frozen(grads, frozen)), strict=True)
    return optax.tree.norm([leaf for leaf, is_frozen in pairs if not is_frozen])


def parse_multipliers(multipliers: Iterable[str]) -> dict[str, float]:
    """Parses ('backbone=0.1',) to {'backbone': 0.1}."""
    factors: dict[str, float] = {}
    for text in multipliers:
        path, equals, number = text.partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not (path and equals and math.isfinite(factor) and factor >= 0):
            raise ConfigError(
                f"optim.multipliers: {text!r} is not PATH=FACTOR with a factor of 0 or more; "
                "write it as 'backbone=0.1'"
            )
        if path in factors:
            raise ConfigError(f"optim.multipliers names {path!r} twice; keep one of them")
        factors[path] = factor
    return factors


def check_paths(field: str, paths: Iterable[str], params: PyTree) -> None:
    """Refuses a path without parameters; the error suggests the nearest path."""
    known = dict.fromkeys(
        each
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
        for each in itertools.accumulate(name_path(path).split("/"), "{}/{}".format)
    )
    for path in paths:
        if path not in known:
            tops = [each for each in known if "/" not in each]
            hint = nearest(path, list(known)) or nearest(path, tops)
            raise ConfigError(f"{field}: the model has no parameters at {path!r}{hint}")


def name_path(path: tuple[Any, ...]) -> str:
    """A leaf's path as text, without nnx's `value` attribute."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _scale_by_rate(
    cfg: OptimConfig, steps: int, factors: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """Multiplies by -rate(step), the factor of the longest path above a parameter, and a bias's."""

    def factor(name: str) -> float:
        above = [path for path in factors if f"{name}/".startswith(f"{path}/")]
        own = cfg.bias_multiplier if name.split("/")[-1] == "bias" else 1.0
        return own * (factors[max(above, key=len)] if above else 1.0)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        del params
        rate = learning_rate(cfg, steps, extra_args["step"])

        def scale(path: tuple[Any, ...], leaf: Array) -> Array:
            return -rate * factor(name_path(path)) * leaf

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
