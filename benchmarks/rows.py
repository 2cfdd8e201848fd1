"""Measures one row of the input table, in a separate process."""

import contextlib
import functools
import importlib
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import alternating
from data_pipelines import manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.decode import decode
from data_pipelines.loader import training_batches
from data_pipelines.transforms import View, augment, make_view

BATCH = 16
STORED = 64  # different photos
STRIDE = 37  # visits records in another order, like a shuffled epoch
IDLE_SECONDS = 0.25  # a process that uses less than a tenth of it waits for its consumer
PARTS = ("read", "decode", "crop", "decode + crop")
LOADERS = ("loader/0", "loader/2", "torch/0", "torch/2")


def reason_to_skip(row: str) -> str:
    """Returns the reason if a row cannot be measured here, else an empty text."""
    if row.startswith("torch") and importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    if row.endswith("/2") and not hasattr(os, "sched_setaffinity"):
        return "the CPU clocks of other processes need Linux"
    return ""


def serve(row: str, folder: Path, images: int, orders: Connection) -> None:
    """Prepares the row, then answers each True with its CPU ms per image, until a False."""
    alternating.pin()
    described = manifest.load(folder)
    name, _, workers = row.partition("/")
    data = DataConfig(root=str(folder), workers=int(workers or 0))
    with contextlib.ExitStack() as stack:
        if row in PARTS:
            source = records.open_split(folder, "train", described)
            work = functools.partial(loop, part(row, source, data))
        elif name == "torch":
            work = functools.partial(_take, _torch_batches(data, described))
        else:
            batches = training_batches(data, described, seed=0, batch_size=BATCH)
            work = functools.partial(_take, stack.enter_context(batches))
        work(2 * BATCH)
        while orders.recv():
            orders.send(work(images) / images * 1e3)


def part(row: str, source: records.RecordSource, data: DataConfig) -> Callable[[int], object]:
    """Returns a part of the work on an image; all but `read` have their input in memory."""
    stored = [source[index] for index in range(min(len(source), STORED))]
    decoded = [decode(each["image"]) for each in stored[:BATCH]]
    people = stored[0]["keypoints"]

    def crop(image: np.ndarray, index: int) -> View:
        return augment(make_view(image, people, data), data, np.random.default_rng([0, index]))

    work: dict[str, Callable[[int], object]] = {
        "read": lambda index: source[index * STRIDE % len(source)],
        "decode": lambda index: decode(stored[index % len(stored)]["image"]),
        "crop": lambda index: crop(decoded[index % BATCH], index),
        "decode + crop": lambda index: crop(decode(stored[index % len(stored)]["image"]), index),
    }
    return work[row]


def loop(part: Callable[[int], object], images: int) -> float:
    start = time.process_time()
    for index in range(images):
        part(index)
    return time.process_time() - start


def _take(batches: Iterator[Any], images: int) -> float:
    """Measures the CPU time between two idle moments with full buffers."""
    start = cpu_when_idle()
    for _ in range(images // BATCH):
        next(batches)
    return cpu_when_idle() - start


def cpu_when_idle() -> float:
    used = cpu_seconds()
    while True:
        time.sleep(IDLE_SECONDS)
        before, used = used, cpu_seconds()
        if used - before < IDLE_SECONDS / 10:
            return used


def cpu_seconds() -> float:
    children = (child.pid for child in multiprocessing.active_children())
    clocks = [(~pid << 3) | 2 for pid in children if pid]  # Linux: the CPU clock of a process
    return time.process_time() + sum(time.clock_gettime(clock) for clock in clocks)


class Photos:
    """The same reads, decodes and crops as an endless map for PyTorch."""

    def __init__(self, source: records.RecordSource, data: DataConfig) -> None:
        self._source = source
        self._data = data

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = index * STRIDE % len(self._source)
        record = self._source[position]
        view = make_view(decode(record["image"]), record["keypoints"], self._data)
        view = augment(view, self._data, np.random.default_rng([0, index]))
        return {
            "image": view.image,
            "keypoints": view.keypoints.astype(np.float32),
            "disc_radius": np.float32(view.disc_radius),
            "label": record["label"],
            "weight": np.float32(1),
            "id": position,
        }


def _torch_batches(data: DataConfig, described: manifest.Manifest) -> Iterator[Any]:
    """Returns PyTorch's batches, with its default collation."""
    photos = Photos(records.open_split(data.directory, "train", described), data)
    loading: Any = importlib.import_module("torch.utils.data")
    return iter(loading.DataLoader(photos, batch_size=BATCH, num_workers=data.workers))
