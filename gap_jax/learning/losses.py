"""Losses as one value per example, and the one weighted mean that turns them into a number."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gap_jax.learning.targets import PoseTargets

REFERENCE_GROUP = 16  # images per GPU in the released code, whose pose loss divides by them twice
REDUCTIONS = ("reference", "mean", "sum_per_image")


class WeightedSum(NamedTuple):
    """Sum of weight * value, and of weights; parts add up to the whole, then `mean` once."""

    total: Float[Array, ""]
    weight: Float[Array, ""]

    def add(self, other: "WeightedSum") -> "WeightedSum":
        """The sums over both sets of examples."""
        return WeightedSum(self.total + other.total, self.weight + other.weight)

    def mean(self) -> Float[Array, ""]:
        """The weighted mean; 0 where nothing has weight."""
        return self.total / jnp.where(self.weight > 0, self.weight, 1)


def sum_weighted(values: Float[Array, " b"], weights: Float[Array, " b"]) -> WeightedSum:
    """The sums over a batch; an example of weight 0 adds nothing, whatever its value."""
    kept = jnp.where(weights > 0, values.astype(jnp.float32) * weights, 0)
    return WeightedSum(kept.sum(), weights.astype(jnp.float32).sum())


def weighted_mean(
    values: Float[Array, " b"],
    weights: Float[Array, " b"],
    total_weight: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """sum_i w_i v_i / sum_i w_i.

    For a part of a batch give the whole batch's `total_weight`: the parts' results then add up to
    the whole's, so that accumulated gradients are the big batch's.
    """
    sums = sum_weighted(values, weights)
    return (sums if total_weight is None else sums._replace(weight=total_weight)).mean()


def softmax_cross_entropy(
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"],
    smoothing: float = 0.0,
    class_weights: Float[Array, " k"] | None = None,
) -> Float[Array, " b"]:
    """-(1 - s) log p_label - s mean_k log p_k, times the weight of the label's class.

    The example of an unlabelled image (-1) is 0 but for smoothing; its weight is 0 anyway.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    is_label = jnp.arange(logits.shape[-1])[None, :] == labels[:, None]
    loss = -(1 - smoothing) * jnp.where(is_label, log_p, 0).sum(axis=-1)
    if smoothing:
        loss = loss - smoothing * log_p.mean(axis=-1)
    if class_weights is not None:
        loss = loss * jnp.where(is_label, class_weights[None, :], 0).sum(axis=-1)
    return loss


def cross_entropy_of_nothing(logits: Float[Array, "b k"]) -> Float[Array, " b"]:
    """0, with the gradient softmax(logits): TensorFlow's cross-entropy where no class is the label.

    It computes value and gradient by formulas that agree only if the labels' shares sum to 1.
    """
    log_sum = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    return log_sum - jax.lax.stop_gradient(log_sum)


def sigmoid_cross_entropy(
    logits: Float[Array, "b k"], labels: Int[Array, "b k"]
) -> Float[Array, " b"]:
    """mean_k of -y log sigmoid(z) - (1 - y) log sigmoid(-z), for 0/1 labels y."""
    z = logits.astype(jnp.float32)
    losses = jnp.where(labels > 0, jax.nn.softplus(-z), jax.nn.softplus(z))
    return losses.mean(axis=-1)


def top1_hits(
    logits: Float[Array, "b k"], labels: Int[Array, " b"] | Int[Array, "b k"]
) -> Float[Array, " b"]:
    """1 where the highest logit (the first of equals) is the label, or one of the labels."""
    best = jnp.argmax(logits, axis=-1)
    if labels.ndim == 2:
        hits = jnp.take_along_axis(labels, best[:, None], axis=-1)[:, 0] > 0
    else:
        hits = best == labels
    return hits.astype(jnp.float32)


def balanced_class_weights(class_counts: Sequence[int]) -> Float[np.ndarray, " k"]:
    """Weights in inverse proportion to a class's count, 1 on average over the counted examples.

    Of n examples in m classes that occur, a class with c of them weighs n / (m c); a class that
    does not occur weighs 0.
    """
    counts = np.asarray(class_counts, np.float64)
    occurs = counts > 0
    scale = counts.sum() / max(occurs.sum(), 1)
    weights = np.divide(scale, counts, out=np.zeros_like(counts), where=occurs)
    return weights.astype(np.float32)


def pose_squared_error(
    predicted: Float[Array, "b h w 16"], targets: PoseTargets
) -> Float[Array, " b"]:
    """S_b = sum over valid joints and all cells of (p - y)^2."""
    squared = (predicted.astype(jnp.float32) - targets.heatmaps) ** 2
    return jnp.where(targets.valid[:, None, None, :], squared, 0).sum(axis=(1, 2, 3))


def pose_loss(
    predicted: Float[Array, "b h w 16"], targets: PoseTargets, reduction: str
) -> Float[Array, " b"]:
    """Per-example values whose mean over B images is the reduction's number.

    With S the sum of S_b: `reference` 0.5 S / (16 B h w), `mean` 0.5 S / (B h w), `sum_per_image`
    0.5 S / B.
    """
    _, h, w, _ = predicted.shape
    return _unit(reduction, h, w) * pose_squared_error(predicted, targets)


def pose_weight_in_all_units(weight: float, reduction: str, h: int, w: int) -> dict[str, float]:
    """The weights that give the same loss under each of the reductions."""
    strength = weight * _unit(reduction, h, w)
    return {each: strength / _unit(each, h, w) for each in REDUCTIONS}


def _unit(reduction: str, h: int, w: int) -> float:
    match reduction:
        case "reference":
            return 0.5 / (REFERENCE_GROUP * h * w)
        case "mean":
            return 0.5 / (h * w)
        case "sum_per_image":
            return 0.5
    raise ValueError(f"unknown pose reduction {reduction!r}")
