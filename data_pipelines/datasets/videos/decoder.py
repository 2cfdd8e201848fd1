"""Writes frames of videos as JPEG files; a script that runs in a child process.

The first line that it writes is the name of the decoder: PyAV if it is installed, else OpenCV.
Then each line of stdin holds a path, a folder and a number of frames as JSON, and is answered by
one with the size and the number of all frames of the video, or with an error. The frames are
written into the folder, each under its number from 1 on.
"""

import importlib
import importlib.util
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from data_pipelines.core.errors import DataError, first_line
from data_pipelines.core.spread import spread_frames
from data_pipelines.datasets.child import set_limit

MEMORY_BYTES = 4 * 2**30
LARGEST_PX = 50_000_000
MOST_FRAMES = 200_000
MOST_MISSING = 0.1  # of the frames that the container states; some state one or two too many
JPEG_QUALITY = 95
FORMATS = "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegvideo"
NAME = "image_{:05}.jpg"
# without these a playlist in a video's file could read other files and addresses
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}


class PyAvVideo:
    """A video that PyAV reads; `stated` are the frames that its container states, 0 if unknown."""

    def __init__(self, path: str) -> None:
        av = importlib.import_module("av")
        self._container = av.open(path, options=OPEN_OPTIONS)
        if not self._container.streams.video:
            raise DataError("it holds no video")
        stream = self._container.streams.video[0]
        stream.thread_count = 1
        _check_size(stream.codec_context.width, stream.codec_context.height)
        self.stated = stream.frames
        self._frames: Iterator[Any] = self._container.decode(stream)
        self._frame: Any = None

    def skip(self) -> bool:
        """Goes to the next frame; returns False after the last one."""
        self._frame = next(self._frames, None)
        return self._frame is not None

    def encode(self) -> bytes:
        """Returns the frame as a JPEG."""
        _check_size(self._frame.width, self._frame.height)
        pixels = np.ascontiguousarray(self._frame.to_ndarray(format="rgb24"))
        return simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY)

    def close(self) -> None:
        self._container.close()


class OpenCvVideo:
    """A video that OpenCV reads; it has the interface of `PyAvVideo`."""

    def __init__(self, path: str) -> None:
        self._cv2 = importlib.import_module("cv2")  # reads its settings when it is imported
        self._capture = self._cv2.VideoCapture(path, self._cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise DataError("it is no video that OpenCV reads")
        size = self._cv2.CAP_PROP_FRAME_WIDTH, self._cv2.CAP_PROP_FRAME_HEIGHT
        _check_size(*map(self._capture.get, size))
        self.stated = round(max(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT), 0))

    def skip(self) -> bool:
        return self._capture.grab()

    def encode(self) -> bytes:
        is_read, pixels = self._capture.retrieve()
        if not is_read:
            raise DataError("a frame cannot be decoded")
        _check_size(pixels.shape[1], pixels.shape[0])
        return simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace="BGR")

    def close(self) -> None:
        self._capture.release()


Open = Callable[[str], PyAvVideo | OpenCvVideo]
DECODERS: dict[str, tuple[str, Open]] = {"PyAV": ("av", PyAvVideo), "OpenCV": ("cv2", OpenCvVideo)}


def _check_size(width: float, height: float) -> None:
    if not 0 < width * height <= LARGEST_PX:
        raise DataError(f"its frames have {width:.0f} x {height:.0f} pixels")


def extract(open_video: Open, path: str, folder: Path, count: int) -> int:
    """Writes `count` frames, spread evenly, into the folder; returns the number of all frames."""
    with closing(open_video(path)) as video:
        total, stated = 0, video.stated
        while video.skip():
            total += 1
            if total > MOST_FRAMES:
                raise DataError(f"it has more than {MOST_FRAMES:,} frames")
    if not total:
        raise DataError("it holds no frame")
    if stated - total > max(2, MOST_MISSING * stated):
        raise DataError(f"it is cut off: {total:,} of {stated:,} frames can be decoded")
    wanted = set(spread_frames(count, total))
    with closing(open_video(path)) as video:
        for index in range(max(wanted) + 1):
            if not video.skip():
                raise DataError(f"it gave {index:,} frames, and {total:,} before")
            if index in wanted:
                (folder / NAME.format(index + 1)).write_bytes(video.encode())
    return total


def answer(open_video: Open, request: dict[str, Any]) -> dict[str, Any]:
    """Answers a request by the number of frames, or by the reason why there are none."""
    try:
        folder = Path(request["folder"])
        return {"frames": extract(open_video, request["path"], folder, request["count"])}
    except OSError as error:
        if "av." in type(error).__module__:
            return {"error": f"it is damaged or no video ({first_line(error)})"}
        return {"error": "", "errno": error.errno or 0, "reason": first_line(error)}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as error:  # the decoders raise many types
        reason = str(error) if isinstance(error, DataError) else f"damaged ({first_line(error)})"
        return {"error": reason}


def main(wanted: str) -> None:
    """Answers until stdin ends; what native libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    set_limit(resource.RLIMIT_CORE, 0)
    set_limit(resource.RLIMIT_AS, MEMORY_BYTES)
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "|".join(
        f"{name};{value}" for name, value in OPEN_OPTIONS.items()
    )
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    os.environ["OPENCV_FFMPEG_THREADS"] = "1"
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
    is_there = importlib.util.find_spec("av") is not None
    name = wanted or ("PyAV" if is_there else "OpenCV")
    package, open_video = DECODERS[name]
    version = importlib.import_module(package).__version__
    print(json.dumps(f"{name} {version}"), file=answers, flush=True)
    for line in sys.stdin.buffer:
        print(json.dumps(answer(open_video, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
