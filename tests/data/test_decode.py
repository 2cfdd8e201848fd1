"""Every row of the decoding table, and the limit on the number of pixels."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.decode import DECISIONS, LARGEST_PX, decode


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    checked = name + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png(
    width: int, height: int, bits: int, colour: int, rows: bytes = b"", extra: bytes = b""
) -> bytes:
    """Returns a PNG with the given header and rows, valid or not."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def smooth(width: int = 64, height: int = 48) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


RED, GREEN = (200, 30, 60), (10, 180, 90)
GREY, TRUE_COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6  # PNG's colour types


def two_pixels(mode: str) -> Image.Image:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    return image.convert(mode)


def palette(kind: str, **options: object) -> bytes:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    return saved(image, kind, **options)


def animation(kind: str, **options: object) -> bytes:
    """Returns two frames, of which the first is red."""
    first, second = (Image.new("RGB", (2, 1), colour) for colour in (RED, GREEN))
    return saved(first, kind, save_all=True, append_images=[second], duration=9, **options)


def half_clear() -> Image.Image:
    image = Image.new("RGBA", (2, 1), (*GREEN, 0))
    image.putpixel((0, 0), (*RED, 255))
    return image


def cmyk(*inks: int) -> bytes:
    return saved(Image.new("CMYK", (8, 8), inks), "JPEG", quality=100, subsampling=0)


def sixteen_bits(colour: int, *values: int) -> bytes:
    return png(1, 1, 16, colour, b"\0" + struct.pack(f">{len(values)}H", *values))


GOLDEN = {
    "RGB": (saved(two_pixels("RGB")), [RED, GREEN]),
    "RGB of 16 bits": (sixteen_bits(TRUE_COLOUR, 300, 30000, 65535), [(1, 117, 255)]),
    "L": (saved(Image.new("L", (1, 1), 77)), [(77, 77, 77)]),
    "L of 4 bits": (png(1, 1, 4, GREY, b"\0\x40"), [(68, 68, 68)]),
    "1": (png(2, 1, 1, GREY, b"\0\x40"), [(0, 0, 0), (255, 255, 255)]),
    "P": (palette("PNG"), [RED, GREEN]),
    "I;16": (sixteen_bits(GREY, 30000), [(117, 117, 117)]),
    "I;16 brightest": (sixteen_bits(GREY, 65535), [(255, 255, 255)]),
    "LA opaque": (png(1, 1, 8, GREY_ALPHA, bytes([0, 77, 255])), [(77, 77, 77)]),
    "LA clear": (png(1, 1, 8, GREY_ALPHA, bytes([0, 77, 0])), [(255, 255, 255)]),
    "RGBA opaque": (png(1, 1, 8, COLOUR_ALPHA, bytes([0, *RED, 255])), [RED]),
    "RGBA half": (png(1, 1, 8, COLOUR_ALPHA, bytes([0, 0, 0, 0, 128])), [(127, 127, 127)]),
    "RGBA clear": (png(1, 1, 8, COLOUR_ALPHA, bytes([0, *RED, 0])), [(255, 255, 255)]),
    "RGBA of 16 bits": (sixteen_bits(COLOUR_ALPHA, 0x4D4D, 0, 65535, 65535), [(77, 0, 255)]),
    "transparency of P": (saved(two_pixels("P"), transparency=0), None),
    "transparency of RGB": (saved(two_pixels("RGB"), transparency=RED), [(255,) * 3, GREEN]),
    "transparency of L": (
        png(2, 1, 8, GREY, bytes([0, 7, 9]), chunk(b"tRNS", b"\0\x07")),
        [(255, 255, 255), (9, 9, 9)],
    ),
    "transparency of 16-bit grey": (
        png(1, 1, 16, GREY, b"\0\x75\x30", chunk(b"tRNS", b"\x75\x30")),
        [(117, 117, 117)],
    ),
    "RGB of a WebP": (saved(two_pixels("RGB"), "WEBP", lossless=True), [RED, GREEN]),
    "RGBA of a WebP": (saved(half_clear(), "WEBP", lossless=True, exact=True), [RED, (255,) * 3]),
    "RGB of an animated WebP": (animation("WEBP", lossless=True), [RED, RED]),
    "P of a GIF": (palette("GIF"), [RED, GREEN]),
    "P of an animated GIF": (animation("GIF"), [RED, RED]),
    "L of a GIF": (saved(Image.new("L", (1, 1), 77), "GIF"), [(77, 77, 77)]),
    "transparency of a GIF": (palette("GIF", transparency=1), [RED, (255,) * 3]),
    "RGB of a BMP": (saved(two_pixels("RGB"), "BMP"), [RED, GREEN]),
    "RGBA of a BMP": (saved(half_clear(), "BMP"), None),
    "P of a BMP": (palette("BMP"), [RED, GREEN]),
    "L of a BMP": (saved(Image.new("L", (1, 1), 77), "BMP"), [(77, 77, 77)]),
    "1 of a BMP": (saved(Image.new("1", (2, 1), 1), "BMP"), [(255, 255, 255)] * 2),
    "CMYK no ink": (cmyk(0, 0, 0, 0), [(255, 255, 255)] * 64),
    "CMYK cyan": (cmyk(255, 0, 0, 0), [(0, 255, 255)] * 64),
    "CMYK black": (cmyk(0, 0, 0, 255), [(0, 0, 0)] * 64),
    "CMYK half": (cmyk(0, 102, 0, 51), [(204, 122, 204)] * 64),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_pixels_follow_the_decoding_table(case: str) -> None:
    data, expected = GOLDEN[case]
    image = decode(data)
    assert image.dtype == np.uint8
    if expected is not None:
        np.testing.assert_array_equal(image.reshape(-1, 3), expected)


def test_every_decision_has_its_golden_pixels() -> None:
    shown = {case.split()[0] for case in GOLDEN}
    assert set(DECISIONS) <= shown
    assert all(reason for _, reason in DECISIONS.values())


def test_palette_transparency_lies_over_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decode(saved(image, transparency=0))[0], [(255,) * 3, GREEN])


