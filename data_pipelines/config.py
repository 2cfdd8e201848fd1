"""What a run may ask of its data, the mechanism every group of settings shares, the data sets.

No `from __future__ import annotations` here: the command line reads the fields' real types.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

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
    """A field with its help text and what its value must satisfy (each element, for a tuple)."""
    metadata = {"help": help, "low": low, "high": high, "above": above, "choices": tuple(choices)}
    return typing.cast(Value, dataclasses.field(default=default, metadata=metadata))


@dataclasses.dataclass
class Settings:
    """A group of fields that is mutable while flags are parsed and frozen once it is resolved."""

    group: typing.ClassVar[str]

    def __post_init__(self) -> None:
        self._check_fields()

    def _check_fields(self) -> None:
        for field in dataclasses.fields(self):
            check_field(f"{self.group}.{field.name}", field, getattr(self, field.name))

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise dataclasses.FrozenInstanceError(f"{self.group}.{name} is resolved")
        kind = {field.name: field.type for field in dataclasses.fields(self)}.get(name)
        fits = kind is not None
        if isinstance(kind, type) and issubclass(kind, Settings):
            fits = isinstance(value, kind)
        if not fits:
            raise unknown_field(f"{self.group}.{name}".removeprefix("config."))
        super().__setattr__(name, value)

    def resolved(self: Group) -> Group:
        """A frozen twin, rebuilt through the constructor so that its checks see final values."""
        self._check_fields()  # before a type-checked constructor can refuse in its own words
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        twin = type(self)(**values)
        object.__setattr__(twin, "_frozen", True)
        return twin


def unknown_field(name: str) -> ConfigError:
    """The refusal of a name that is no leaf of the config: it lists a group's fields, or hints."""
    known = [
        f"{each.group}.{field.name}"
        for each in Settings.__subclasses__()
        for field in dataclasses.fields(each)
        if field.metadata  # which a field that holds a group lacks
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
    if typing.get_origin(field.type) is tuple:
        _check_tuple(name, field, value)
    else:
        _check_scalar(name, field, field.type, value)


def _check_tuple(name: str, field: dataclasses.Field[Any], value: Any) -> None:
    kinds = typing.get_args(field.type)
    if not isinstance(value, tuple):
        raise ConfigError(f"{name}={value!r} is not a tuple; write it as '(1, 2)'")
    if Ellipsis in kinds:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{name}={value!r} has {len(value)} values; it takes {len(kinds)}")
    for place, (kind, element) in enumerate(zip(kinds, value, strict=True)):
        _check_scalar(f"{name}[{place}]", field, kind, element)


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
    bounds = []
    if math.isfinite(rules["above"]):
        bounds.append(f"more than {rules['above']:g}")
    if math.isfinite(rules["low"]):
        bounds.append(f"{rules['low']:g} or more")
    if math.isfinite(rules["high"]):
        bounds.append(f"{rules['high']:g} or less")
    return " and ".join(bounds)


DATASETS = ("mpii", "people", "objects")
Preprocessing = Literal["reference", "modern"]
CROPS = {"center": 1, "full": 1, "three": 3, "five": 5}  # squares of an image in evaluation


@dataclasses.dataclass
class DataConfig(Settings):
    """Which records are read, and what happens to an image on the host."""

    group: typing.ClassVar[str] = "data"

    name: str = setting("mpii", "data set that was prepared", choices=DATASETS)
    root: str = setting("", "folder of the prepared records; empty means data/NAME")
    train_split: str = setting("train", "split that trains")
    eval_split: str = setting("val", "split that is evaluated")
    cache: str = setting(
        "none", "ram keeps decoded images in memory (needs workers=0)", choices=("none", "ram")
    )
    workers: int = setting(0, "worker processes that decode; 0 decodes in threads", low=0, high=64)
    preprocessing: str = setting(
        "reference",
        "reference: limit width, resize, crop; modern: random-resized crop",
        choices=typing.get_args(Preprocessing),
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
                    f"data.{name}={(low, high)} runs backwards; set data.{name}=({high},{low})"
                )
        if self.cache == "ram" and self.workers:
            raise ConfigError(
                f"data.cache=ram with data.workers={self.workers} would keep a copy in every "
                "worker; set data.workers=0 or data.cache=none"
            )

    @property
    def eval_views(self) -> int:
        """The squares of an image that evaluation averages over."""
        return CROPS[self.eval_crops] * (2 if self.eval_flip else 1)

    @property
    def directory(self) -> Path:
        """The folder that holds the records and their manifest."""
        return Path(self.root or f"data/{self.name}")
