"""Losses with one value per example, and their weighted mean."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from gap_jax.learning.targets import PoseTargets

REFERENCE_GROUP = 16  # images per GPU in the released code, whose pose loss divides by it twice


def weighted_mean(
    values: Float[Array, " b"],
    weights: Float[Array, " b"],
    total_weight: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """sum_i w_i v_i / sum_i w_i; 0 if no example has weight.

    An example of weight 0 adds nothing, even if its value is NaN. With the `total_weight` of the
    whole batch the results of its micro-batches add up to the batch's, and so do their gradients.
    """
    kept = jnp.where(weights > 0, values.astype(jnp.float32) * weights, 0)
    total = weights.astype(jnp.float32).sum() if total_weight is None else total_weight
    return kept.sum() / jnp.where(total > 0, total, 1)


def softmax_cross_entropy(
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"],
    smoothing: float = 0.0,
    class_weights: Float[Array, " k"] | None = None,
) -> Float[Array, " b"]:
    """-(1 - s) log p_label - s mean_k log p_k, times the weight of the label's class.

    An unlabelled image (-1) has only the smoothing term; its weight in the mean is 0.
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.losses.smooth_labels(is_label, smoothing)
    loss = optax.losses.softmax_cross_entropy(logits.astype(jnp.float32), targets)
    return loss if class_weights is None else loss * (is_label * class_weights).sum(axis=-1)


def average_people(
    rule: Callable[[Array, Array], Array],
    person_logits: Float[Array, "b m k"],
    labels: Int[Array, "b m"],
    otherwise: Float[Array, " b"],
) -> Float[Array, " b"]:
    """The mean loss of an image's labelled people by a rule; `otherwise` if none is labelled."""
    is_known = labels >= 0
    each = rule(person_logits.reshape(-1, person_logits.shape[-1]), labels.reshape(-1))
    known = jnp.where(is_known, each.reshape(labels.shape), 0).sum(axis=1)
    count = is_known.sum(axis=1)
    return jnp.where(count > 0, known / jnp.maximum(count, 1), otherwise)


def unlabelled_cross_entropy(logits: Float[Array, "b k"]) -> Float[Array, " b"]:
    """0 with the gradient softmax(logits): TensorFlow's cross-entropy if no class is the label.

    optax's has no gradient in this case. TensorFlow computes value and gradient by formulas that
    agree only if the labels sum to 1.
    """
    log_sum = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    return log_sum - jax.lax.stop_gradient(log_sum)


def sigmoid_cross_entropy(
    logits: Float[Array, "b k"], labels: Int[Array, "b k"], positive_weight: float = 1.0
) -> Float[Array, " b"]:
    """mean_k of -w y log sigmoid(z) - (1 - y) log sigmoid(-z) over the 0/1 labels y.

    w is `positive_weight`. Labels below 0 are not known and leave the mean; it is 0 without others.
    """
    is_known, is_positive = labels >= 0, labels > 0
    losses = optax.losses.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), is_positive)
    factors = jnp.where(is_positive, positive_weight, 1.0) * is_known
    return (losses * factors).sum(axis=-1) / jnp.maximum(is_known.sum(axis=-1), 1)


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
    """Weights in inverse proportion to a class's count, 1 on average over the examples.

    With n examples in m classes that occur, a class of c examples has the weight n / (m c); a
    class without examples has the weight 0.
    """
    counts = np.asarray(class_counts, np.float64)
    occurs = counts > 0
    scale = counts.sum() / max(occurs.sum(), 1)
    weights = np.divide(scale, counts, out=np.zeros_like(counts), where=occurs)
    return weights.astype(np.float32)


def pose_loss(
    predicted: Float[Array, "b h w 16"], targets: PoseTargets, reduction: str
) -> Float[Array, " b"]:
    """Values per example whose mean over B images is the reduced loss.

    With S the sum of (p - y)^2 over valid joints, cells and images: `reference` 0.5 S / (16 B h w),
    `mean` 0.5 S / (B h w), `sum_per_image` 0.5 S / B.
    """
    _, h, w, _ = predicted.shape
    squared = optax.losses.squared_error(predicted.astype(jnp.float32), targets.heatmaps)
    valid = jnp.where(targets.valid[:, None, None, :], squared, 0)
    return _factors(h, w)[reduction] * valid.sum(axis=(1, 2, 3))


def pose_weight_in_all_units(weight: float, reduction: str, h: int, w: int) -> dict[str, float]:
    """The weights that give the same loss under each of the reductions."""
    factors = _factors(h, w)
    strength = weight * factors[reduction]
    return {each: strength / factor for each, factor in factors.items()}


def _factors(h: int, w: int) -> dict[str, float]:
    mean = 0.5 / (h * w)
    return {"reference": 0.5 / (REFERENCE_GROUP * h * w), "mean": mean, "sum_per_image": 0.5}
