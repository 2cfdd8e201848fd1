"""Finds the people of images in a file of boxes or joints, and gives a network their boxes."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_pipelines.config import DataConfig
from data_pipelines.core.boxes import find_areas
from data_pipelines.core.errors import DataError
from data_pipelines.core.regions import fix_regions
from data_pipelines.datasets import joints
from data_pipelines.example import UNLABELLED, People
from data_pipelines.pictures.drawing import Picture
from gap_jax.prediction.sources import Refused, Source

Boxes = Float[np.ndarray, "b 4"]


def find_people(sources: Iterable[Source | Refused], path: Path) -> Iterator[Source | Refused]:
    """Yields each image once for each of its people in the file; one without any is refused.

    The file has COCO's form, as `gap_jax data joints` writes it. A person's box is `bbox`, or else
    that around the joints. An image of another size than the file states is refused.
    """
    listed = list(sources)
    names = [each.name for each in listed if isinstance(each, Source)]
    matched = joints.match(path, joints.read(path), names)
    for source in listed:
        if isinstance(source, Refused):
            yield source
            continue
        found = matched.get(source.name, joints.NOBODY)
        boxes = [] if found.boxes is None else found.boxes[find_areas(found.boxes) > 0].tolist()
        if not boxes:
            yield Refused(source.name, f"{path} has no person of it")
        load = functools.partial(_load, source, found.size_px)
        for number, box in enumerate(boxes, 1):
            yield dataclasses.replace(source, load=load, person=number, box=tuple(box))


def _load(source: Source, size_px: tuple[int, int] | None) -> Picture:
    """Reads an image whose boxes are for pixels of that width and height, if any are stated."""
    image = source.load()
    height_px, width_px = image.shape[:2]
    if size_px not in (None, (width_px, height_px)):
        raise DataError(
            f"its boxes are for {size_px[0]} x {size_px[1]} pixels and it has {width_px} x "
            f"{height_px}; annotate the upright image"
        )
    return image


def make_people(boxes: Boxes, data: DataConfig) -> People:
    """Makes one person for each image, with the secondary regions of evaluation."""
    exact = boxes.astype(np.float32)
    regions = fix_regions(exact, data.image_size_px, data.regions, data.region_iou)
    label = np.full((len(boxes), 1), UNLABELLED, np.int32)
    return People(exact[:, None], regions[:, None], label)