JPEGS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "no subsampling": {"subsampling": 0},
    "stored as RGB": {"keep_rgb": True},
    "with restarts": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("case", JPEGS)
def test_jpegs_decode_as_pillow_decodes_them(case: str) -> None:
    data = saved(smooth(), "JPEG", **JPEGS[case])
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


def test_a_grey_jpeg_has_three_equal_channels() -> None:
    data = saved(smooth().convert("L"), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5000, 2), (2, 5000), (65000, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_odd_sizes_decode(kind: str, width: int, height: int) -> None:
    width = min(width, 16383) if kind == "WEBP" else width  # its widest
    data = saved(Image.new("RGB", (width, height), RED), kind)
    assert decode(data).shape == (height, width, 3)
    assert np.abs(decode(data).astype(int) - RED).max() <= 2


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_inks_decode_as_pillow_decodes_them(subsampling: str) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (47, 61, 4), dtype=np.uint8)
    ycck = simplejpeg.encode_jpeg(inks, colorspace="CMYK", colorsubsampling=subsampling)
    for data in (ycck, saved(Image.fromarray(inks, "CMYK"), "JPEG")):
        expected = Image.open(io.BytesIO(data)).convert("RGB")
        np.testing.assert_array_equal(decode(data), np.asarray(expected))


JPEG = saved(smooth(), "JPEG")


def jpeg_with_header_size(width: int, height: int) -> bytes:
    size = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:size] + struct.pack(">HH", height, width) + JPEG[size + 4 :]


def webp_with_canvas(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    data = saved(smooth(), "WEBP", exif=b"Exif\0\0any")
    assert data[12:16] == b"VP8X"
    return data[:24] + sides + data[30:]


def gif_of_screen(width: int, height: int) -> bytes:
    data = saved(smooth(), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def gif_of_frame(width: int, height: int, before: bytes = b"") -> bytes:
    """Returns a GIF whose screen has one pixel and whose first frame has a size of its own."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x44\1\0;"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + before + frame


def bmp_of_size(width: int, height: int) -> bytes:
    data = saved(smooth(), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


BOMBS = {
    "PNG of 90 Mpx": png(9500, 9500, 8, TRUE_COLOUR, bytes(9500 * 9501)),
    "PNG of 4 Gpx": png(2**16, 2**16, 8, TRUE_COLOUR),
    "PNG just over": png(LARGEST_PX + 1, 1, 8, GREY),
    "JPEG of 90 Mpx": jpeg_with_header_size(9500, 9500),
    "JPEG of 4 Gpx": jpeg_with_header_size(65500, 65500),
    "GIF of 90 Mpx": gif_of_screen(9500, 9500),
    "GIF of 4 Gpx": gif_of_screen(65500, 65500),
    "GIF with a frame of 100 Mpx": gif_of_frame(10_000, 10_000, b"!\xfe\x03, !\0\0"),
    "BMP of 90 Mpx": bmp_of_size(9500, 9500),
    "BMP of 4 Gpx upside down": bmp_of_size(65500, -65500),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_refused_from_the_header_without_a_warning(case: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"pixels, more than 50 million; shrink it$"):
            decode(BOMBS[case])


@pytest.mark.parametrize("side", [9500, 2**16, 2**24])
def test_a_webp_whose_canvas_is_no_image_is_refused(side: int) -> None:
    with pytest.raises(DataError, match="it is damaged or cut off"):
        decode(webp_with_canvas(side, side))


@pytest.mark.slow
def test_bombs_take_no_memory() -> None:
    script = """
import resource, sys
from data_pipelines.decode import decode
from data_pipelines.core.errors import DataError
from tests.data.test_decode import BOMBS
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in BOMBS.values():
    try:
        decode(data)
    except DataError:
        continue
    sys.exit("a bomb was decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 * 1024


def test_pillow_still_refuses_truncated_files() -> None:
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
