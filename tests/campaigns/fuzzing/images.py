"""Mutated images, and the damage in them that independent readers find.

binascii checks the chunks of a PNG; OpenCV's libjpeg, and djpeg if it is installed, print warnings
for a JPEG. WebP, GIF and BMP have no checksum.
"""

import binascii
import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from data_pipelines.decode import decode
from tests.campaigns.fuzzing.case import Case, Make, Rng
from tests.campaigns.fuzzing.image_files import JPEG_START, ORIGINALS, PNG_START, mutate


def make_case(kind: str, rng: Rng, folder: Path) -> Case:
    """Mutates an image of a kind; it is decoded as `data prepare folder` does."""
    del folder
    mutation, content = mutate(kind, rng)
    return Case(
        mutation,
        functools.partial(decode, content, upright=True),
        lambda _: find_damage(content),
    )


KINDS: dict[str, Make] = {kind: functools.partial(make_case, kind) for kind in ORIGINALS}


def find_damage(content: bytes) -> str:
    """Describes the damage that another reader finds in an image; empty if it finds none."""
    if content.startswith(PNG_START):
        return chunk_damage(content)
    if content.startswith(JPEG_START):
        with os.fdopen(os.dup(2), "r+b", buffering=0) as stderr:
            return libjpeg_warning(content, stderr)
    return ""


def chunk_damage(png: bytes) -> str:
    """Describes damage in the chunks of a PNG up to its end, by its specification."""
    rest = png.removeprefix(PNG_START)
    while rest:
        length = int.from_bytes(rest[:4], "big")
        checked, crc, rest = (
            rest[4 : 8 + length],
            rest[8 + length : 12 + length],
            rest[12 + length :],
        )
        if crc != binascii.crc32(checked).to_bytes(4, "big"):
            return f"wrong CRC of {checked[:4]!r}"
        if checked[:4] == b"IEND":
            return ""
    return "no IEND"


def libjpeg_warning(jpeg: bytes, stderr: IO[bytes]) -> str:
    """Returns the first warning of OpenCV's libjpeg or djpeg; `stderr` is the file behind 2."""
    stderr.truncate(0)
    stderr.seek(0)
    cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if djpeg := shutil.which("djpeg"):
        subprocess.run([djpeg], input=jpeg, stdout=subprocess.DEVNULL, check=False)
    stderr.seek(0)
    return stderr.read(400).decode("utf-8", "replace").partition("\n")[0]
