"""Groups of settings, which check their fields and are frozen by `resolved`.

No `from __future__ import annotations` where a group is defined: the command line reads the types.
"""

import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from data_pipelines.core.errors import ConfigError, nearest

Value = TypeVar("Value")
Group = TypeVar("Group", bound="Settings")


def setting(
    default: Value,
    help: str,
    *,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    above: float | int = -math.inf,
    choices: Sequence[str] = (),
) -> Value:
    """Declares a field with its help text and limits; a tuple's limits hold for each element.

    A type of `Literal` lists the choices itself; `choices` are those of a field of type str.
    """
    metadata = {"help": help, "low": low, "high": high, "above": above, "choices": tuple(choices)}
    return typing.cast(Value, dataclasses.field(default=default, metadata=metadata))


@dataclasses.dataclass
class Settings:
    """Holds a group of fields; it is mutable while flags are parsed and frozen by `resolved`."""

    group: typing.ClassVar[str]

    def __init_subclass__(cls, group: str) -> None:
        cls.group = group

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_field(f"{self.group}.{field.name}", field, getattr(self, field.name))

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise dataclasses.FrozenInstanceError(f"{self.group}.{name} is frozen")
        kind = {field.name: field.type for field in dataclasses.fields(self)}.get(name)
        if isinstance(kind, type) and issubclass(kind, Settings) and not isinstance(value, kind):
            kind = None  # the value is another group
        if kind is None:
            raise unknown_field(f"{self.group}.{name}".removeprefix("config."))
        super().__setattr__(name, value)

    def resolved(self: Group) -> Group:
        """Returns a frozen copy; the constructor checks its final values."""
        self.__post_init__()  # first, as a type-checked constructor raises errors of its own
        copy = type(self)(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        object.__setattr__(copy, "_frozen", True)
        return copy


def unknown_field(name: str) -> ConfigError:
    """Returns the error for an unknown field; it lists a group's fields or names the nearest."""
    known = [
        f"{each.group}.{field.name}"
        for each in Settings.__subclasses__()
        for field in dataclasses.fields(each)
        if field.metadata  # a field that holds a group has none
    ]
    members = [each for each in known if each.startswith(name + ".")]
    if members:
        return ConfigError(f"config.{name} is a group; its fields are {', '.join(members)}")
    leaf = name.rpartition(".")[2]
    same_leaf = [each for each in known if each.rpartition(".")[2] == leaf]
    hint = f"; did you mean {same_leaf[0]!r}?" if same_leaf else nearest(name, known)
    return ConfigError(f"config has no field {name!r}{hint or '; --help lists them all'}")


def list_choices(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Lists the values that a field takes; empty if it is no choice."""
    is_literal = typing.get_origin(field.type) is typing.Literal
    return typing.get_args(field.type) if is_literal else field.metadata["choices"]


def check_field(name: str, field: dataclasses.Field[Any], value: Any) -> None:
    """Refuses a value of the wrong type, not finite, out of range or not among the choices."""
    if typing.get_origin(field.type) is not tuple:
        _check_scalar(name, field, field.type, value)
        return
    kinds = typing.get_args(field.type)
    if not isinstance(value, tuple):
        raise ConfigError(f"{name}={value!r} is not a tuple; write it as '(1, 2)'")
    if Ellipsis in kinds:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{name}={value!r} has {len(value)} values; it takes {len(kinds)}")
    for index, (kind, element) in enumerate(zip(kinds, value, strict=True)):
        _check_scalar(f"{name}[{index}]", field, kind, element)


def _check_scalar(name: str, field: dataclasses.Field[Any], kind: Any, value: Any) -> None:
    choices = list_choices(field)
    kind = str if choices else kind
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name}={value!r} is not of type {kind.__name__}")
    if choices and value not in choices:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(choices)}")
    if isinstance(value, str) or kind is bool:
        return
    rules = field.metadata
    if not math.isfinite(value):
        raise ConfigError(f"{name}={value!r} is not a finite number")
    if value < rules["low"] or value > rules["high"] or value <= rules["above"]:
        bounds = {"above": "more than {:g}", "low": "{:g} or more", "high": "{:g} or less"}
        limits = [text.format(rules[k]) for k, text in bounds.items() if math.isfinite(rules[k])]
        raise ConfigError(f"{name}={value!r} is out of range; it takes {' and '.join(limits)}")
