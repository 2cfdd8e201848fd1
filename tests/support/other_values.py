"""For every field of a config a value that is not its default."""

import dataclasses
from typing import Any

from data_pipelines.core.settings import list_choices
from gap_jax.config import Config, fields

OTHER_VALUES: dict[str, Any] = {
    "data.area_range": (0.5, 1.0), "data.aspect_range": (1.0, 1.5), "data.image_size_px": 440,
    "data.region_iou": (0.3, 0.7), "model.region_widths": (64, 32),
    "model.widths": (8, 4, 2), "model.T": 2, "pose.hidden": (64,), "model.norm_group_size": 8,
    "optim.multipliers": ("backbone=0.1",), "optim.frozen": ("backbone",),
    "train.batch_size": 256, "train.accumulate": 4, "pose.kernel_size": 3,
}  # fmt: skip
COMPANIONS = {  # what a field needs to mean anything
    "model.final_relu": {"model__backbone": "vgg16"},
    "model.frames": {"pose__weight": 0.0},
    "model.temporal": {"model__frames": 2, "pose__weight": 0.0},
    "model.sketch_features": {"model__pooling": "compact_bilinear"},
    "model.sketch_normalisation": {"model__pooling": "compact_bilinear"},
    "data.regions": {"model__pooling": "rstarcnn"},
    **{
        f"model.region_{each}": {"model__pooling": "rcnn"}
        for each in ("pool", "channels", "widths")
    },
    **{
        f"model.{each}": {"model__regions": "people"}
        for each in ("region_grow", "region_side", "over_people")
    },
}


def other_value(name: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """The field's other value."""
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(value, bool):
        return not value
    if choices := list_choices(field):
        return next(each for each in choices if each != value)
    if isinstance(value, str):
        return value + "other"
    return value + 1 if value + 1 <= field.metadata["high"] else value / 2 + 0.01


LEAVES = {name: other_value(name, field, value) for name, field, value in fields(Config())}
