"""Makes image files of every kind that is read, and mutates them by a seed."""

import functools
import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from PIL import Image, PngImagePlugin

from tests.campaigns.fuzzing.case import Mutate, Rng, choose
from tests.campaigns.fuzzing.changes import BYTES, overwrite

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
WIDTH_PX, HEIGHT_PX = 97, 71
SIDES = (0, 1, 7, 255, 4096, 7071, 65535)  # written to headers


def picture() -> Image.Image:
    """Draws smooth colours with some noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.BICUBIC))
    return Image.fromarray((0.9 * smooth + rng.integers(0, 25, smooth.shape)).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encodes an image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(*, colour: bool) -> bytes:
    """Makes a PNG of 16 bits."""
    pixels = np.asarray(picture()).astype(np.uint16) * 257
    _, content = cv2.imencode(".png", pixels if colour else pixels[..., 0])
    return content.tobytes()


def described_png() -> bytes:
    """Makes a PNG with text, a resolution and a profile."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "some text")
    text.add_text("Long", "some text" * 99, zip=True)
    return saved(picture(), "PNG", pnginfo=text, dpi=(72, 72), icc_profile=b"profile")


def ycck(subsampling: str) -> bytes:
    """Makes a JPEG in YCCK colours."""
    inks = np.asarray(picture().convert("CMYK"))
    return simplejpeg.encode_jpeg(inks, colorspace="CMYK", colorsubsampling=subsampling)


def clear_edge() -> Image.Image:
    """Draws the picture with pixels that let half of the ground through."""
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


ANIMATED: dict[str, object] = {
    "save_all": True,
    "append_images": [picture().rotate(90), picture().rotate(180)],
    "duration": 9,
}
ORIGINALS: dict[str, Callable[[], bytes]] = {
    "JPEG baseline": lambda: saved(picture(), "JPEG"),
    "JPEG 4:4:4, optimised": lambda: saved(picture(), "JPEG", subsampling=0, optimize=True),
    "JPEG with restarts": lambda: saved(picture(), "JPEG", restart_marker_rows=1),
    "JPEG progressive": lambda: saved(picture(), "JPEG", progressive=True),
    "JPEG grey": lambda: saved(picture().convert("L"), "JPEG"),
    "JPEG CMYK": lambda: saved(picture().convert("CMYK"), "JPEG"),
    "JPEG CMYK, progressive": lambda: saved(picture().convert("CMYK"), "JPEG", progressive=True),
    "JPEG YCCK 4:2:0": lambda: ycck("420"),
    "PNG RGB": lambda: saved(picture(), "PNG"),
    "PNG RGB with text": described_png,
    "PNG RGB of 16 bits": lambda: deep_png(colour=True),
    "PNG RGBA": lambda: saved(picture().convert("RGBA"), "PNG"),
    "PNG grey": lambda: saved(picture().convert("L"), "PNG"),
    "PNG grey of 16 bits": lambda: deep_png(colour=False),
    "PNG grey, alpha": lambda: saved(picture().convert("LA"), "PNG"),
    "PNG of 1 bit": lambda: saved(picture().convert("1"), "PNG"),
    "PNG palette": lambda: saved(picture().convert("P"), "PNG"),
    "PNG palette, transparent": lambda: saved(picture().convert("P"), "PNG", transparency=3),
    "WebP": lambda: saved(picture(), "WEBP", exif=b"Exif\0\0any"),
    "WebP lossless": lambda: saved(picture(), "WEBP", lossless=True),
    "WebP RGBA": lambda: saved(clear_edge(), "WEBP"),
    "WebP animated": lambda: saved(picture(), "WEBP", **ANIMATED),
    "GIF": lambda: saved(picture(), "GIF", interlace=0, comment="some text" * 99),
    "GIF interlaced": lambda: saved(picture(), "GIF", interlace=1),
    "GIF transparent": lambda: saved(picture().convert("P"), "GIF", transparency=3),
    "GIF animated": lambda: saved(picture(), "GIF", **ANIMATED),
    "BMP RGB": lambda: saved(picture(), "BMP"),
    "BMP RGBA": lambda: saved(clear_edge(), "BMP"),
    "BMP palette": lambda: saved(picture().convert("P"), "BMP"),
    "BMP of 1 bit": lambda: saved(picture().convert("1"), "BMP"),
}


@functools.cache
def original(kind: str) -> bytes:
    """Returns the unchanged file of a kind."""
    return ORIGINALS[kind]()


def mutate(kind: str, rng: Rng) -> tuple[str, bytes]:
    """Mutates the file of a kind; returns the name of the mutation and the file."""
    name = choose(rng, list(MUTATIONS))
    return name, MUTATIONS[name](original(kind), rng)


