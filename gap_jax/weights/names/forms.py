"""How another library lays an array out, and how it becomes ours."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Array = Float[np.ndarray, "..."]
Form = Literal[
    "same", "oihw", "bgr", "pointwise", "classifier_oi", "classifier_io",
    "classifier_pointwise", "row", "difference", "map_io", "map_oi", "cell_io", "cell_oi",
]  # fmt: skip
RANKS: dict[Form, int] = {
    "oihw": 4, "bgr": 4, "pointwise": 4, "classifier_oi": 2, "classifier_io": 2,
    "classifier_pointwise": 4, "row": 1, "difference": 1, "map_io": 2, "map_oi": 2, "cell_io": 2,
    "cell_oi": 2,
}  # fmt: skip


class Source(NamedTuple):
    """The names that an array of ours comes from, and their form."""

    names: tuple[str, ...]
    form: Form = "same"


NameMap = dict[str, Source]


def norm_names(path: str, stem: str, **theirs: str) -> NameMap:
    """A batch norm's arrays, ours at `path` by what follows `stem` there."""
    return {f"{path}/norm/{ours}": Source((stem + name,)) for ours, name in theirs.items()}


def classifier_names(kernel: str, bias: str, form: Form) -> NameMap:
    """A classifier of the map's mean, which is what mean pooling is."""
    return {"pooling/kernel": Source((kernel,), form), "pooling/bias": Source((bias,), "row")}


KERAS_ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


def number_variables(names: NameMap) -> NameMap:
    """Keras' LAYER/VARIABLE as LAYER/NUMBER, by the order in which a layer makes its variables."""
    layers: dict[str, list[str]] = {}
    for source in names.values():
        for layer, _, variable in (name.rpartition("/") for name in source.names):
            layers.setdefault(layer, []).append(variable)
    for variables in layers.values():
        variables.sort(key=KERAS_ORDER.index)

    def number(name: str) -> str:
        layer, _, variable = name.rpartition("/")
        return f"{layer}/{layers[layer].index(variable)}"

    return {
        path: Source(tuple(map(number, source.names)), source.form)
        for path, source in names.items()
    }


def to_ours(arrays: Sequence[Array], form: Form) -> Array:
    """The array as our networks hold it; a wrong number of axes is a ValueError.

    `oihw` has outputs first, `bgr` is HWIO with colours the other way round, `pointwise`
    a 1x1 convolution where ours is a matrix. A `classifier_…` becomes the one top-down map
    (1, f, k) of mean pooling, and a `row` its bias. `difference` is the first less the second.
    `map_…` is a dense layer over a 7x7 map, `cell_…` one over a vector, both convolutions here.
    """
    first = arrays[0]
    if form in RANKS and first.ndim != RANKS[form]:
        raise ValueError(f"has {first.ndim} axes and {RANKS[form]} are due")
    match form:
        case "oihw":
            return first.transpose(2, 3, 1, 0)
        case "bgr":
            return first[:, :, ::-1]
        case "pointwise":
            return first[0, 0]
        case "classifier_oi":
            return first.T[None]
        case "classifier_io" | "row":
            return first[None]
        case "classifier_pointwise":
            return first[0]
        case "map_io":
            return first.reshape(7, 7, -1, first.shape[1])
        case "map_oi":
            return first.reshape(len(first), -1, 7, 7).transpose(2, 3, 1, 0)
        case "cell_io":
            return first[None, None]
        case "cell_oi":
            return first.T[None, None]
        case "difference":
            return first - arrays[1]
        case _:
            return first
