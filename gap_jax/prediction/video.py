"""Reads frames of videos and photographs from a camera through OpenCV, as PNG files."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from data_pipelines.core.errors import DataError
from data_pipelines.core.files import is_file
from data_pipelines.decode import LARGEST_PX

CONTAINERS = {  # suffixes: FFmpeg's name of their format
    "mp4 m4v mov": "mov,mp4,m4a,3gp,3g2,mj2",
    "mkv webm": "matroska,webm",
    "avi": "avi",
    "mpg mpeg": "mpeg,mpegvideo",
    "wmv": "asf",
}
SUFFIXES = frozenset(" ".join(CONTAINERS).split())
DEFAULT_FPS = 25.0  # of a video that gives neither times nor a rate
WARM_UP_FRAMES = 5  # a camera sets its exposure
SIZE = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
QUICK = (cv2.IMWRITE_PNG_COMPRESSION, 1)

# without these a playlist in a file of such a name could read other files and addresses
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
    f"protocol_whitelist;file|format_whitelist;{','.join(CONTAINERS.values())}"
)
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # silent; OpenCV reads it once


def read_frames(path: str, every_s: float) -> Iterator[tuple[float, bytes]]:
    """Yields the time in seconds and the PNG of the first frame and of one every `every_s`."""
    if not is_file(Path(path), DataError):
        raise DataError("there is no such file")
    with _opened(path, cv2.CAP_FFMPEG) as capture:
        if not capture.isOpened():
            raise DataError("it is no video that OpenCV reads; convert it to MP4")
        _check_size(*map(capture.get, SIZE))
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1000 else DEFAULT_FPS
        index = taken = 0
        while capture.grab():
            at_s = max(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 0.0) or index / rate
            index += 1
            if at_s < taken * every_s:
                continue
            is_read, frame = capture.retrieve()
            if not is_read:
                break
            taken = int(at_s / every_s) + 1
            yield at_s, _encode(frame)
    if not taken:
        raise DataError("it holds no frame")


def photograph(camera: int) -> bytes:
    """Takes a photograph with a camera, as PNG."""
    with _opened(camera, cv2.CAP_ANY) as capture:
        _check_size(*map(capture.get, SIZE))
        frames = [capture.read() for _ in range(WARM_UP_FRAMES + 1)]
        is_read, frame = frames[-1]
        if not is_read:
            raise DataError("there is no such camera, or another program uses it")
        return _encode(frame)


@contextlib.contextmanager
def _opened(source: str | int, backend: int) -> Iterator[cv2.VideoCapture]:
    """Opens a video or a camera without OpenCV's own lines on stderr."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(source, backend)
    try:
        yield capture
    finally:
        capture.release()
        cv2.utils.logging.setLogLevel(level)


def _check_size(width: float, height: float) -> None:
    if width * height > LARGEST_PX:
        raise DataError(f"its frames have {width:.0f} x {height:.0f} pixels; shrink it")


def _encode(frame: cv2.typing.MatLike) -> bytes:
    return cv2.imencode(".png", frame, QUICK)[1].tobytes()
