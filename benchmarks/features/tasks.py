"""The training steps whose rows are measured, and what the processes of these rows exchange."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data_pipelines.config import DataConfig
from data_pipelines.feature_maps import FeatureMaps

HEAD_WEIGHTS = "head.npz"
SHORT_SIDE = 480 / 450  # of the crop's, as in the default recipe
Fields = dict[str, Any]  # of the model
HEADS: dict[str, tuple[Literal["attention", "gap"], Fields]] = {
    "attention": ("attention", {}),
    "gap": ("gap", {}),
    "attention without dropout": ("attention", {"dropout": 0.0}),
    "gap 256-128 without dropout": ("gap", {"dropout": 0.0, "T": 2, "widths": (256, 128)}),
}


@dataclasses.dataclass(frozen=True)
class HeadTask:
    """Training steps of a head on a frozen backbone's stored maps, or on the images."""

    data: Path = Path()  # prepared records
    head: str = "attention"
    on_maps: bool = True
    backbone: str = "resnet101"
    stage: int = 0
    px: int = 224
    batch: int = 16
    pinned: bool = True


class Stored(NamedTuple):
    """The stored maps of the training images, and the seconds for all images, read and written."""

    data: DataConfig
    maps: FeatureMaps
    dropout: float
    images: int
    cpu_s: float
    wall_s: float
