"""Cuts the boxes of people out of their images, so that each becomes an image of its own."""

import dataclasses
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import writing
from data_pipelines.decode import decode
from data_pipelines.example import Box, Entry, RawData, Reject
from data_pipelines.photographs.examine import read_file

JPEG_QUALITY = 95


def cut_boxes(raw: RawData, folder: Path) -> RawData:
    """Writes the box of each entry that has one into `folder`; such an entry refers to that file.

    A damaged image, or a box without pixels, becomes a reject.
    """
    splits, rejects = {}, list(raw.rejects)
    for split, listed in raw.splits.items():
        entries = []
        for position, entry in enumerate(listed.entries):
            try:
                entries.append(_cut_entry(entry, raw, folder / f"{split}-{position}.jpg"))
            except DataError as error:
                rejects.append(Reject(split, entry.id, str(error)))
        splits[split] = dataclasses.replace(listed, entries=entries)
    return dataclasses.replace(raw, splits=splits, rejects=rejects)


def _cut_entry(entry: Entry, raw: RawData, target: Path) -> Entry:
    if entry.box_px is None:
        return entry
    part = cut(decode(read_file(entry.path), upright=raw.upright), entry.box_px)
    content = simplejpeg.encode_jpeg(part, quality=JPEG_QUALITY)
    with writing(target):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    corner = np.array((*np.maximum(entry.box_px[:2], 0), 0), np.float32)
    keypoints = entry.keypoints - corner
    return dataclasses.replace(entry, path=target, keypoints=keypoints, box_px=None, boxes=None)


def cut(image: UInt8[np.ndarray, "h w 3"], box: Box) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns the part of the box that lies in the image."""
    left, top, right, bottom = box
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not part.size:
        raise DataError(
            f"its box {left}, {top}, {right}, {bottom} holds no pixel of an image of "
            f"{image.shape[1]} x {image.shape[0]}"
        )
    return np.ascontiguousarray(part)
