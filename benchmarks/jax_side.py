"""Our step on one fixed batch, with weights that PyTorch can load too."""

import dataclasses
import math
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.sides import LOSSES, WEIGHTS, Task, clock, draw_batch
from configs.gap_pose import get_config
from data_pipelines.example import HostBatch
from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.learning import steps
from gap_jax.learning.optim import name_path
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.sharding import globalise
from gap_jax.learning.state import Model, Variables, describe_folded, fold_network, split_network
from gap_jax.models.backbones.efficientnet_lite import STAGES
from gap_jax.models.backbones.resnet import BLOCKS
from gap_jax.models.layers import Conv
from gap_jax.weights.names import efficientnet_lite, resnet, vgg
from gap_jax.weights.native import name_arrays

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # PyTorch's by the forms of name maps
    "same": lambda x: x,
    "oihw": lambda x: x.transpose(3, 2, 0, 1),
    "classifier_oi": lambda x: x[0].T,
    "row": lambda x: x[0],
}
LAST = ("conv3", "project")  # convolution of a unit
COMPILED = "compiled"  # folder of the compilation cache


def build(task: Task, folder: Path) -> "TrainStep | EvalStep":
    """Builds the step of a task without compiling it."""
    if jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(folder / COMPILED))
    setup = set_up(task)
    kind = TrainStep if task.mode == "train" else EvalStep
    return kind(task, setup, draw_variables(setup.target.variables), folder)


def configure(task: Task) -> Config:
    """Returns the config of a task: a variant of the paper's, without the pose branch."""
    cfg = get_config(task.head)
    model, train = cfg.model, cfg.train
    cfg.pose.branch, model.saliency_input = False, "features"
    model.backbone, model.stage = task.backbone, task.stage
    if task.backbone in BLOCKS:
        model.strides = "v1_5"  # as PyTorch
    if task.backbone in STAGES:
        model.norm_eps = 1e-3
    model.input = task.input
    model.norm, model.norm_group_size = task.norm, task.norm_group or task.batch
    model.dtype = "bfloat16" if task.half else "float32"
    model.remat = task.recomputed == "units"
    cfg.data.image_size_px = task.px
    train.batch_size, train.accumulate, cfg.eval.batch_size = task.batch, 1, task.batch
    return cfg.resolved()


def set_up(task: Task) -> Setup:
    """Sets up the network and the steps of a task."""
    classes = tuple(map(str, range(task.classes)))
    cfg = configure(task)
    setup = assemble(cfg, Manifest("mpii", "single", classes, 1, {}, {}), jax.devices()[:1])
    model = setup.model
    if task.one_by_one == "conv":
        model = _with_convolutions(model, setup.target.variables)
    if task.recomputed == "norms":
        model = _WithRecomputedNorms(model.graph)
    if model is setup.model:
        return setup
    train_step = steps.build_train_step(cfg, model, setup.optimizer, setup.mesh)
    return dataclasses.replace(
        setup,
        model=model,
        train_step=jax.jit(train_step, donate_argnums=0),
        fold=jax.jit(lambda variables: fold_network(model, variables)[1]),
        eval_step=steps.jit_eval_step(
            describe_folded(model, setup.target.variables)[0], setup.mesh
        ),
    )


class _WithRecomputedNorms(Model):
    """Stores the outputs of convolutions and products only; the backward pass computes the rest."""

    def apply(
        self, variables: Variables, *arguments: Any, keys: Any = None, **choices: Any
    ) -> tuple[Any, Any]:
        def apply(variables: Variables, keys: Any, *arguments: Any) -> tuple[Any, Any]:
            return Model.apply(self, variables, *arguments, keys=keys, **choices)

        return jax.checkpoint(apply, policy=_is_product)(variables, keys, *arguments)


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("conv_general_dilated", "dot_general")


def _with_convolutions(model: Model, shapes: Variables) -> Model:
    """Computes the 1x1 convolutions as convolutions, not as products."""
    network = model.merge(shapes)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, Conv):
            module.as_product = False
    return split_network(network)[0]


