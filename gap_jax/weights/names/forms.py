"""The array layouts of other libraries, and their conversion to ours."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Array = Float[np.ndarray, "..."]
FORMS: dict[str, tuple[int | None, Callable[..., Array]]] = {  # number of axes, conversion
    "same": (None, lambda x: x),
    "oihw": (4, lambda x: x.transpose(2, 3, 1, 0)),
    "bgr": (4, lambda x: x[:, :, ::-1]),
    "pointwise": (4, lambda x: x[0, 0]),
    "classifier_oi": (2, lambda x: x.T[None]),
    "classifier_io": (2, lambda x: x[None]),
    "classifier_pointwise": (4, lambda x: x[0]),
    "row": (1, lambda x: x[None]),
    "difference": (1, lambda x, y: x - y),
    "map_io": (2, lambda x: x.reshape(7, 7, -1, x.shape[1])),
    "map_oi": (2, lambda x: x.reshape(len(x), -1, 7, 7).transpose(2, 3, 1, 0)),
    "cell_io": (2, lambda x: x[None, None]),
    "cell_oi": (2, lambda x: x.T[None, None]),
}
KERAS_ORDER = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
TORCH_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
SLIM_NORM = {
    "gamma": "gamma", "beta": "beta", "mean": "moving_mean", "var": "moving_variance",
}  # fmt: skip


class Source(NamedTuple):
    """The foreign names of one of our arrays, and their form."""

    names: tuple[str, ...]
    form: str = "same"


NameMap = dict[str, Source]


def conv_norm_names(
    layers: Iterable[tuple[str, ...]],
    kernel: str,
    norm: str,
    variables: dict[str, str],
    form: str = "same",
) -> NameMap:
    """Names convolutions and their norms.

    A layer is our path and its names, which fill the formats `kernel` and `norm`. `variables` maps
    our names to those that follow `norm`.
    """
    names: NameMap = {}
    for path, *stems in layers:
        names[f"{path}/conv/kernel"] = Source((kernel.format(*stems),), form)
        for ours, theirs in variables.items():
            names[f"{path}/norm/{ours}"] = Source((norm.format(*stems) + theirs,))
    return names


def classifier_names(kernel: str, bias: str, form: str) -> NameMap:
    """Names a classifier of the map's mean, which is mean pooling here."""
    return {"pooling/kernel": Source((kernel,), form), "pooling/bias": Source((bias,), "row")}


def number_variables(names: NameMap) -> NameMap:
    """Renames Keras' LAYER/VARIABLE to LAYER/NUMBER, in a layer's order of creation."""
    variables = [name for source in names.values() for name in source.names]
    variables.sort(key=lambda name: KERAS_ORDER.index(name.rpartition("/")[2]))
    next_number: Counter[str] = Counter()
    numbered: dict[str, str] = {}
    for name in variables:
        layer = name.rpartition("/")[0]
        numbered[name] = f"{layer}/{next_number[layer]}"
        next_number[layer] += 1
    return {
        path: Source(tuple(numbered[name] for name in source.names), source.form)
        for path, source in names.items()
    }


def to_ours(arrays: Sequence[Array], form: str) -> Array:
    """Converts arrays to the layout of our networks; a wrong number of axes is a ValueError.

    `oihw` has outputs first; `bgr` is HWIO with reversed colours; `pointwise` is a 1x1 convolution
    that is a matrix here. A `classifier_…` becomes the top-down map (1, f, k) of mean pooling, a
    `row` its bias. `difference` is the first array minus the second. `map_…` is a dense layer over
    a 7x7 map, `cell_…` one over a vector; both are convolutions here.
    """
    axes, convert = FORMS[form]
    if axes is not None and arrays[0].ndim != axes:
        raise ValueError(f"has {arrays[0].ndim} axes and must have {axes}")
    return convert(*arrays)
