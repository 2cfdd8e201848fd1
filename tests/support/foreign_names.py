"""Converts our arrays to another library's names and layouts: the inverse of a name map."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from gap_jax.weights.names.forms import NameMap

Array = Float[np.ndarray, "..."]


def rename(ours: Mapping[str, Array], names: NameMap) -> dict[str, Array]:
    """Converts the arrays that are in the map; the others are left out."""
    theirs: dict[str, Array] = {}
    for path, source in names.items():
        if path in ours:
            arrays = _lay_out(ours[path], source.form)
            theirs |= dict(zip(source.names, map(np.ascontiguousarray, arrays), strict=True))
    return theirs


def _lay_out(x: Array, form: str) -> tuple[Array, ...]:
    """Inverts `to_ours`; the second array of a `difference` has made-up values."""
    match form:
        case "same":
            return (x,)
        case "oihw":
            return (x.transpose(3, 2, 0, 1),)
        case "bgr":
            return (x[:, :, ::-1],)
        case "pointwise":
            return (x[None, None],)
        case "classifier_oi":
            return (x[0].T,)
        case "classifier_io" | "row":
            return (x[0],)
        case "classifier_pointwise":
            return (x[None],)
        case "map_io" | "cell_io":
            return (x.reshape(-1, x.shape[-1]),)
        case "map_oi" | "cell_oi":
            return (x.transpose(3, 2, 0, 1).reshape(x.shape[-1], -1),)
        case "difference":
            bias = np.cos(np.arange(x.size, dtype=x.dtype)).reshape(x.shape)
            return x + bias, bias
        case _:
            raise ValueError(form)
