"""Draws photo-like JPEGs of a given file size as a prepared data set."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from data_pipelines import manifest, records
from data_pipelines.example import JOINTS

LARGE_KILOBYTES = 350  # larger files are 1920 x 1080, smaller ones 1280 x 720
CLASSES = ("a", "b", "c")


def draw(rng: np.random.Generator, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Draws noise of every scale, weaker at finer scales as in photographs, and filled shapes."""
    image = np.full((height, width, 3), 128, np.float32)
    cells = 4
    while cells <= width:
        grid = rng.normal(0, 90 / cells**0.55, (cells * height // width + 1, cells, 3))
        image += cv2.resize(grid.astype(np.float32), (width, height))
        cells *= 2
    for _ in range(20):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(10, height // 4)), int(rng.integers(10, height // 4)))
        colour = tuple(int(each) for each in rng.integers(0, 256, 3))
        cv2.ellipse(image, centre, axes, int(rng.integers(180)), 0, 360, colour, -1)
    image += rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def encode(image: UInt8[np.ndarray, "h w 3"], kilobytes: int) -> bytes:
    """Encodes a JPEG with the quality that is closest to the wanted size."""
    tried: dict[int, bytes] = {}
    low, high = 20, 98
    while low <= high:
        quality = (low + high) // 2
        tried[quality] = simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="420")
        if len(tried[quality]) < kilobytes * 1000:
            low = quality + 1
        else:
            high = quality - 1
    return min(tried.values(), key=lambda data: abs(len(data) - kilobytes * 1000))


def prepare(
    folder: Path,
    kilobytes: int,
    images: int,
    copies: int = 1,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
) -> manifest.Manifest:
    """Writes a data set with one training split of photos, one annotated person in each.

    Labels are of the first classes.
    """
    drawn = list(_photos(kilobytes, images, seed))
    written = records.write(
        folder, "single", len(classes), {"train": drawn * copies}, has_boxes=False
    )
    tally = manifest.Tally(len(classes))
    for index in range(images * copies):
        tally.add(str(index), index % len(CLASSES), _person())
    described = manifest.Manifest(
        "objects", "single", tuple(classes), 1, {"train": tally.split(written["train"])},
        {"seed": seed}, format_version=1,
    )  # fmt: skip
    manifest.save(described, folder)
    return described


def _photos(kilobytes: int, images: int, seed: int) -> Iterator[records.Record]:
    width, height = (1920, 1080) if kilobytes >= LARGE_KILOBYTES else (1280, 720)
    for index in range(images):
        image = draw(np.random.default_rng([seed, kilobytes, index]), width, height)
        yield {
            "id": str(index),
            "image": encode(image, kilobytes),
            "width_px": width,
            "height_px": height,
            "label": index % len(CLASSES),
            "keypoints": _person(),
            "source_index": 0,
        }


def _person() -> np.ndarray:
    return np.full((1, len(JOINTS), 3), 2, np.float32)
