"""Reads people's joints from OpenPose's JSON files, a file for each image or frame of a video.

Both forms hold the 18 keypoints of OpenPose's COCO model, each with x, y and a score: `bodies` with
`joints`, as the Attentional Pooling release has them, and `people` with `pose_keypoints_2d`. They
become MPII's joints as in that release: its `head top` is OpenPose's nose and its `upper neck` the
neck; pelvis and thorax are not annotated. A point with a number of 0 or less is not annotated.
"""

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.core.errors import DataError, name_some
from data_pipelines.example import JOINTS, VISIBLE, Keypoints

KEYPOINTS = 18
MAX_BYTES = 2**20
MAX_PEOPLE = 100
MAX_COORDINATE_PX = 1e5
SOURCES = {  # OpenPose's keypoint for each joint of MPII
    "head top": 0, "upper neck": 1,
    "right shoulder": 2, "right elbow": 3, "right wrist": 4,
    "left shoulder": 5, "left elbow": 6, "left wrist": 7,
    "right hip": 8, "right knee": 9, "right ankle": 10,
    "left hip": 11, "left knee": 12, "left ankle": 13,
}  # fmt: skip
FORMS = (("bodies", "joints"), ("people", "pose_keypoints_2d"), ("people", "pose_keypoints"))
_TO, _FROM = [JOINTS.index(name) for name in SOURCES], list(SOURCES.values())
NOBODY = np.zeros((0, len(JOINTS), 3), np.float32)


class JointFiles:
    """Finds the joints of images in ROOT/NAME/image_00001.json, as in the release.

    An image without a readable file has no people; `absent` and `unreadable` name those.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"--joints {root} is no folder; pass that of OpenPose's JSON files")
        self.absent: list[str] = []
        self.unreadable: list[str] = []
        self._root = root

    def find(self, name: str, number: int = 1) -> Keypoints:
        """Returns the people of a frame of a video, or of an image, which counts as frame 1."""
        path = self._root / name / f"image_{number:05}.json"
        try:
            return read(path)
        except FileNotFoundError:
            self.absent.append(str(path))
        except DataError as error:
            self.unreadable.append(f"{path}: {error}")
        return NOBODY

    def describe(self) -> list[str]:
        """Returns a line for the summary if files are absent or cannot be read."""
        return [
            f"joints: {len(names):,} images without people, as their file {what}: "
            f"{name_some(sorted(names))}"
            for what, names in (("is absent", self.absent), ("cannot be read", self.unreadable))
            if names
        ]


def read(path: Path) -> Keypoints:
    """Reads a file; a DataError gives the reason why it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise DataError(f"it is no file of at most {MAX_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("it is no JSON that can be read") from error
    people = [map_keypoints(each) for each in _list_people(content)]
    return np.stack(people) if people else NOBODY


def _list_people(content: Any) -> list[np.ndarray]:
    """Returns the keypoints of each person."""
    for outer, inner in FORMS:
        bodies = content.get(outer) if isinstance(content, dict) else None
        if not isinstance(bodies, list) or not all(
            isinstance(body, dict) and inner in body for body in bodies
        ):
            continue
        if len(bodies) > MAX_PEOPLE:
            raise DataError(f"it shows more than {MAX_PEOPLE} people")
        return [_read_points(body[inner]) for body in bodies]
    raise DataError("it holds neither bodies with joints nor people with pose_keypoints_2d")


def _read_points(numbers: Any) -> np.ndarray:
    try:
        points = np.array(numbers, np.float64).reshape(KEYPOINTS, 3)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"a person has no {KEYPOINTS} keypoints of x, y and a score") from error
    if not (np.abs(points) <= MAX_COORDINATE_PX).all():
        raise DataError("a keypoint is no pixel")
    return points


def map_keypoints(points: np.ndarray) -> np.ndarray:
    """Maps the 18 keypoints (x, y, score) of a person to MPII's joints (x, y, visibility)."""
    joints = np.zeros((len(JOINTS), 3), np.float32)
    found = points[_FROM]
    known = np.all(found > 0, axis=1)
    joints[_TO, :2] = np.where(known[:, None], found[:, :2], 0)
    joints[_TO, 2] = np.where(known, VISIBLE, 0)
    return joints
