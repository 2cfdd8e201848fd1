"""Defines the settings of the data, and the checked and frozen groups that all settings share.

No `from __future__ import annotations` here: the command line reads the types of the fields.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from data_pipelines.errors import ConfigError, nearest

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
    """Declares a field with its help text and limits; a tuple's limits hold for each element."""
    metadata = {"help": help, "low": low, "high": high, "above": above, "choices": tuple(choices)}
    return typing.cast(Value, dataclasses.field(default=default, metadata=metadata))


@dataclasses.dataclass
class Settings:
    """Holds a group of fields; it is mutable while flags are parsed and frozen by `resolved`."""

    group: typing.ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_field(f"{self.group}.{field.name}", field, getattr(self, field.name))

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise dataclasses.FrozenInstanceError(f"{self.group}.{name} is frozen")
        kind = {field.name: field.type for field in dataclasses.fields(self)}.get(name)
        is_other_group = (
            isinstance(kind, type) and issubclass(kind, Settings) and not isinstance(value, kind)
        )
        if kind is None or is_other_group:
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
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name}={value!r} is not of type {kind.__name__}")
    rules = field.metadata
    if rules["choices"] and value not in rules["choices"]:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(rules['choices'])}")
    if isinstance(value, str) or kind is bool:
        return
    if not math.isfinite(value):
        raise ConfigError(f"{name}={value!r} is not a finite number")
    if value < rules["low"] or value > rules["high"] or value <= rules["above"]:
        raise ConfigError(f"{name}={value!r} is out of range; it takes {_range(rules)}")


def _range(rules: Mapping[str, Any]) -> str:
    bounds = {"above": "more than {:g}", "low": "{:g} or more", "high": "{:g} or less"}
    finite = (text.format(rules[key]) for key, text in bounds.items() if math.isfinite(rules[key]))
    return " and ".join(finite)


DATASETS = ("mpii", "people", "objects")
CROPS = {"center": 1, "full": 1, "three": 3, "five": 5}  # crops of an image in evaluation


@dataclasses.dataclass
class DataConfig(Settings):
    """Selects the records and the preprocessing of images on the host."""

    group: typing.ClassVar[str] = "data"

    name: str = setting("mpii", "data set that was prepared", choices=DATASETS)
    root: str = setting("", "folder of the prepared records; empty means data/NAME")
    train_split: str = setting("train", "split to train on")
    eval_split: str = setting("val", "split to evaluate on")
    cache: str = setting(
        "none", "ram keeps decoded images in memory (needs workers=0)", choices=("none", "ram")
    )
    workers: int = setting(0, "worker processes that decode; 0 decodes in threads", low=0, high=64)
    preprocessing: str = setting(
        "reference",
        "reference: limit width, resize, crop; modern: random-resized crop",
        choices=("reference", "modern"),
    )
    image_size_px: int = setting(450, "side of the square crop a model sees", low=8, high=4096)
    limit_width_px: int = setting(
        512, "reference: wider images shrink to it first; 0 is off", low=0
    )
    short_side_px: int = setting(480, "shorter side before the crop (modern: in evaluation)", low=8)
    area_range: tuple[float, float] = setting(
        (0.35, 1.0), "modern: share of the image a random crop covers", above=0, high=1
    )
    aspect_range: tuple[float, float] = setting(
        (3 / 4, 4 / 3), "modern: width / height of a random crop before it is resized", above=0
    )
    resize: str = setting(
        "opencv",
        "opencv: bilinear between pixel centres; legacy: TF 1's between corners; antialias: "
        "bilinear over the area that shrinks",
        choices=("opencv", "legacy", "antialias"),
    )
    eval_crops: str = setting(
        "center",
        "evaluation sees the centre crop, the full image squeezed into a square, or the mean over "
        "three crops along the longer side or five",
        choices=tuple(CROPS),
    )
    eval_flip: bool = setting(False, "evaluation also sees every crop mirrored, and averages")
    flip: bool = setting(True, "mirror half of the training images")
    swap_on_flip: bool = setting(True, "a mirrored left wrist becomes a right one (AP: off)")
    brightness: float = setting(0.0, "factor drawn from 1 - x .. 1 + x", low=0, high=1)
    contrast: float = setting(0.0, "factor drawn from 1 - x .. 1 + x", low=0, high=1)
    saturation: float = setting(0.0, "factor drawn from 1 - x .. 1 + x", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.short_side_px < self.image_size_px:
            raise ConfigError(
                f"data.short_side_px={self.short_side_px} is smaller than "
                f"data.image_size_px={self.image_size_px}; set data.short_side_px="
                f"{self.image_size_px} or data.image_size_px={self.short_side_px}"
            )
        for name in ("area_range", "aspect_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(
                    f"data.{name}={(low, high)} is reversed; set data.{name}=({high},{low})"
                )
        if self.cache == "ram" and self.workers:
            raise ConfigError(
                f"data.cache=ram with data.workers={self.workers} keeps a copy in each worker; "
                "set data.workers=0 or data.cache=none"
            )

    @property
    def eval_views(self) -> int:
        """The number of views of an image that evaluation averages over."""
        return CROPS[self.eval_crops] * (2 if self.eval_flip else 1)

    @property
    def directory(self) -> Path:
        """The folder of the records and their manifest."""
        return Path(self.root or f"data/{self.name}")
