"""Finds the joints in all photographs of a folder and writes them as COCO keypoints."""

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, DataError, name_some
from data_pipelines.decode import decode
from data_pipelines.example import JOINTS, NOT_ANNOTATED
from data_pipelines.joints.detector import Landmarks
from data_pipelines.joints.landmarks import DERIVED, map_landmarks
from data_pipelines.photographs.examine import MAX_FILE_BYTES, PROGRESS_INTERVAL_S

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif")
IGNORED = ("__macosx",)  # folders of archives; names that begin with a dot are ignored too
DETECTOR_PX = 640  # of the longer side; the detector shrinks further itself


Find = Callable[[UInt8[np.ndarray, "h w 3"]], Landmarks | None]


class Refused(NamedTuple):
    """A file that could not be used, and the reason."""

    file_name: str
    reason: str


def detect(
    root: Path, out: Path, find: Find, *, detector: str, log: Callable[[str], None] = print
) -> None:
    """Writes the joints of one person in each photograph below `root` to the new file `out`.

    `find` returns the landmarks of a picture, and `detector` names it in `out`.
    Coordinates are pixels of the upright picture, by its EXIF orientation. Files that cannot be
    used are listed in `out` and end in a `DataError` after the joints of the others are written.
    """
    names = list_images(root)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refused: list[Refused] = []
    logged_at = time.monotonic()
    for done, name in enumerate(names):
        if time.monotonic() - logged_at > PROGRESS_INTERVAL_S:
            logged_at = time.monotonic()
            log(f"{done:,} of {len(names):,} images read, {len(annotations):,} with a person")
        try:
            picture = decode(_read(root / name), upright=True)
            landmarks = find(_shrink(picture))
        except DataError as error:
            refused.append(Refused(name, str(error)))
            log(f"left out {files.quote(name)}: {error}")
            continue
        height, width, _ = picture.shape
        number = len(images) + 1
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        if landmarks is not None:
            keypoints, scores = map_landmarks(landmarks, width, height)
            annotations.append(_annotate(number, keypoints, scores))
    files.write_atomically(out, _as_json(detector, images, annotations, refused))
    log(
        f"{out}: joints of one person in {len(annotations):,} of {len(names):,} images; other "
        "people in an image are left out"
    )
    if refused:
        named = name_some([f"{files.quote(each.file_name)}: {each.reason}" for each in refused])
        raise DataError(
            f"{len(refused):,} of {len(names):,} images cannot be used ({named}); {out} lists them "
            "and holds the joints of the others"
        )


def refuse_existing(out: Path) -> None:
    """Refuses an `out` that exists, before the work begins."""
    with files.writing(out):
        if os.path.lexists(out):
            raise CannotWrite(f"{out} exists already and stays untouched; choose another --out")


def list_images(root: Path) -> list[str]:
    """Lists the image files below a folder by their paths, sorted; follows no link to a folder."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}; name a folder that you may read"
        ) from error

    found = []
    for folder, below, names in os.walk(root, onerror=refuse):
        below[:] = sorted(each for each in below if not _is_hidden(each))
        inside = Path(folder).relative_to(root)
        found += [
            (inside / name).as_posix()
            for name in names
            if not _is_hidden(name) and name.lower().endswith(SUFFIXES)
        ]
    if not found:
        raise DataError(
            f"{root} holds no images, files named {' '.join(SUFFIXES)}; name the folder of yours"
        )
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError("it is no regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"it has {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"it cannot be read ({error.strerror})") from error


def _shrink(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    height, width, _ = picture.shape
    scale = DETECTOR_PX / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _annotate(
    number: int, keypoints: Float[np.ndarray, "16 3"], scores: Float[np.ndarray, " 16"]
) -> dict[str, Any]:
    there = keypoints[:, 2] != NOT_ANNOTATED
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "keypoints": [
            value
            for x, y, kind in keypoints
            for value in (round(float(x), 2), round(float(y), 2), int(kind))
        ],
        "num_keypoints": int(there.sum()),
        "score": round(float(scores[there].mean()) if there.any() else 0.0, 4),
        "keypoint_scores": [round(float(each), 4) for each in scores],
    }


def _as_json(
    detector: str,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    refused: list[Refused],
) -> str:
    content = {
        "info": {
            "description": "joints from a detector, one person an image, not checked by people",
            "detector": detector,
            "coordinates": "0-based pixels of the image turned upright by its EXIF orientation",
        },
        "categories": [{"id": 1, "name": "person", "keypoints": list(JOINTS)}],
        "derived": list(DERIVED),
        "images": images,
        "annotations": annotations,
        "refused": [each._asdict() for each in refused],
    }
    return json.dumps(content) + "\n"
