"""Checks the arguments of layers; an error names the argument, its value and the choices."""

import typing
from numbers import Integral, Real
from typing import Any

from jaxtyping import Array, Float


def check_counts(*, least: int = 1, **counts: int) -> None:
    """Refuses a value that is not a whole number of `least` or more."""
    for name, value in counts.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number of {least} or more")


def check_dropout(dropout: float) -> None:
    """Refuses a share outside 0 <= dropout < 1."""
    if not (isinstance(dropout, Real) and 0 <= dropout < 1):
        raise ValueError(f"dropout={dropout!r} must be 0 or more and less than 1")


def check_choice(name: str, value: str, literal: Any) -> None:
    """Refuses a value that is not one of a `Literal`."""
    choices = typing.get_args(literal)
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}")


def check_channels(x: Float[Array, "*any c"], channels: int) -> None:
    """Refuses a map whose number of channels is not the layer's."""
    if x.shape[-1] != channels:
        raise ValueError(
            f"a map of shape {x.shape} has {x.shape[-1]} channels; the layer takes {channels}"
        )
