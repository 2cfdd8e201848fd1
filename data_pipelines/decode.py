"""Decodes the bytes of an image file into uint8 RGB pixels, or refuses them with a reason."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    WebPImagePlugin,
)

from data_pipelines.core.errors import DataError, first_line
from data_pipelines.photographs.exif import find_orientation, turn_upright

LARGEST_PX = 50_000_000
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif")
MOST_GIF_BLOCKS = 2**16  # before the first frame

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHER_FORMATS = {  # which bytes at which offset, to name what is not read
    "TIFF": (0, (b"II*\0", b"MM\0*")),
    "HEIC": (4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
    "PDF": (0, (b"%PDF",)),
}
_INK_SPACES = ("CMYK", "YCCK")  # colour spaces of a JPEG that stores inks
_PARSER_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError, LookupError, TypeError,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip


def _as_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return _as_rgb(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image))


def _high_byte(image: Image.Image) -> Image.Image:
    return _as_rgb(Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)))


DECISIONS: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "RGB": (_as_rgb, "as stored; a 16-bit channel gives its high byte; no colour profile"),
    "L": (_as_rgb, "grey, the same value in the three channels"),
    "1": (_as_rgb, "black is 0, white is 255"),
    "P": (_as_rgb, "the palette's colours"),
    "CMYK": (_as_rgb, "(1 - ink)(1 - black), inks stored inverted as Adobe does; no profile"),
    "I;16": (_high_byte, "16-bit grey: the high byte (scaled by 257, not clipped), opaque"),
    "LA": (_over_white, "laid over white"),
    "RGBA": (_over_white, "laid over white"),
    "transparency": (_over_white, "a transparent colour of a palette, grey or RGB: over white"),
}
"""Maps each storage of pixels (Pillow's mode) to its conversion to RGB and the reason.

The content decides, never the file's name. The formats of `FORMATS` are read, of an animation its
first frame; other formats, damaged or cut-off files and more than `LARGEST_PX` pixels are refused,
the last from the header alone. A JPEG is damaged where libjpeg warns, a PNG where any chunk's CRC
differs; the others have no checksum.
"""


def decode(data: bytes, *, upright: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the pixels by the table of `DECISIONS`, as they are stored.

    `upright` turns them by the EXIF orientation; annotations of MPII refer to the stored pixels.
    """
    try:
        image = _find_decoder(data)(data)
    except _PARSER_ERRORS as error:
        raise DataError(f"it is damaged or cut off ({first_line(error)})") from error
    return turn_upright(image, find_orientation(data)) if upright else image


def _find_decoder(data: bytes) -> Callable[[bytes], UInt8[np.ndarray, "h w 3"]]:
    for offset, start, decoder in FORMATS.values():
        if data.startswith(start, offset):
            return decoder
    kinds = (
        f"a {name}"
        for name, (offset, starts) in _OTHER_FORMATS.items()
        if data.startswith(starts, offset)
    )
    kind = next(kinds, "no image" if data else "empty")
    raise DataError(f"it is {kind}; {', '.join(FORMATS)} are read")


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a JPEG; simplejpeg is strict: it raises wherever libjpeg warns."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError) as error:  # KeyError: simplejpeg has no name for the sampling
        raise DataError(
            "its header is damaged or cut off, or its channels are sampled in a way that is not "
            f"read ({error}); save it again"
        ) from error
    size = int(width), int(height)
    _check_size(*size)
    if colours not in _INK_SPACES:
        return simplejpeg.decode_jpeg(data, "RGB")
    inverted = 255 - simplejpeg.decode_jpeg(data, "CMYK")
    return _to_rgb(Image.frombytes("CMYK", size, inverted.tobytes()), "CMYK")


def _decode_by(
    plugin: type[ImageFile.ImageFile], data: bytes, check: Callable[[bytes], None] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the first frame with Pillow; `check` refuses what Pillow would read and must not."""
    if check:
        check(data)
    image = plugin(io.BytesIO(data))  # Image.open would warn of a large image
    _check_size(*image.size)
    image.load()
    is_keyed = "transparency" in image.info and image.mode != "I;16"
    return _to_rgb(image, "transparency" if is_keyed else image.mode)


def _to_rgb(image: Image.Image, storage: str) -> UInt8[np.ndarray, "h w 3"]:
    if storage not in DECISIONS:
        raise DataError(f"its pixels are stored as {storage}; save it as RGB")
    to_rgb, _ = DECISIONS[storage]
    return np.array(to_rgb(image))


def _check_chunks(data: bytes) -> None:
    """Refuses a PNG without an end, with a wrong CRC or a number of frames that Pillow warns of."""
    view, start, name, is_animated = memoryview(data), len(_PNG), b"", False
    while name != b"IEND":
        end = start + 8 + int.from_bytes(view[start : start + 4])
        name = bytes(view[start + 4 : start + 8])
        if end + 4 > len(data):
            raise ValueError("it ends before its IEND chunk")
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise ValueError(f"wrong checksum of the chunk at byte {start}")
        if name == b"acTL":
            frames = int.from_bytes(view[start + 8 : start + 12])
            if is_animated or not 0 < frames < 2**31:
                raise ValueError("it does not say how many frames it has")
            is_animated = True
        start = end + 4


def _check_blocks(data: bytes) -> None:
    """Refuses a GIF whose first frame is too large, or follows more blocks than metadata need.

    Pillow warns of such a frame, and needs seconds for a million blocks.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, is_extension = 13 + (6 << (flags & 7) if flags & 0x80 else 0), False
    for _ in range(MOST_GIF_BLOCKS):
        if is_extension:
            is_extension, at = data[at] > 0, at + 1 + data[at]
        elif data[at] == ord(","):
            break
        else:
            is_extension = data[at] == ord("!")
            at += 1 + is_extension
    else:
        raise ValueError(f"no frame follows its first {MOST_GIF_BLOCKS:,} blocks")
    left, top, across, down = struct.unpack_from("<4H", data, at + 1)
    _check_size(max(width, left + across), max(height, top + down))


def _check_compression(data: bytes) -> None:
    """Refuses a BMP of runs: Pillow decodes them in Python, up to a minute for a small file."""
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes > 12 and struct.unpack_from("<I", data, 30)[0] in (1, 2):
        raise DataError("its pixels are run-length encoded; save it as PNG")


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST_PX:
        raise DataError(
            f"it has {width} x {height} pixels, more than {LARGEST_PX // 10**6} million; shrink it"
        )


FORMATS: dict[str, tuple[int, bytes, Callable[[bytes], UInt8[np.ndarray, "h w 3"]]]] = {
    "JPEG": (0, b"\xff\xd8\xff", _decode_jpeg),
    "PNG": (0, _PNG, partial(_decode_by, PngImagePlugin.PngImageFile, check=_check_chunks)),
    "WebP": (8, b"WEBP", partial(_decode_by, WebPImagePlugin.WebPImageFile)),
    "GIF": (0, b"GIF8", partial(_decode_by, GifImagePlugin.GifImageFile, check=_check_blocks)),
    "BMP": (0, b"BM", partial(_decode_by, BmpImagePlugin.BmpImageFile, check=_check_compression)),
}
"""Maps each format that is read to an offset, the bytes there, and the decoder."""
