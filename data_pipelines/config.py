"""Defines the settings of the data."""

import dataclasses
from pathlib import Path
from typing import Literal

from data_pipelines.core.errors import ConfigError
from data_pipelines.core.settings import Settings, setting

OWN_PHOTOS = ("folder", "csv")  # either is a data set of one's own photographs
VIDEOS = ("hmdb51",)  # data sets whose records hold frames of videos
DATASETS = (
    "mpii", "people", "objects", "crowd", "hico", "stanford40", "voc_action", *OWN_PHOTOS, *VIDEOS
)  # fmt: skip
TRAINVAL = "trainval"  # train, then val, of data that store no such split
RANDOM_VIEWS = 4  # that a refusal proposes
CROPS = {"center": 1, "full": 1, "three": 3, "five": 5}  # crops of an image in evaluation


@dataclasses.dataclass
class DataConfig(Settings, group="data"):
    """Selects the records and the preprocessing of images on the host."""

    name: str = setting("mpii", "data set that was prepared", choices=DATASETS)
    root: str = setting("", "folder of the prepared records; empty means data/NAME")
    train_split: str = setting(
        "train", "split to train on; trainval is train and val of any data set that has both"
    )
    eval_split: str = setting("val", "split to evaluate on")
    held_out: float = setting(
        0.0,
        "share of train_split, drawn at random by position, that is evaluated and not trained on, "
        "instead of eval_split; chooses settings without touching that",
        low=0,
        high=0.5,
    )
    cache: Literal["none", "ram", "features"] = setting(
        "none",
        "ram keeps decoded images in memory, features the maps of a frozen backbone on disk; both "
        "need workers=0",
    )
    feature_views: int = setting(
        2,
        "stored views of a training image: the centre crop, its mirror image (flip), then random "
        "crops",
        low=1,
        high=1000,
    )
    feature_dtype: Literal["float16", "bfloat16", "float32"] = setting(
        "float16", "type of the stored maps"
    )
    workers: int = setting(0, "worker processes that decode; 0 decodes in threads", low=0, high=64)
    preprocessing: Literal["reference", "modern"] = setting(
        "reference", "reference: limit width, resize, crop; modern: random-resized crop"
    )
    image_size_px: int = setting(450, "side of the square crop a model sees", low=8, high=4096)
    limit_width_px: int = setting(512, "reference: wider images shrink to it; 0 is off", low=0)
    short_side_px: int = setting(480, "shorter side before the crop (modern: in evaluation)", low=8)
    area_range: tuple[float, float] = setting(
        (0.35, 1.0), "modern: share of the image a random crop covers", above=0, high=1
    )
    aspect_range: tuple[float, float] = setting(
        (3 / 4, 4 / 3), "modern: width / height of a random crop before it is resized", above=0
    )
    resize: Literal["opencv", "legacy", "antialias"] = setting(
        "opencv",
        "opencv: bilinear between pixel centres; legacy: TF 1's between corners; antialias: "
        "bilinear over the area that shrinks",
    )
    eval_crops: str = setting(
        "center",
        "evaluation sees the centre crop, the full image squeezed into a square, or the mean over "
        "three crops along the longer side or five",
        choices=tuple(CROPS),
    )
    eval_flip: bool = setting(False, "evaluation also sees every crop mirrored, and averages")
    eval_frames: int = setting(
        25,
        "videos: evaluation averages the logits of so many frames, spread evenly (a clip of "
        "model.frames has its own)",
        low=1,
        high=100,
    )
    regions: int = setting(
        0,
        "models that read boxes: secondary regions drawn for each person (R*CNN trains with 10); 0 "
        "draws none",
        low=0,
        high=1000,
    )
    region_iou: tuple[float, float] = setting(
        (0.2, 0.75), "intersection over union of a secondary region and its person", above=0, high=1
    )
    flip: bool = setting(True, "mirror half of the training images")
    swap_on_flip: bool = setting(True, "a mirrored left wrist becomes a right one (AP: off)")
    brightness: float = setting(0.0, "factor drawn from 1 - x .. 1 + x", low=0, high=1)
    contrast: float = setting(0.0, "factor drawn from 1 - x .. 1 + x", low=0, high=1)
    saturation: float = setting(0.0, "factor drawn from 1 - x .. 1 + x", low=0, high=1)
    erasing: float = setting(
        0.0, "share of training images in which a random rectangle becomes noise", low=0, high=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.short_side_px < self.image_size_px:
            raise ConfigError(
                f"data.short_side_px={self.short_side_px} is smaller than "
                f"data.image_size_px={self.image_size_px}; set data.short_side_px="
                f"{self.image_size_px} or data.image_size_px={self.short_side_px}"
            )
        for name in ("area_range", "aspect_range", "region_iou"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(
                    f"data.{name}={(low, high)} is reversed; set data.{name}=({high},{low})"
                )
        if self.cache != "none" and self.workers:
            raise ConfigError(
                f"data.cache={self.cache} with data.workers={self.workers} keeps a copy in each "
                "worker; set data.workers=0 or data.cache=none"
            )
        if self.cache == "features":
            self._check_feature_views()

    def _check_feature_views(self) -> None:
        """Refuses random changes of an image that no stored view would show."""
        if self.random_views:
            return
        asked = [f"data.preprocessing={self.preprocessing}"] * (self.preprocessing == "modern")
        asked += [
            f"data.{name}={value:g}"
            for name in ("brightness", "contrast", "saturation", "erasing")
            if (value := getattr(self, name))
        ]
        if asked:
            raise ConfigError(
                f"{asked[0]} changes images at random, and data.feature_views="
                f"{self.feature_views} stores no random crop; set data.feature_views="
                f"{self.feature_views + RANDOM_VIEWS} for {RANDOM_VIEWS} of them"
            )

    @property
    def eval_views(self) -> int:
        return CROPS[self.eval_crops] * (2 if self.eval_flip else 1)

    @property
    def random_views(self) -> int:
        """The random crops among the stored views of a training image."""
        return max(0, self.feature_views - (2 if self.flip else 1))

    @property
    def evaluated_split(self) -> str:
        """The split that holds the evaluated images; with `held_out` they are a part of it."""
        return self.train_split if self.held_out else self.eval_split

    @property
    def scored_split(self) -> str:
        """The name of the evaluated images: a split, or the held-out part of the training split."""
        return f"{self.train_split}-held_out" if self.held_out else self.eval_split

    @property
    def scores_trained(self) -> bool:
        """Tells whether evaluated images are among those that are trained on."""
        pair = {self.train_split, self.eval_split}
        is_part = TRAINVAL in pair and pair <= {TRAINVAL, "train", "val"}
        return not self.held_out and (len(pair) == 1 or is_part)

    def count_held_out(self, stored: int) -> int:
        """Returns how many of the `stored` images of the training split are held out."""
        return round(self.held_out * stored)

    def count_trained(self, stored: int) -> int:
        """Returns how many of the `stored` images of the training split are trained on."""
        return stored - self.count_held_out(stored)

    @property
    def directory(self) -> Path:
        """The folder of the records and their manifest."""
        return Path(self.root or f"data/{self.name}")
