"""Finds the landmarks of a person with mediapipe; a script for the Python that has mediapipe.

Reads pictures from stdin, each a line of JSON with its height and width and then its RGB bytes;
writes a line for each to stdout: 33 landmarks (x, y, visibility), x and y as shares of the picture,
or null. Needs mediapipe and numpy alone, and runs on Python 3.9.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

import numpy as np


def main() -> None:
    """Answers until stdin ends; what native libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    mediapipe = importlib.import_module("mediapipe")  # no package of gap_jax's own environment
    pose = mediapipe.solutions.pose.Pose(static_image_mode=True)
    print(json.dumps(mediapipe.__version__), file=answers, flush=True)
    for line in sys.stdin.buffer:
        size = json.loads(line)
        height, width = size["height"], size["width"]
        pixels = np.frombuffer(sys.stdin.buffer.read(height * width * 3), np.uint8)
        found = pose.process(pixels.reshape(height, width, 3)).pose_landmarks
        rows = found and [[each.x, each.y, each.visibility] for each in found.landmark]
        print(json.dumps(rows), file=answers, flush=True)


if __name__ == "__main__":
    main()
