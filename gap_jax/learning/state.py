"""The network as a pure function, and the training state."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from clu import parameter_overview
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from gap_jax.batch import Outputs, People
from gap_jax.config import Config
from gap_jax.models.build import build
from gap_jax.models.cells import Axis, Grid
from gap_jax.models.folding import fold
from gap_jax.models.network import Network


class Variables(NamedTuple):
    """The arrays of a network: learned parameters and running batch statistics."""

    params: PyTree
    stats: PyTree


class TrainState(NamedTuple):
    """The state that a step updates and a checkpoint saves; `ema` is empty without averaging.

    A step whose loss or gradient is not finite updates only `step`, `skipped_in_row` and `skipped`.
    """

    step: Int[Array, ""]
    variables: Variables
    opt_state: PyTree
    ema: Variables | tuple[()]
    skipped_in_row: Int[Array, ""]
    skipped: Int[Array, ""]

    @property
    def best_variables(self) -> Variables:
        """The variables for evaluation and export: the average if there is one."""
        return self.ema or self.variables


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Model:
    """The structure of a network without its variables; as a pytree it has no leaves."""

    graph: Any

    def merge(self, variables: Variables) -> Network:
        """Returns the network with these variables; changes of it do not change them."""
        return nnx.merge(self.graph, *variables, copy=True)

    def apply(
        self,
        variables: Variables,
        image: UInt8[Array, "b *frames h w 3"] | Float[Array, "b *frames h w f"],
        *,
        people: People | None = None,
        train: bool = False,
        keys: Key[Array, " b"] | None = None,
        want_maps: bool = False,
        map_of_px: int | None = None,
    ) -> tuple[Outputs, PyTree]:
        """Returns the network's outputs and its updated running statistics."""
        network = self.merge(variables)
        outputs = network(
            image, people=people, train=train, keys=keys, want_maps=want_maps, map_of_px=map_of_px
        )
        return outputs, nnx.state(network, nnx.BatchStat)

    def extract(self, variables: Variables, image: UInt8[Array, "b h w 3"]) -> Array:
        """Computes the backbone's map as in evaluation."""
        return self.merge(variables).extract(image)

    def locate_cells(self, variables: Variables, height: int, width: int) -> Grid:
        """Computes the axes of the backbone's map for an image of that size."""
        backbone = self.merge(variables).backbone
        return Grid(backbone.locate(Axis(height)), backbone.locate(Axis(width)))


def split_network(network: Network) -> tuple[Model, Variables]:
    """Splits a network into its structure and its variables; `Model.merge` is the inverse."""
    graph, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return Model(graph), Variables(params, stats)


def fold_network(model: Model, variables: Variables) -> tuple[Model, Variables]:
    """Folds a network for evaluation (see `fold`); the given one is not changed."""
    return split_network(fold(model.merge(variables)))


def describe_model(cfg: Config, classes: int, *, folded: bool = False) -> tuple[Model, Variables]:
    """Returns the structure and the shapes of the variables, without computing values."""
    described = jax.eval_shape(lambda: split_network(build(cfg, classes, 0)))
    return describe_folded(*described) if folded else described


def describe_folded(model: Model, variables: Variables) -> tuple[Model, Variables]:
    """Returns the structure and the shapes after folding, without computing values."""
    return jax.eval_shape(functools.partial(fold_network, model), variables)


def count_parameters(params: PyTree) -> dict[str, int]:
    """Counts the parameters of each part of a network."""
    parts = nnx.to_pure_dict(params).items()
    return {name: int(parameter_overview.count_parameters(part)) for name, part in parts}


def start_state(
    variables: Variables, optimizer: optax.GradientTransformationExtraArgs, *, averaged: bool
) -> TrainState:
    """Builds the state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, variables) if averaged else ()
    return TrainState(zero, variables, optimizer.init(variables.params), ema, zero, zero)
