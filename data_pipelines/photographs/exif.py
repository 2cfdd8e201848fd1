"""Finds the EXIF orientation of a JPEG, PNG or WebP, and turns the decoded pixels upright.

Pillow reads it too, but warns of damaged EXIF through filters that all threads share.
"""

import struct

import numpy as np
from jaxtyping import UInt8

UPRIGHT = 1
_TURNS = {  # orientation: quarter turns against the clock, then mirrored or not
    1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True),
    5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False),
}  # fmt: skip
_ORIENTATION_TAG, _SHORT = 0x0112, 3
_ENTRY_BYTES = 12
_PREFIX = b"Exif\0\0"
_START_OF_SCAN, _APP1 = 0xDA, 0xE1


def find_orientation(data: bytes) -> int:
    """Returns the orientation, 1 to 8; 1 if the file has none or its EXIF is damaged."""
    try:
        return _read_orientation(_find_exif(data).removeprefix(_PREFIX))
    except (struct.error, IndexError):  # it ends early
        return UPRIGHT


def turn_upright(
    image: UInt8[np.ndarray, "h w 3"], orientation: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Turns and mirrors stored pixels exactly as the orientation says."""
    turns, is_mirrored = _TURNS[orientation]
    turned = np.rot90(image, turns)
    return np.ascontiguousarray(turned[:, ::-1] if is_mirrored else turned)


def _find_exif(data: bytes) -> bytes:
    """Returns the EXIF block of a file, empty if it has none."""
    if data.startswith(b"\xff\xd8"):
        return _find_in_jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _find_chunk(data, 8, b"eXIf", ">", 4)
    if data.startswith(b"RIFF"):
        return _find_chunk(data, 12, b"EXIF", "<", 0)
    return b""


def _find_in_jpeg(data: bytes) -> bytes:
    start = 2
    while data[start] == 0xFF and data[start + 1] != _START_OF_SCAN:
        if data[start + 1] == 0xFF:  # any number of them may precede a marker
            start += 1
            continue
        (length,) = struct.unpack_from(">H", data, start + 2)
        content = data[start + 4 : start + 2 + length]
        if data[start + 1] == _APP1 and content.startswith(_PREFIX):
            return content
        start += 2 + length
    return b""


def _find_chunk(data: bytes, start: int, wanted: bytes, endian: str, crc_bytes: int) -> bytes:
    """Finds a chunk: PNG's have a big-endian size before the name and a CRC, WebP's neither."""
    while start + 8 <= len(data):
        head, content = data[start : start + 8], start + 8
        name, size_at = (head[4:], 0) if crc_bytes else (head[:4], 4)
        (size,) = struct.unpack_from(f"{endian}I", head, size_at)
        if name == wanted:
            return data[content : content + size]
        start = content + size + (crc_bytes or size % 2)
    return b""


def _read_orientation(tiff: bytes) -> int:
    """Reads the tag in the first directory of a TIFF header."""
    endian = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if endian is None:
        return UPRIGHT
    (directory,) = struct.unpack_from(f"{endian}I", tiff, 4)
    (count,) = struct.unpack_from(f"{endian}H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + count * _ENTRY_BYTES, _ENTRY_BYTES):
        tag, kind, _, value = struct.unpack_from(f"{endian}HHIH", tiff, entry)
        if tag == _ORIENTATION_TAG:
            return value if kind == _SHORT and value in _TURNS else UPRIGHT
    return UPRIGHT
