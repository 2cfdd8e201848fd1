"""Finds the joints in all photographs of a folder and writes them as COCO keypoints."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, DataError, name_some
from data_pipelines.core.listing import walk
from data_pipelines.core.progress import Log, count_items
from data_pipelines.datasets.joints import DERIVED
from data_pipelines.decode import SUFFIXES, decode
from data_pipelines.example import JOINTS, NOT_ANNOTATED
from data_pipelines.joints.detector import Landmarks
from data_pipelines.joints.landmarks import map_landmarks
from data_pipelines.photographs.examine import read_file

DETECTOR_PX = 640  # of the longer side; the detector shrinks further itself


Find = Callable[[UInt8[np.ndarray, "h w 3"]], Landmarks | None]


def detect(root: Path, out: Path, find: Find, *, detector: str, log: Log = print) -> None:
    """Writes the joints of one person in each photograph below `root` to the new file `out`.

    `find` returns the landmarks of a picture, and `detector` names it in `out`.
    Coordinates are pixels of the upright picture, by its EXIF orientation. Files that cannot be
    used are listed in `out` and end in a `DataError` after the joints of the others are written.
    """
    names = list_images(root)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for done in count_items("joints", len(names), log):
        name = names[done]
        try:
            picture = decode(read_file(root / name), upright=True)
            landmarks = find(_shrink(picture))
        except DataError as error:
            refused.append({"file_name": name, "reason": str(error)})
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
        named = name_some(
            [f"{files.quote(each['file_name'])}: {each['reason']}" for each in refused]
        )
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
    """Lists the image files below a folder by their paths, sorted; a folder is read once."""
    files = (path for listing in walk(root, set()) for path in listing.files)
    found = [
        path.relative_to(root).as_posix() for path in files if path.name.lower().endswith(SUFFIXES)
    ]
    if not found:
        raise DataError(
            f"{root} holds no images, files named {' '.join(SUFFIXES)}; name the folder of yours"
        )
    return sorted(found)


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
    refused: list[dict[str, str]],
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
        "refused": refused,
    }
    return json.dumps(content) + "\n"
