"""Defines the entry of a data set, the stored record and the batch on the host."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int8, Int32, Int64, UInt8
from tensorflow_datasets import features

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import escape_control, quote

JOINTS = (
    "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle",
    "pelvis", "thorax", "upper neck", "head top",
    "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist",
)  # fmt: skip
MIRRORED_JOINTS = (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)
BONES = (
    (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9),
    (10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15),
)  # fmt: skip
VISIBILITIES = NOT_ANNOTATED, HIDDEN, VISIBLE = 0, 1, 2  # the third number of a keypoint

UNLABELLED = -1  # a missing single label; such an image trains with weight 0
# of a multi-label; the last: unknown, and no known label of the image names the class's object
LABEL_VALUES = POSITIVE, NEGATIVE, AMBIGUOUS, UNKNOWN, OBJECT_ABSENT = 1, 0, -1, -2, -3
MAX_POSITION_PX = 2**24  # above it float32 cannot represent every pixel
PADDING_ID = -1  # the id of a padding row

LabelKind = Literal["single", "multi"]
Keypoints = Float[np.ndarray, "people 16 3"]
Boxes = Float[np.ndarray, "people 4"]  # see core/boxes.py; zeros: no box
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside


@dataclasses.dataclass(frozen=True)
class Entry:
    """Describes one image by its data set's own files; the image itself is not read yet.

    `keypoints` are 0-based pixels of the decoded image (x, y, visibility); `label` is a class id,
    or one of LABEL_VALUES per class; `source_index` is the 1-based row in the source's own table, 0
    without one. `annotated_size_px` is the width and height that the joints' file states, if it
    does. With `box_px` the record holds this part of the image, encoded again.

    Of a video `frames` are the files of the frames to store, equally many for every video, of
    `source_frames` in all; `keypoints` are those of all frames in turn, equally many for each.

    `boxes` are those of the people of `keypoints`, in pixels as `People` has them; without them,
    those around the joints. `person_labels` are the people's class ids, UNLABELLED if unknown.
    """

    id: str
    path: Path
    label: int | tuple[int, ...] | Int8[np.ndarray, " k"]
    keypoints: Keypoints
    source_index: int = 0
    annotated_size_px: tuple[int, int] | None = None
    box_px: Box | None = None
    frames: tuple[Path, ...] = ()
    source_frames: int = 1
    boxes: Boxes | None = None
    person_labels: tuple[int, ...] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The image files of the record."""
        return self.frames or (self.path,)


class Reject(NamedTuple):
    """Names a listed image that cannot be used, and the reason."""

    split: str
    id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class RawSplit:
    """Holds the entries of one split, and how many images were listed, annotated and on disk."""

    listed: int
    annotated: int
    on_disk: int
    entries: list[Entry]


class DerivedVal(NamedTuple):
    """Asks for a split `val` out of `train`: this fraction of each class, drawn from the seed."""

    fraction: float
    seed: int


@dataclasses.dataclass(frozen=True)
class RawData:
    """Describes a whole data set by its own files; `provenance` goes into the manifest.

    `upright` images are turned by their EXIF orientation, and their joints refer to that. `notes`
    are lines for the summary. `frames` is above 1 for videos: the frames stored of each.
    """

    name: str
    label_kind: LabelKind
    classes: tuple[str, ...]
    splits: Mapping[str, RawSplit]
    rejects: list[Reject]
    provenance: Mapping[str, str | int | float | list[str]]
    upright: bool = False
    derived_val: DerivedVal | None = None
    notes: Sequence[str] = ()
    frames: int = 1

    def __post_init__(self) -> None:
        if fault := find_class_fault(self.classes):
            raise DataError(f"data set {self.name}: {fault}")


def find_class_fault(classes: Sequence[str]) -> str | None:
    """Returns the first fault in the class names, or None."""
    if not classes:
        return "it has no classes"
    for name, times in collections.Counter(classes).items():
        if times > 1:
            return f"class {quote(name)} is listed {times} times; give each its own name"
        if name != name.strip() or not name:
            return f"class {quote(name)} is empty or begins or ends with a blank; rename it"
        if name != escape_control(name):
            return f"class {quote(name)} holds a control character; rename it"
    return None


def find_box_fault(
    boxes: np.ndarray, person_labels: Sequence[int] | np.ndarray, people: int, classes: int
) -> str | None:
    """Returns the first fault of the boxes and labels of an image's people, or None."""
    if boxes.shape != (people, 4):
        return f"its boxes have shape {boxes.shape}, not ({people}, 4)"
    if not (np.abs(boxes) <= MAX_POSITION_PX).all():
        return f"a box is not finite or reaches beyond {MAX_POSITION_PX:,} pixels"
    if (boxes[:, 2:] < boxes[:, :2]).any():
        return "a box ends before it begins"
    labels = np.asarray(person_labels)
    if labels.shape != (people,):
        return f"its labels of people have shape {labels.shape}, not ({people},)"
    if ((labels < UNLABELLED) | (labels >= classes)).any():
        return f"a person's label is outside {UNLABELLED}..{classes - 1}"
    return None


def record_features(
    label_kind: LabelKind, classes: int, frames: int = 1, *, has_boxes: bool
) -> features.FeaturesDict:
    """Returns the TFDS features of a stored record: the image file's bytes and annotation.

    A record of a video holds the bytes of `frames` image files, and how many frames the video has.
    """
    integer = features.Scalar(np.int64)
    person = features.Tensor(shape=(len(JOINTS), 3), dtype=np.float32)
    multi_label = features.Tensor(shape=(classes,), dtype=np.int8)
    images = {"image": features.Image(shape=(None, None, 3), encoding_format="jpeg")}
    people = {
        "boxes": features.Sequence(features.Tensor(shape=(4,), dtype=np.float32)),
        "person_labels": features.Sequence(integer),
    }
    videos = {"frames": features.Sequence(features.Text()), "source_frames": integer}
    return features.FeaturesDict(
        {
            "id": features.Text(),
            **(images if frames == 1 else videos),
            "width_px": integer,
            "height_px": integer,
            "label": integer if label_kind == "single" else multi_label,
            "keypoints": features.Sequence(person),
            "source_index": integer,
            **(people if has_boxes else {}),
        }
    )


class People(NamedTuple):
    """Holds the people of a batch: a box, secondary regions and a class for each.

    Boxes are (left, top, right, bottom) in pixels of the crop, where pixel i spans i to i + 1; an
    absent person or region has zero area. `regions` are the secondary regions of each person;
    `label` is the class of each person, -1 if unknown.
    """

    boxes: Float[np.ndarray, "b people 4"]
    regions: Float[np.ndarray, "b people regions 4"]
    label: Int32[np.ndarray, "b people"]


class HostBatch(NamedTuple):
    """Holds a batch in host memory; the device normalises it and draws its heatmaps.

    `keypoints` are pixels of the crop (of the first view, if evaluation takes several), padded with
    people without joints; `disc_radius` is 5 % of the whole image's width, in pixels of the crop;
    `weight` is 0 for unlabelled and padding rows; `id` is the position in its split, -1 if padded.
    The axes of views are those of crops in evaluation, then of the frames of a clip. `people` is
    None where the run reads no boxes.
    """

    image: UInt8[np.ndarray, "b *views h w 3"] | Float[np.ndarray, "b *views h w f"]
    keypoints: Float[np.ndarray, "b people 16 3"]
    disc_radius: Float[np.ndarray, " b"]
    label: Int32[np.ndarray, " b"] | Int8[np.ndarray, "b k"]
    weight: Float[np.ndarray, " b"]
    id: Int64[np.ndarray, " b"]
    people: People | None = None
