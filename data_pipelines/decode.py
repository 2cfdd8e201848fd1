"""The bytes of an image file become uint8 RGB pixels, or a refusal that says why."""

import contextlib
import io
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from data_pipelines.errors import DataError

LARGEST_PX = 50_000_000

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_FOREIGN = (
    (b"GIF8", "a GIF"),
    (b"RIFF", "a WebP"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
)
_INKS = ("CMYK", "YCCK")  # a JPEG's colour spaces whose pixels are inks
_PARSER_ERRORS = (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")


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
"""How each way of storing pixels (Pillow's mode) becomes RGB, and why.

The content decides, never the file's name. JPEG (also progressive) and PNG are read; other
formats, damaged or cut-off files and more than `LARGEST_PX` pixels are refused, the last from the
header alone. A JPEG is damaged where libjpeg warns, a PNG where any chunk's CRC differs. EXIF
orientation is ignored, because annotations refer to the stored pixels.
"""


def measure(data: bytes) -> tuple[int, int]:
    """The (width, height) that the header states, refused where nothing could be decoded."""
    if data.startswith(_JPEG):
        width, height, _ = _read_jpeg_header(data)
        return width, height
    with _refusing_damage():
        return _affordable(*_open_png(data).size)


def decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels, by the table of `DECISIONS`."""
    if data.startswith(_JPEG):
        return _decode_jpeg(data)
    measure(data)
    with _refusing_damage():
        _check_chunks(data)
        image = _open_png(data)
        image.load()
        storage = image.mode
        if "transparency" in image.info and storage != "I;16":
            storage = "transparency"
        return _to_rgb(image, storage)


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a JPEG; simplejpeg is strict: it raises wherever libjpeg warns."""
    width, height, colours = _read_jpeg_header(data)
    with _refusing_damage():
        if colours not in _INKS:
            return simplejpeg.decode_jpeg(data, "RGB")
        inverted = 255 - simplejpeg.decode_jpeg(data, "CMYK")
        return _to_rgb(Image.frombytes("CMYK", (width, height), inverted.tobytes()), "CMYK")


def _read_jpeg_header(data: bytes) -> tuple[int, int, str]:
    """The (width, height, colour space) of a JPEG."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError) as error:  # KeyError: a sampling that has no name there
        raise DataError(
            "its header is damaged or cut off, or its channels are sampled in a way that is not "
            f"read ({error}); save it anew"
        ) from error
    return *_affordable(int(width), int(height)), colours


def _to_rgb(image: Image.Image, storage: str) -> UInt8[np.ndarray, "h w 3"]:
    if storage not in DECISIONS:
        raise DataError(f"its pixels are stored as {storage}; save it as RGB")
    to_rgb, _ = DECISIONS[storage]
    return np.array(to_rgb(image))


def _check_chunks(data: bytes) -> None:
    """Refuses a PNG without an end, or with a chunk whose CRC is wrong: Pillow skips most of it."""
    view, start, name = memoryview(data), len(_PNG), b""
    while name != b"IEND":
        end = start + 8 + int.from_bytes(view[start : start + 4])
        name = bytes(view[start + 4 : start + 8])
        if end + 4 > len(data):
            raise ValueError("it ends before its IEND chunk")
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise ValueError(f"wrong checksum of the chunk at byte {start}")
        start = end + 4


def _affordable(width: int, height: int) -> tuple[int, int]:
    if width * height > LARGEST_PX:
        raise DataError(
            f"it has {width} x {height} pixels, more than {LARGEST_PX // 10**6} million; shrink it"
        )
    return width, height


def _open_png(data: bytes) -> Image.Image:
    """Reads the header; `Image.open` would warn of large images before we can refuse them."""
    if data.startswith(_PNG):
        return PngImagePlugin.PngImageFile(io.BytesIO(data))
    if not data:
        raise DataError("it is empty")
    kind = next((name for start, name in _FOREIGN if data.startswith(start)), "no image")
    raise DataError(f"it is {kind}; JPEG and PNG are read")


@contextlib.contextmanager
def _refusing_damage() -> Iterator[None]:
    try:
        yield
    except _PARSER_ERRORS as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"it is damaged or cut off ({reason})") from error
