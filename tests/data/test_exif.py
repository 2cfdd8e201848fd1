"""EXIF orientations are applied exactly where asked, and damaged EXIF changes nothing."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipelines.decode import decode
from data_pipelines.photographs.exif import find_orientation
from tests.data.test_decode import chunk, saved, smooth

KINDS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}
ORIENTATIONS = range(1, 9)


def turned(orientation: int, kind: str = "JPEG", endian: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112], exif[0x0131] = "a maker", orientation, "a program"
    return saved(smooth(), kind, exif=exif, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_is_ignored_unless_upright(kind: str, orientation: int) -> None:
    data = turned(orientation, kind)
    stored = decode(saved(smooth(), kind, **KINDS[kind]))
    np.testing.assert_array_equal(decode(data), stored)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode(data, upright=True), np.asarray(upright))


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_both_byte_orders_are_read(endian: str, orientation: int) -> None:
    data = turned(orientation, endian=endian)
    assert (b"MM\0*" in data) == (endian == ">")
    assert find_orientation(data) == orientation


def test_files_without_exif_are_upright() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        assert find_orientation(saved(smooth(), kind)) == 1
    assert find_orientation(b"") == find_orientation(b"\xff\xd8") == 1


def tiff(*entries: tuple[int, int, int, int], count: int | None = None) -> bytes:
    """Returns an EXIF block of the given entries: tag, type, number of values, value."""
    body = b"".join(struct.pack("<HHIHxx", *entry) for entry in entries)
    return struct.pack("<4sIH", b"II*\0", 8, len(entries) if count is None else count) + body


@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        (tiff((0x0112, 3, 1, 6)), 6),
        (tiff((0x0112, 3, 1, 6), count=9), 6),
        (tiff((0x0111, 3, 1, 6), count=9), 1),
        (tiff((0x0112, 3, 1, 0)), 1),
        (tiff((0x0112, 3, 1, 9)), 1),
        (tiff((0x0112, 2, 1, 6)), 1),
        (b"II*\0\xff\xff\xff\xff", 1),
        (b"no TIFF at all", 1),
        (b"", 1),
    ],
)
def test_odd_exif_is_read_or_ignored(block: bytes, orientation: int) -> None:
    png = saved(smooth())
    assert find_orientation(png[:33] + chunk(b"eXIf", block) + png[33:]) == orientation
    assert find_orientation(saved(smooth(), "JPEG", exif=b"Exif\0\0" + block)) == orientation


def test_fill_bytes_before_a_marker_are_passed_over() -> None:
    jpeg = turned(6, "JPEG")
    filled = jpeg.replace(b"\xff\xe1", b"\xff\xff\xff\xe1", 1)
    assert decode(filled, upright=True).shape == decode(jpeg, upright=True).shape
    assert find_orientation(filled) == 6


@pytest.mark.parametrize("size", [2, 3])
def test_chunks_of_a_webp_before_exif_are_passed_over(size: int) -> None:
    webp = turned(6, "WEBP")
    at = webp.rindex(b"EXIF")
    other = b"XTRA" + struct.pack("<I", size) + bytes(size + size % 2)
    assert find_orientation(webp[:at] + other + webp[at:]) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_exif_neither_warns_nor_stops_the_search(kind: str) -> None:
    data, rng = turned(6, kind), np.random.default_rng(0)
    head = data[:200] if kind == "JPEG" else data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in range(len(head)):
            assert find_orientation(data[:length]) in (1, 6)
        for position in rng.integers(len(head), size=400):
            flipped = bytearray(data)
            flipped[position] ^= 1 << int(rng.integers(8))
            assert find_orientation(bytes(flipped)) in ORIENTATIONS