def splice(data: bytes, rng: Rng) -> bytes:
    """Deletes, repeats or moves a chunk or segment, or takes one from another file."""
    start, *parts = split(data)
    others = [kind for kind in ORIGINALS if original(kind)[:4] == data[:4]]
    foreign = split(original(others[rng.integers(len(others))]))[1:]
    at, to = int(rng.integers(len(parts))), int(rng.integers(len(parts)))
    match rng.integers(4):
        case 0:
            del parts[at]
        case 1:
            parts.insert(to, parts[at])
        case 2:
            parts.insert(to, parts.pop(at))
        case _:
            parts[at] = foreign[rng.integers(len(foreign))]
    if data.startswith(b"RIFF"):
        start = start[:4] + struct.pack("<I", 4 + sum(map(len, parts))) + start[8:]
    return b"".join([start, *parts])


def edit_header(data: bytes, rng: Rng) -> bytes:
    """Changes a field in the header; corrects the CRC of a PNG."""
    if not data.startswith((PNG_START, JPEG_START)):
        return edit_fields(data, rng)
    start, *parts = split(data)
    at = next(i for i, part in enumerate(parts) if part[4:8] == b"IHDR" or _is_frame(part))
    header = bytearray(parts[at])
    is_png = data.startswith(PNG_START)
    first, form = (8, ">I") if is_png else (5, ">H")
    if rng.random() < 0.5:
        place = first + struct.calcsize(form) * int(rng.integers(2))
        struct.pack_into(form, header, place, SIDES[rng.integers(len(SIDES))])
    else:
        header[rng.integers(first, len(header) - (4 if is_png else 0))] = rng.integers(256)
    if is_png:
        header[-4:] = struct.pack(">I", zlib.crc32(header[4:-4]))
    return b"".join([start, *parts[:at], bytes(header), *parts[at + 1 :]])


def edit_fields(data: bytes, rng: Rng) -> bytes:
    """Overwrites a number of two or four bytes at the start of a WebP, GIF or BMP."""
    header, form = bytearray(data), ("<H", "<I")[rng.integers(2)]
    struct.pack_into(form, header, int(rng.integers(4, 60)), SIDES[rng.integers(len(SIDES))])
    return bytes(header)


def recheck(data: bytes, rng: Rng) -> bytes:
    """Changes bytes inside a chunk or segment; corrects the CRC of a PNG."""
    start, *parts = split(data)
    at = int(rng.integers(len(parts)))
    if not data.startswith(PNG_START):
        parts[at] = overwrite(parts[at], rng)[: len(parts[at])]
    elif len(parts[at]) > 12:
        body = overwrite(parts[at][8:-4], rng)[: len(parts[at]) - 12]
        parts[at] = png_chunk(parts[at][4:8], body)
    return b"".join([start, *parts])


MUTATIONS: dict[str, Mutate] = {
    **BYTES,
    "chunks spliced": splice,
    "header edited": edit_header,
    "inside a chunk": recheck,
}


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Returns a chunk with its length and CRC."""
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def split(data: bytes) -> list[bytes]:
    """Splits a valid file into its signature and its chunks, segments or blocks."""
    if data.startswith(b"RIFF"):
        return split_riff(data)
    if data.startswith(b"GIF"):
        return split_gif(data)
    if data.startswith(b"BM"):
        return [data[:2], data[2:14], data[14:54], data[54:]]
    if data.startswith(PNG_START):
        parts, rest = [PNG_START], data[len(PNG_START) :]
        while rest:
            end = 12 + int.from_bytes(rest[:4], "big")
            parts.append(rest[:end])
            rest = rest[end:]
        return parts
    parts, rest = [data[:2]], data[2:]
    while rest:
        end = _scan_end(rest) if rest[1] == 0xDA else 2 + int.from_bytes(rest[2:4], "big")
        end = 2 if rest[1] == 0xD9 else end
        parts.append(rest[:end])
        rest = rest[end:]
    return parts


def split_riff(data: bytes) -> list[bytes]:
    """Splits a WebP into its first twelve bytes and its chunks."""
    parts, at = [data[:12]], 12
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        parts.append(data[at : at + 8 + size + size % 2])
        at += len(parts[-1])
    return parts


def split_gif(data: bytes) -> list[bytes]:
    """Splits a GIF into its screen with the palette, its extensions and frames, and its end."""
    at = _palette_end(13, data[10])
    parts = [data[:at]]
    while data[at] != ord(";"):
        start, at = at, at + 2
        if data[start] == ord(","):
            at = _palette_end(start + 10, data[start + 9]) + 1
        while data[at]:
            at += 1 + data[at]
        at += 1
        parts.append(data[start:at])
    return [*parts, data[at:]]


def _palette_end(start: int, flags: int) -> int:
    return start + (6 << (flags & 7)) * (flags >> 7)


def _scan_end(rest: bytes) -> int:
    """Returns the end of the entropy-coded bytes after a start of scan, ignoring restarts."""
    at = 2 + int.from_bytes(rest[2:4], "big")
    while rest[at] != 0xFF or rest[at + 1] == 0 or 0xD0 <= rest[at + 1] <= 0xD7:
        at += 1
    return at


def _is_frame(part: bytes) -> bool:
    return part[0] == 0xFF and part[1] in (0xC0, 0xC1, 0xC2)
