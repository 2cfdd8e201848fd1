"""The network as a pure function, and everything a training step changes."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from clu import parameter_overview
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from gap_jax.batch import Outputs
from gap_jax.config import Config
from gap_jax.models.build import build
from gap_jax.models.cells import Axis, Grid
from gap_jax.models.folding import fold


class Variables(NamedTuple):
    """What a network computes with: learned parameters and running batch statistics."""

    params: PyTree
    stats: PyTree


class TrainState(NamedTuple):
    """All that a step changes and a checkpoint keeps; `ema` is empty where nothing is averaged.

    A step whose loss or gradient is not finite changes nothing here but `step`, `skipped_in_row`
    and `skipped`.
    """

    step: Int[Array, ""]
    variables: Variables
    opt_state: PyTree
    ema: Variables | tuple[()]
    skipped_in_row: Int[Array, ""]
    skipped: Int[Array, ""]

    @property
    def best_variables(self) -> Variables:
        """What evaluation and export use: the average where there is one."""
        return self.ema or self.variables


@dataclasses.dataclass(frozen=True)
class Model:
    """The structure of a network, apart from its variables."""

    graph: Any

    def apply(
        self,
        variables: Variables,
        image: UInt8[Array, "b *frames h w 3"] | Float[Array, "b *frames h w 3"],
        *,
        train: bool = False,
        keys: Key[Array, " b"] | None = None,
        want_maps: bool = False,
    ) -> tuple[Outputs, PyTree]:
        """The network's outputs and its running statistics afterwards."""
        network = nnx.merge(self.graph, variables.params, variables.stats, copy=True)
        outputs = network(image, train=train, keys=keys, want_maps=want_maps)
        return outputs, nnx.state(network, nnx.BatchStat)

    def locate_cells(self, variables: Variables, height: int, width: int) -> Grid:
        """Where the cells of the backbone's map stand in an image of that size."""
        backbone = nnx.merge(self.graph, variables.params, variables.stats).backbone
        return Grid(backbone.locate(Axis(height)), backbone.locate(Axis(width)))


def split_network(cfg: Config, classes: int, seed: int) -> tuple[Model, Variables]:
    """A freshly initialised network, taken apart."""
    graph, params, stats = nnx.split(build(cfg, classes, nnx.Rngs(seed)), nnx.Param, nnx.BatchStat)
    return Model(graph), Variables(params, stats)


def fold_network(model: Model, variables: Variables) -> tuple[Model, Variables]:
    """An equal network for evaluation only, in which what no picture changes is multiplied out."""
    network = fold(nnx.merge(model.graph, variables.params, variables.stats, copy=True))
    graph, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return Model(graph), Variables(params, stats)


def describe_model(cfg: Config, classes: int, *, folded: bool = False) -> tuple[Model, Variables]:
    """The structure and the shapes of the variables, without computing any."""
    found: list[Model] = []

    def shapes() -> Variables:
        model, variables = split_network(cfg, classes, 0)
        found.append(model)
        return variables

    variables = jax.eval_shape(shapes)
    return describe_folded(found[0], variables) if folded else (found[0], variables)


def describe_folded(model: Model, variables: Variables) -> tuple[Model, Variables]:
    """The structure and the shapes that folding leads to, without computing any."""
    found: list[Model] = []

    def shapes(variables: Variables) -> Variables:
        folded, variables = fold_network(model, variables)
        found.append(folded)
        return variables

    variables = jax.eval_shape(shapes, variables)
    return found[0], variables


def count_parameters(params: PyTree) -> dict[str, int]:
    """Counts the parameters of each part of a network."""
    parts = nnx.to_pure_dict(params).items()
    return {name: int(parameter_overview.count_parameters(part)) for name, part in parts}


def start_state(
    variables: Variables, optimizer: optax.GradientTransformationExtraArgs, *, averaged: bool
) -> TrainState:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        variables=variables,
        opt_state=optimizer.init(variables.params),
        ema=jax.tree.map(jnp.copy, variables) if averaged else (),
        skipped_in_row=zero,
        skipped=zero,
    )