def draw_variables(shapes: Variables) -> Variables:
    """Draws He's weights, and norms that differ between channels like trained ones.

    The last norm of a unit is small; otherwise the maps would double in every unit. Each leaf
    follows from its path, so a backbone is the same below every head.
    """

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Array:
        *_, module, _, name = ("", "", *name_path(path).split("/"))
        rng = np.random.default_rng(zlib.crc32(name_path(path).encode()))
        match name:
            case "kernel":
                values = rng.standard_normal(leaf.shape, np.float32)
                values *= math.sqrt(2 / math.prod(leaf.shape[:-1]))
            case "gamma":
                values = rng.uniform(*((0.1, 0.3) if module in LAST else (0.5, 1.5)), leaf.shape)
            case "var":
                values = rng.uniform(0.5, 2, leaf.shape)
            case _:
                values = rng.uniform(-0.1, 0.1, leaf.shape)
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class _OurStep:
    def __init__(self, task: Task, setup: Setup, variables: Variables, folder: Path) -> None:
        self.task = task
        self.setup = setup
        self.variables = variables
        self.folder = folder
        self.batch = globalise([draw_host_batch(task)], setup.mesh)

    def run(self, steps: int) -> None:
        """Runs steps."""
        raise NotImplementedError

    def time(self, steps: int) -> dict[str, float]:
        """Returns the seconds of a step."""
        return clock(self.run, steps)

    def save_weights(self) -> None:
        """Writes the variables under PyTorch's names for the other rows."""
        np.savez(
            self.folder / WEIGHTS, allow_pickle=False, **convert(self.variables, self.task.backbone)
        )


class TrainStep(_OurStep):
    """Our training step, with its state."""

    def prepare(self) -> dict[str, Any]:
        """Compiles the step."""
        start = time.perf_counter()
        self.initial = self.setup.start(self.variables)
        self.step = self.setup.train_step.lower(self.initial, self.batch).compile()
        self._start()
        self.run(1)
        return {"compile_s": time.perf_counter() - start, **_describe(self.step)}

    def logits(self) -> Float[np.ndarray, "b k"]:
        """Returns the logits of training, without dropout."""

        def apply(variables: Variables) -> Float[Array, "b k"]:
            image = self.batch.image[0]
            return self.setup.model.apply(variables, image, train=True)[0].logits

        return np.asarray(jax.jit(apply)(self.variables))

    def losses(self) -> list[float]:
        """Returns the losses from the initial state on."""
        self._start()
        losses = []
        for _ in range(LOSSES):
            self.state, metrics = self.step(self.state, self.batch)
            losses.append(float(metrics.compute()["loss"]))
        return losses

    def run(self, steps: int) -> None:
        """Runs steps, each with the state of the previous one."""
        for _ in range(steps):
            self.state, _ = self.step(self.state, self.batch)
        jax.block_until_ready(self.state)

    def _start(self) -> None:
        self.state = jax.tree.map(jnp.copy, self.initial)  # a step donates its state


class EvalStep(_OurStep):
    """Our evaluation step, of the folded or the trained network."""

    def __init__(self, task: Task, setup: Setup, variables: Variables, folder: Path) -> None:
        super().__init__(task, setup, variables, folder)
        self.evaluated, self.eval_step = variables, setup.eval_step
        if task.folded:
            self.evaluated = setup.fold(variables)
        else:
            self.eval_step = steps.jit_eval_step(setup.model, setup.mesh)

    def prepare(self) -> dict[str, Any]:
        """Compiles the step."""
        start = time.perf_counter()
        self.step = self.eval_step.lower(self.evaluated, self.batch).compile()
        self.run(1)
        return {"compile_s": time.perf_counter() - start, **_describe(self.step)}

    def logits(self) -> Float[np.ndarray, "b k"]:
        """Returns the logits of the batch."""
        return np.asarray(self.step(self.evaluated, self.batch))

    def run(self, steps: int) -> None:
        """Runs steps."""
        jax.block_until_ready([self.step(self.evaluated, self.batch) for _ in range(steps)])


def draw_host_batch(task: Task) -> HostBatch:
    """Draws images with labels, and no people in them."""
    pictures, labels = draw_batch(task)
    rows = task.batch
    return HostBatch(
        image=pictures,
        keypoints=np.zeros((rows, 1, 16, 3), np.float32),
        disc_radius=np.ones(rows, np.float32),
        label=labels.astype(np.int32),
        weight=np.ones(rows, np.float32),
        id=np.arange(rows),
    )


def _describe(compiled: Any) -> dict[str, Any]:
    device = jax.devices()[0]
    memory = compiled.memory_analysis()
    return {
        "device": device.device_kind,
        "platform": device.client.platform_version.replace("\n", " "),
        "temporary_gb": memory.temp_size_in_bytes / 1e9 if memory else None,
    }


def convert(variables: Variables, backbone: str) -> dict[str, np.ndarray]:
    """Converts a mean-pooling network to PyTorch's names and layouts; of VGG16 the backbone."""
    if backbone in BLOCKS:
        names = resnet.torch_names(BLOCKS[backbone])
    elif backbone == "vgg16":
        names = vgg.torch_names(dense=False)
    else:
        names = efficientnet_lite.torch_names(STAGES[backbone])
    ours = name_arrays(variables)
    return {
        source.names[0]: np.ascontiguousarray(LAYOUTS[source.form](np.asarray(ours[path])))
        for path, source in names.items()
        if path in ours  # a shorter network has fewer
    }
