"""The training step and the evaluation step: pure functions, compiled once each.

A batch is (micro-batches, images, ...). The gradients of the micro-batches' shares of the mean loss
are summed. Running statistics are updated once, by the mean of the updates of all micro-batches. So
the number of micro-batches changes no result, unless `model.norm_running=first`: then running
statistics follow the first group of the last micro-batch.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average, Collection, LastValue
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key, PyTree, UInt8

from gap_jax import hardware
from gap_jax.batch import Batch
from gap_jax.config import Config
from gap_jax.learning import losses, optim
from gap_jax.learning.mixup import Mixed, mix
from gap_jax.learning.sharding import replicated
from gap_jax.learning.state import Model, TrainState, Variables
from gap_jax.learning.targets import draw_heatmaps

MOST_UNROLLED = 8  # micro-batches; on CPU a convolution in a loop is almost six times slower


class Means(NamedTuple):
    """The shares of a micro-batch in the means of the batch."""

    loss: Float[Array, ""]
    loss_action: Float[Array, ""]
    loss_pose: Float[Array, ""]
    accuracy: Float[Array, ""]


# `finite` is 0 if the step was skipped; over several steps all but the LastValues are averaged
TrainMetrics = Collection.create(
    **{name: Average.from_output(name) for name in (*Means._fields, "grad_norm")},
    learning_rate=LastValue.from_output("learning_rate"),
    finite=Average.from_output("finite"),
    skipped_in_row=LastValue.from_output("skipped_in_row"),
    skipped=LastValue.from_output("skipped"),
)
EvalStep = Callable[[Variables, Batch], Float[Array, "b k"]]
Micro = tuple[Batch, Mixed | None]  # a micro-batch, and how its images were mixed
MicroLoss = Callable[[PyTree, PyTree, Micro, Key[Array, " b"]], tuple[Array, tuple[Means, PyTree]]]
MIXUP_STREAM = 2**31 - 1  # of a step's random numbers; rows count from 0


def build_train_step(
    cfg: Config,
    model: Model,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    class_weights: Float[Array, " k"] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Collection]]:
    """Builds the function (state, batch) -> (state, metrics) of a run."""

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Collection]:
        whole = jax.lax.with_sharding_constraint(state.variables.params, replicated(mesh))
        micro_loss = _build_micro_loss(cfg, model, batch, class_weights)
        root = jax.random.fold_in(jax.random.key(cfg.train.seed), state.step)
        micro_batches: Micro = (batch, None)
        if cfg.train.mixup:
            micro_batches = mix(batch, jax.random.fold_in(root, MIXUP_STREAM), cfg.train.mixup)
        grads, means, stats = _accumulate(cfg, micro_loss, whole, state, micro_batches, root)
        norm = optim.gradient_norm(grads, cfg.optim.frozen)
        finite = jnp.isfinite(means.loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.variables.params, step=state.step
        )
        params = optax.apply_updates(state.variables.params, updates)
        variables = _keep_frozen(cfg, Variables(params, stats), state.variables)
        ema = _average(cfg, state.ema, variables)
        skipped_in_row, skipped = state.skipped_in_row + 1, state.skipped + 1
        after = jax.tree.map(
            lambda updated, kept: jnp.where(finite, updated, kept),
            TrainState(state.step + 1, variables, opt_state, ema, jnp.int32(0), state.skipped),
            state._replace(step=state.step + 1, skipped_in_row=skipped_in_row, skipped=skipped),
        )
        return after, TrainMetrics.single_from_model_output(
            **means._asdict(),
            grad_norm=norm,
            learning_rate=optim.learning_rate(cfg.optim, cfg.train.steps, state.step),
            finite=finite.astype(jnp.float32),
            skipped_in_row=after.skipped_in_row,
            skipped=after.skipped,
        )

    return train_step


def jit_eval_step(model: Model, mesh: Mesh, views: int = 1, *, from_map: bool = False) -> Any:
    """Builds (variables, batch of one micro-batch) -> logits, replicated; not yet compiled.

    With several `views` along axis 1 of the images, logits are averaged over views.
    """

    def score(
        variables: Variables, image: UInt8[Array, "b *frames h w 3"] | Float[Array, "b h w f"]
    ) -> Float[Array, "b k"]:
        return model.apply(variables, image, from_map=from_map)[0].logits

    def eval_step(variables: Variables, batch: Batch) -> Float[Array, "b k"]:
        whole = jax.lax.with_sharding_constraint(variables, replicated(mesh))
        if views == 1:
            logits = score(whole, batch.image[0])
        elif hardware.is_cpu():
            logits = sum(score(whole, batch.image[0, :, i]) for i in range(views)) / views
        else:
            each = jnp.moveaxis(batch.image[0], 1, 0)
            logits = jax.lax.map(functools.partial(score, whole), each).mean(0)
        return jax.lax.with_sharding_constraint(logits, replicated(mesh))

    return jax.jit(eval_step, compiler_options=hardware.list_eval_options())


def _build_micro_loss(
    cfg: Config, model: Model, batch: Batch, class_weights: Float[Array, " k"] | None
) -> MicroLoss:
    labelled = batch.weight.sum()
    counts_unlabelled = cfg.train.unlabelled == "reference" and batch.label.ndim == 2
    images = jnp.float32(batch.id.size)
    apply = functools.partial(model.apply, train=True, from_map=cfg.data.cache == "features")
    side = cfg.data.image_size_px
    if cfg.model.remat:
        keep_units = jax.checkpoint_policies.save_only_these_names("unit")
        apply = jax.checkpoint(apply, policy=keep_units)

    def micro_loss(
        params: PyTree, stats: PyTree, micro: Micro, keys: Key[Array, " b"]
    ) -> tuple[Array, tuple[Means, PyTree]]:
        (image, keypoints, disc_radius, label, weight, *_), mixed = micro
        params = optim.stop_frozen(params, cfg.optim.frozen)
        outputs, stats = apply(Variables(params, stats), image, keys=keys)
        hits = losses.top1_hits(outputs.logits, label)
        if label.ndim == 1:
            cross_entropy = functools.partial(
                losses.softmax_cross_entropy,
                outputs.logits,
                smoothing=cfg.train.label_smoothing,
                class_weights=class_weights,
            )
            each = cross_entropy(label)
            if mixed is not None:
                each = _blend(mixed.share, each, cross_entropy(mixed.label))
                hits = _blend(mixed.share, hits, losses.top1_hits(outputs.logits, mixed.label))
        else:
            known = jnp.maximum(label, 0) if cfg.train.unknown == "negative" else label
            each = losses.sigmoid_cross_entropy(outputs.logits, known, cfg.train.positive_weight)
        if counts_unlabelled:
            unlabelled = losses.unlabelled_cross_entropy(outputs.logits)
            each = jnp.where(weight > 0, each, unlabelled)
            action = losses.weighted_mean(each, jnp.ones_like(each), images)
        else:
            action = losses.weighted_mean(each, weight, labelled)
        pose = jnp.float32(0)
        if outputs.pose is not None and cfg.model.frames == 1:  # clips have no keypoints
            cells = outputs.pose.shape[1:3]
            targets = draw_heatmaps(keypoints, disc_radius, (side, side), cells, cfg.pose)
            of_image = losses.pose_loss(outputs.pose, targets, cfg.pose.reduction)
            pose = losses.weighted_mean(of_image, jnp.ones_like(of_image), images)
        loss = action + cfg.pose.weight * pose
        accuracy = losses.weighted_mean(hits, weight, labelled)
        return loss, (Means(loss, action, pose, accuracy), stats)

    return micro_loss


def _blend(share: Float[Array, " b"], own: Array, other: Array) -> Array:
    return share * own + (1 - share) * other


def _accumulate(
    cfg: Config,
    micro_loss: MicroLoss,
    params: PyTree,
    state: TrainState,
    batch: Micro,
    root: Key[Array, ""],
) -> tuple[PyTree, Means, PyTree]:
    """The gradient and the means of the batch, and the mean (or last) updated statistics."""
    micro_batches, images = batch[0].id.shape
    rows = jnp.arange(micro_batches * images).reshape(micro_batches, images)
    keys = jax.vmap(jax.vmap(lambda row: jax.random.fold_in(root, row)))(rows)

    def differentiate(
        micro: Micro, row_keys: Key[Array, " b"], is_last: bool | Bool[Array, ""]
    ) -> tuple[PyTree, Means, PyTree]:
        gradient = jax.grad(micro_loss, has_aux=True)
        grads, (means, stats) = gradient(params, state.variables.stats, micro, row_keys)
        if cfg.model.norm_running == "first":
            return grads, means, jax.tree.map(lambda leaf: jnp.where(is_last, leaf, 0), stats)
        return grads, means, jax.tree.map(lambda leaf: leaf / micro_batches, stats)

    last = micro_batches - 1
    if micro_batches <= MOST_UNROLLED and hardware.is_cpu():
        results = [
            differentiate(jax.tree.map(operator.itemgetter(i), batch), keys[i], i == last)
            for i in range(micro_batches)
        ]
        return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *results)
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    shapes = jax.eval_shape(differentiate, first, keys[0], micro_batches == 1)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: PyTree, arguments: tuple[Micro, Array, Array]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, differentiate(*arguments)), None

    return jax.lax.scan(add, zeros, (batch, keys, jnp.arange(micro_batches) == last))[0]


def _keep_frozen(cfg: Config, new: Variables, before: Variables) -> Variables:
    """Passes frozen leaves on as they are: equal to the bit, and not written by the step."""

    def keep(new: PyTree, before: PyTree) -> PyTree:
        is_frozen = optim.mask_frozen(before, cfg.optim.frozen)
        return jax.tree.map(lambda frozen, a, b: b if frozen else a, is_frozen, new, before)

    stats = before.stats if cfg.model.norm == "frozen" else keep(new.stats, before.stats)
    return Variables(keep(new.params, before.params), stats)


def _average(cfg: Config, ema: Variables | tuple[()], new: Variables) -> Variables | tuple[()]:
    if not ema:
        return ()
    decay = cfg.train.ema_decay
    average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, new)
    return _keep_frozen(cfg, average, ema)
