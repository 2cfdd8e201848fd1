"""Builds mesh, model, optimiser, compiled steps and state from a config."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.core.files import quote
from data_pipelines.manifest import Manifest
from gap_jax import hardware
from gap_jax.config import Config, EvalConfig, TrainConfig
from gap_jax.learning import losses, optim, sharding, state, steps
from gap_jax.learning.mixup import check_mixup
from gap_jax.learning.state import Model, TrainState, Variables, start_state
from gap_jax.models.build import build


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run; `target` holds the shape, dtype and sharding of every leaf of the state.

    `eval_step` takes variables from `fold`, which multiplies factored layers out.
    """

    cfg: Config
    data: Manifest
    mesh: Mesh
    model: Model
    optimizer: optax.GradientTransformationExtraArgs
    target: TrainState
    train_step: Any
    fold: Any
    eval_step: Any

    def initial_variables(self) -> Variables:
        """Initialises parameters and statistics from train.seed alone."""
        cfg, classes = self.cfg, len(self.data.classes)
        return jax.jit(
            lambda: state.split_network(build(cfg, classes, cfg.train.seed))[1],
            out_shardings=sharding.state_shardings(self.target.variables, self.mesh),
        )()

    def start(self, variables: Variables) -> TrainState:
        """Returns the state before the first step, with these variables."""
        shardings = sharding.state_shardings(self.target, self.mesh)
        return jax.jit(_bind_start(self.cfg, self.optimizer), out_shardings=shardings)(variables)

    def map_size(self) -> tuple[int, int] | None:
        """Returns the rows and columns of the joint heatmaps; None without a pose branch."""
        side, frames = self.cfg.data.image_size_px, self.cfg.model.frames
        clip = (frames,) if frames > 1 else ()
        image = jax.ShapeDtypeStruct((1, *clip, side, side, 3), "float32")
        outputs, _ = jax.eval_shape(self.model.apply, self.target.variables, image)
        return None if outputs.pose is None else outputs.pose.shape[-3:-1]


def check_clips(cfg: Config, data: Manifest) -> None:
    """Refuses clips of single images, more frames than are stored, and maps of videos."""
    if data.frames == 1:
        if cfg.model.frames > 1:
            raise ConfigError(
                f"model.frames={cfg.model.frames} takes clips, and {data.name} holds pictures; "
                "set model.frames=1, or feed the network yourself (docs/method.md)"
            )
        return
    field = "data.eval_frames" if cfg.model.frames == 1 else "model.frames"
    count = cfg.data.eval_frames if cfg.model.frames == 1 else cfg.model.frames
    if count > data.frames:
        raise ConfigError(
            f"{field}={count} and {data.name} holds {data.frames} frames of each video; set "
            f"{field}={data.frames}, or prepare the data with more --frames-per-video"
        )
    if cfg.data.cache == "features":
        raise ConfigError(
            f"data.cache=features stores maps of images, and {data.name} holds videos; set "
            "data.cache=none"
        )


def check_labels(cfg: Config, data: Manifest) -> None:
    """Refuses fields for the other kind of labels, and single labels of one class."""
    train, values = cfg.train, cfg.eval
    if data.label_kind == "multi":
        if train.label_smoothing or train.class_weights != "none":
            raise ConfigError(
                f"train.label_smoothing={train.label_smoothing} and train.class_weights="
                f"{train.class_weights} are for single labels, and {data.name} has several for an "
                "image; set train.label_smoothing=0 and train.class_weights=none"
            )
        return
    for field, value, default in (
        ("train.unknown", train.unknown, TrainConfig.unknown),
        ("train.positive_weight", train.positive_weight, TrainConfig.positive_weight),
        ("eval.unknown", values.unknown, EvalConfig.unknown),
    ):
        if value != default:
            raise ConfigError(
                f"{field}={value} is for several labels of an image, and {data.name} has one; "
                f"set {field}={default}"
            )
    if len(data.classes) == 1:
        raise DataError(
            f"{data.name} has one class, {quote(data.classes[0])}, so there is nothing to tell "
            "apart; add a class, such as a folder of other photographs, and prepare the data again"
        )


def describe_state(
    cfg: Config, variables: Variables
) -> tuple[optax.GradientTransformationExtraArgs, TrainState]:
    """Returns the optimiser, and the shape and dtype of every leaf of the state."""
    optimizer = optim.build_optimizer(cfg.optim, cfg.train.steps, variables.params)
    return optimizer, jax.eval_shape(_bind_start(cfg, optimizer), variables)


def _bind_start(
    cfg: Config, optimizer: optax.GradientTransformationExtraArgs
) -> Callable[[Variables], TrainState]:
    return functools.partial(start_state, optimizer=optimizer, averaged=cfg.train.ema_decay > 0)


def assemble(cfg: Config, data: Manifest, devices: Sequence[Any] | None = None) -> Setup:
    """Builds all parts of a run; compiles and computes nothing yet."""
    check_clips(cfg, data)
    check_mixup(cfg, data)
    check_labels(cfg, data)
    mesh = sharding.make_mesh(cfg, devices)
    model, shapes = state.describe_model(cfg, len(data.classes))
    optimizer, abstract = describe_state(cfg, shapes)
    shardings = sharding.state_shardings(abstract, mesh)
    weights = None
    if cfg.train.class_weights == "balanced":
        counts = data.find_split(cfg.data.train_split).class_counts
        weights = jnp.asarray(losses.balanced_class_weights(counts))
    folded, _ = state.describe_folded(model, shapes)
    train_step = steps.build_train_step(cfg, model, optimizer, mesh, weights)
    return Setup(
        cfg=cfg,
        data=data,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        target=jax.tree.map(lambda leaf, each: leaf.update(sharding=each), abstract, shardings),
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None)),
        fold=jax.jit(
            lambda variables: state.fold_network(model, variables)[1],
            out_shardings=sharding.replicated(mesh),
            compiler_options=hardware.ONE_RUN_OPTIONS,  # `Opened.fold` gives the same bits
        ),
        eval_step=steps.jit_eval_step(folded, mesh, cfg.data.eval_views, map_of_px=cfg.map_of_px),
    )
