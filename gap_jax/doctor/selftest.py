"""Draws a few images, trains one step, saves, loads and evaluates it; runs in a child process.

Prints a line of JSON after each part: its name, its seconds, and its fault or "".
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from data_pipelines import manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.core.errors import DataError, describe
from data_pipelines.decode import decode
from data_pipelines.example import MIRRORED_JOINTS, NOT_ANNOTATED
from data_pipelines.transforms import View, evaluation_views

FEWEST_IMAGES = 8
FIELDS = (
    "data.image_size_px=32", "data.short_side_px=36", "data.cache=none", "model.stage=1",
    "pose.hidden=(6,)", "init.weights=", "init.allow_random=true",
    "optim.warmup_steps=0", "train.steps=1", "eval.every_steps=0",
)  # fmt: skip


class Part(NamedTuple):
    """One part of the self-test; `run` raises an exception if something is wrong."""

    name: str
    run: Callable[[], None]


class SelfTest:
    """The parts in their order; each uses what the ones before it left in `folder`.

    A batch has the same number of images on each of `devices`.
    """

    def __init__(self, folder: Path, devices: int = 1) -> None:
        self.images = devices * math.ceil(FEWEST_IMAGES / devices)
        self.data, self.run = folder / "data", folder / "run"
        self.scores: dict[str, object] = {}

    def parts(self) -> list[Part]:
        """Lists the parts in the order in which they run."""
        return [
            Part("draw people, write and decode records", self.draw),
            Part("mirror an image with its joints", self.mirror),
            Part("train one step and save it", self.train),
            Part("load the checkpoint and evaluate it", self.evaluate),
        ]

    def draw(self) -> None:
        """Prepares a few drawn people, and decodes them from their records."""
        from gap_jax.commands import data

        sizes = [f"--train={self.images}", f"--val={self.images}", "--test=0"]
        data.run(["prepare", "people", *sizes, "--out", str(self.data)])
        _require(all(view.image.any() for view in self._views("train")), "an image is empty")

    def mirror(self) -> None:
        """Checks that mirrored joints lie on the same pixels and change sides."""
        data = DataConfig(image_size_px=32, short_side_px=36, limit_width_px=0, eval_flip=True)
        for view in self._views("val"):
            plain, mirrored = evaluation_views(view, data)
            same = np.array_equal(mirrored.image, plain.image[:, ::-1])
            _require(same, "a mirrored image has other pixels")
            joints = plain.keypoints[:, MIRRORED_JOINTS]
            there = joints[..., 2] != NOT_ANNOTATED
            x = data.image_size_px - 1 - joints[..., 0]
            _require(np.allclose(mirrored.keypoints[there, 0], x[there]), "a joint left its pixel")

    def train(self) -> None:
        """Trains one step by the training loop, which evaluates and saves at its end."""
        from gap_jax.commands.api import train_config
        from gap_jax.flags import read_config

        own = (f"data.root={self.data}", f"train.batch_size={self.images}")
        own += (f"eval.batch_size={self.images}",)
        words = [f"--config.{each}" for each in (*FIELDS, *own)]
        self.scores = train_config(read_config("gap_pose:demo", words), self.run)

    def evaluate(self) -> None:
        """Compares the scores of the loaded checkpoint with those of the run."""
        from gap_jax.commands.api import evaluate_run

        found = evaluate_run(self.run, checkpoint="latest")
        differing = [name for name, value in self.scores.items() if found.get(name) != value]
        _require(not differing, f"the loaded model has other scores: {', '.join(differing)}")

    def _views(self, split: str) -> Iterator[View]:
        known = manifest.load(self.data)
        source = records.open_split(self.data, split, known)
        for index in range(len(source)):
            record = source[index]
            keypoints = np.asarray(record["keypoints"], np.float64)
            yield View(decode(record["image"]), keypoints, 0.0)


def _require(holds: object, fault: str) -> None:
    if not holds:
        raise DataError(fault)


def main(folder: str, devices: str) -> None:
    """Runs the parts up to the first one that fails; other output goes to stderr."""
    logging.set_verbosity(logging.WARNING)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for part in SelfTest(Path(folder), int(devices)).parts():
        start, fault = time.monotonic(), ""
        try:
            part.run()
        except Exception as error:  # a broken installation may raise anything
            fault = describe(error)[1].partition("; please report")[0]
        line = {"name": part.name, "seconds": time.monotonic() - start, "fault": fault}
        print(json.dumps(line), file=report, flush=True)
        if fault:
            break
    with contextlib.suppress(OSError):
        report.flush()
    os._exit(0)  # a broken driver may hang while Python shuts down


if __name__ == "__main__":
    main(*sys.argv[1:])
