"""The bytes of an image file become uint8 RGB pixels, or a refusal that says why."""

import contextlib
import io
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin, PngImagePlugin

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
_DIRECT = ("YCbCr", "Gray", "RGB")  # what simplejpeg turns into RGB exactly as Pillow does
_DAMAGE = ("premature end", "bad huffman code", "instead of rst")  # Pillow would fill in grey
_HEADER_ERRORS = (ValueError, KeyError)  # KeyError: a number of channels it has no name for
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
header alone. EXIF orientation is ignored, because annotations refer to the stored pixels.
"""


def measure(data: bytes) -> tuple[int, int]:
    """The (width, height) that the header states, refused where nothing could be decoded."""
    if data.startswith(_JPEG):
        with contextlib.suppress(*_HEADER_ERRORS):
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return _affordable(int(width), int(height))
    with _refusing_damage():
        return _affordable(*_open(data).size)


def decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels, by the table of `DECISIONS`."""
    measure(data)
    if data.startswith(_JPEG):
        try:
            if simplejpeg.decode_jpeg_header(data)[2] in _DIRECT:
                return simplejpeg.decode_jpeg(data, "RGB")
        except _HEADER_ERRORS as error:
            if any(sign in str(error).lower() for sign in _DAMAGE):
                raise DataError(f"it is damaged or cut off ({error})") from error
    with _refusing_damage():
        image = _open(data)
        image.load()
        storage = image.mode
        if "transparency" in image.info and storage != "I;16":
            storage = "transparency"
        if storage not in DECISIONS:
            raise DataError(f"its pixels are stored as {storage}; save it as RGB")
        to_rgb, _ = DECISIONS[storage]
        return np.array(to_rgb(image))


def _affordable(width: int, height: int) -> tuple[int, int]:
    if width * height > LARGEST_PX:
        raise DataError(
            f"it has {width} x {height} pixels, more than {LARGEST_PX // 10**6} million; shrink it"
        )
    return width, height


def _open(data: bytes) -> Image.Image:
    """Reads the header; `Image.open` would warn of large images before we can refuse them."""
    if data.startswith(_JPEG):
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
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
