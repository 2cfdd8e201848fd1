"""Every kind of file that is refused, and every detectable kind of damage."""

import contextlib
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data_pipelines.core.errors import DataError
from data_pipelines.decode import decode
from tests.data.test_decode import (
    GREY,
    JPEG,
    TRUE_COLOUR,
    bmp_of_size,
    chunk,
    gif_of_frame,
    gif_of_screen,
    png,
    saved,
    smooth,
)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_after_the_end_are_ignored(kind: str) -> None:
    data = saved(smooth(), kind)
    np.testing.assert_array_equal(decode(data + b"trailing junk"), decode(data))


def png_of_every_chunk() -> bytes:
    image = Image.new("P", (6, 5))
    image.putpalette(range(48))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "checked")
    return saved(image, transparency=0, pnginfo=text, icc_profile=b"any", dpi=(72, 72))


def test_every_flipped_bit_of_a_png_is_refused() -> None:
    data = png_of_every_chunk()
    assert all(name in data for name in (b"PLTE", b"tRNS", b"tEXt", b"iCCP", b"pHYs", b"IEND"))
    decode(data)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataError):
            decode(bytes(flipped))


def damaged(data: bytes) -> bytes:
    middle = len(data) * 3 // 4
    return data[:middle] + b"\xff\xd9" + data[middle:]


def padded(data: bytes) -> bytes:
    start = data.index(b"\xff\xda")
    return data[:start] + b"\0\0" + data[start:]


def animated(*frames: int) -> bytes:
    """Returns a PNG that gives its number of frames once for each argument."""
    extra = b"".join(chunk(b"acTL", struct.pack(">II", count, 0)) for count in frames)
    return png(1, 1, 8, GREY, b"\0\0", extra)


PROGRESSIVE = saved(smooth(), "JPEG", progressive=True)
INKS = saved(smooth().convert("CMYK"), "JPEG")
SAMPLED = saved(smooth().convert("CMYK"), "JPEG", subsampling=2)  # black as rarely as colours
REFUSED = {
    "empty": (b"", "it is empty"),
    "one byte": (b"x", "it is no image; JPEG, PNG, WebP, GIF, BMP are read"),
    "text": (b"<html>not found</html>", "it is no image; JPEG, PNG, WebP, GIF, BMP are read"),
    "TIFF": (saved(smooth(), "TIFF"), "it is a TIFF; JPEG, PNG, WebP, GIF, BMP are read"),
    "HEIC": (b"\0\0\0\x18ftypheic", "it is a HEIC; JPEG, PNG, WebP, GIF, BMP are read"),
    "WAV": (b"RIFF\0\0\0\0WAVEfmt ", "it is no image"),
    "WebP header only": (b"RIFF\0\0\0\0WEBPVP8 ", "cut off"),
    "BMP header only": (b"BM", "cut off"),
    "BMP of no width": (bmp_of_size(0, 5), "cut off"),
    "BMP of an odd header": (saved(smooth(), "BMP")[:14] + bytes(99), "cut off"),
    "GIF header only": (b"GIF89a", "cut off"),
    "GIF without a frame": (b"GIF89a" + bytes(7) + b";", "cut off"),
    "GIF of no width": (gif_of_screen(0, 0)[:-600], "cut off"),
    "GIF of comments": (gif_of_frame(1, 1, b"!\xfe\1a\0" * 33_000), "no frame follows its first"),
    "GIF of empty comments": (gif_of_frame(1, 1, b"!\xfe\0" * 33_000), "no frame follows its"),
    "BMP of runs": (
        saved(smooth().convert("P"), "BMP").replace(bytes([8, 0, 0, 0]), bytes([8, 0, 1, 0]), 1),
        "its pixels are run-length encoded; save it as PNG",
    ),
    "PNG of no frame": (animated(0), "it does not say how many frames it has"),
    "PNG of two numbers of frames": (animated(1, 1), "it does not say how many frames it has"),
    "JPEG half": (JPEG[: len(JPEG) // 2], "cut off"),
    "JPEG without its last tenth": (JPEG[: len(JPEG) * 9 // 10], "cut off"),
    "JPEG without its end": (JPEG[:-2], "cut off"),
    "JPEG that ends early inside": (damaged(JPEG), "cut off"),
    "JPEG start only": (JPEG[:3], "cut off"),
    "JPEG header only": (JPEG[:200], "cut off"),
    "JPEG and garbage": (JPEG[:3] + bytes(500), "cut off"),
    "JPEG with bytes between its parts": (padded(JPEG), "extraneous bytes"),
    "JPEG of inks that ends early inside": (damaged(INKS), "premature end of data segment"),
    "JPEG of inks with bytes between its parts": (padded(INKS), "extraneous bytes"),
    "JPEG of unusual sampling": (SAMPLED, "sampled in a way that is not read"),
    "progressive half": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "cut off"),
    "PNG half": (saved(smooth())[:2000], "cut off"),
    "PNG header only": (saved(smooth())[:33], "cut off"),
    "PNG start only": (saved(smooth())[:12], "cut off"),
    "PNG without its end": (saved(smooth())[:-12], "it ends before its IEND chunk"),
    "PNG with half its end": (saved(smooth())[:-1], "it ends before its IEND chunk"),
    "PNG with too few rows": (png(5, 5, 8, TRUE_COLOUR, b"\0"), "cut off"),
    "PNG of no width": (png(0, 5, 8, TRUE_COLOUR), "cut off"),
    "PNG of unknown kind": (png(5, 5, 8, 9), "cut off"),
    "PNG with a bomb of text": (
        png(1, 1, 8, GREY, b"\0\0", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27), 1))),
        "cut off",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_undecodable_file_is_refused_in_one_line(case: str) -> None:
    data, reason = REFUSED[case]
    with warnings.catch_warnings(action="error"), pytest.raises(DataError) as refusal:
        decode(data)
    assert reason in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_metadata_before_the_first_frame_are_passed_over() -> None:
    comments = b"!\xfe\3,;!\0\0" * 9_000
    gif = saved(smooth(20, 12), "GIF")
    frame = gif.index(b",\0\0\0\0\x14\0\x0c\0")
    np.testing.assert_array_equal(decode(gif[:frame] + comments + gif[frame:]), decode(gif))
    np.testing.assert_array_equal(decode(animated(1)), np.zeros((1, 1, 3)))


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP"])
def test_a_file_cut_anywhere_is_refused_or_lacks_only_its_end_mark(kind: str) -> None:
    data = saved(smooth(20, 12), kind)
    whole = decode(data)
    for length in range(len(data)):
        try:
            cut = decode(data[:length])
        except DataError:
            continue
        assert kind == "GIF" and length >= len(data) - 2  # after the last pixel
        np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP"])
def test_flipped_bits_are_decoded_or_refused(kind: str) -> None:
    data, rng = saved(smooth(20, 12), kind), np.random.default_rng(0)
    for position in (*range(60), *rng.integers(len(data), size=40)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with contextlib.suppress(DataError):
                assert decode(bytes(flipped)).dtype == np.uint8
