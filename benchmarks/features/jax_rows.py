"""Our rows: the extraction of maps, and training steps on maps or images."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from benchmarks import jax_side
from benchmarks.alternating import pin
from benchmarks.features.tasks import HEAD_WEIGHTS, HEADS, SHORT_SIDE, HeadTask, Stored
from benchmarks.sides import WEIGHTS, Task, clock, draw_batch
from data_pipelines import loader, manifest
from gap_jax.batch import Batch
from gap_jax.config import Config
from gap_jax.learning.setup import assemble
from gap_jax.learning.sharding import globalise
from gap_jax.runtime.digests import copy_to_host
from gap_jax.runtime.extraction import store_maps
from gap_jax.runtime.extractor import Extractor
from gap_jax.runtime.processes.group import ALONE
from gap_jax.weights.native import name_arrays, replace_arrays

COLOURS = "torchvision"  # pixels near 1, and so are the maps; larger ones make the steps diverge
SMALL = 0.1  # factor of the head's last weights


def build_extraction(task: Task, folder: Path) -> "Extraction":
    """Builds the extraction of a task."""
    if task.pinned:
        pin()
    return Extraction(task, folder)


def build_head(task: HeadTask, folder: Path) -> "HeadSteps":
    """Builds the training steps of a task."""
    if task.pinned:
        pin()
    return HeadSteps(task, folder)


class Extraction:
    """The extraction of one batch of images, to the host."""

    def __init__(self, task: Task, folder: Path) -> None:
        self._task, self._folder = task, folder
        self.setup = jax_side.set_up(task)
        self.variables = jax_side.draw_variables(self.setup.target.variables)
        self._images, _ = draw_batch(task)
        self._extractor = Extractor(
            self.setup, copy_to_host(self.variables), ALONE, print, lambda: False
        )

    def save_weights(self) -> None:
        """Writes the variables under PyTorch's names for the other rows."""
        arrays = jax_side.convert(self.variables, self._task.backbone)
        np.savez(self._folder / WEIGHTS, allow_pickle=False, **arrays)

    def prepare(self) -> dict[str, Any]:
        """Compiles the extraction."""
        start = time.perf_counter()
        self._run(1)
        return {"compile_s": time.perf_counter() - start}

    def maps(self) -> Float[np.ndarray, "b h w f"]:
        """Returns the maps of the batch."""
        return np.asarray(self._extractor.extract(self._images))

    def time(self, batches: int) -> dict[str, float]:
        """Returns the seconds of a batch."""
        return clock(self._run, batches)

    def _run(self, batches: int) -> None:
        for _ in range(batches):
            self.maps()


def configure(task: HeadTask) -> Config:
    """Returns the config of a task: the paper's head, beside the fields of HEADS."""
    pooling, fields = HEADS[task.head]
    cfg = jax_side.configure(
        Task(
            head=pooling,
            backbone=task.backbone,
            stage=task.stage,
            px=task.px,
            batch=task.batch,
            norm="frozen",
        )
    )
    data = dataclasses.replace(
        cfg.data,
        name="objects",
        root=str(task.data),
        eval_split="train",
        short_side_px=math.ceil(task.px * SHORT_SIDE),
        cache="features" if task.on_maps else "none",
    )
    model = dataclasses.replace(cfg.model, input=COLOURS, **fields)
    optim = dataclasses.replace(cfg.optim, frozen=("backbone",))
    return dataclasses.replace(cfg, data=data, model=model, optim=optim).resolved()


class HeadSteps:
    """Training steps, each on the next batch of the loader."""

    def __init__(self, task: HeadTask, folder: Path) -> None:
        self._task, self._folder = task, folder
        self.setup = assemble(configure(task), manifest.load(task.data), jax.devices()[:1])
        variables = jax_side.draw_variables(self.setup.target.variables)
        head = {name: leaf for name, leaf in name_arrays(variables).items() if "pooling/" in name}
        small = {name: leaf * SMALL for name, leaf in head.items() if "/chain/" not in name}
        self.variables = replace_arrays(variables, small)
        self._maps = None

    def store(self) -> Stored:
        """Stores the maps of all images if they are not."""
        cfg, data = self.setup.cfg, self.setup.data
        wall, cpu = time.perf_counter(), time.process_time()
        self._maps = store_maps(self.setup, self.variables, log=_ignore).training
        cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
        images = data.splits["train"].examples * (cfg.data.feature_views + cfg.data.eval_views)
        return Stored(cfg.data, self._maps, cfg.model.dropout, images, cpu_s, wall_s)

    def save_head(self) -> None:
        """Writes the parameters of the head for PyTorch's row."""
        arrays = name_arrays(self.variables)
        head = {name: np.asarray(leaf) for name, leaf in arrays.items() if "backbone/" not in name}
        np.savez(self._folder / HEAD_WEIGHTS, allow_pickle=False, **head)

    def prepare(self) -> dict[str, Any]:
        """Opens the loader and compiles the step."""
        cfg = self.setup.cfg
        self._batches = loader.training_batches(
            cfg.data, self.setup.data, seed=0, batch_size=self._task.batch, maps=self._maps
        )
        self._first = self._next()
        start = time.perf_counter()
        self._state = self.setup.start(self.variables)
        self._step = self.setup.train_step.lower(self._state, self._first).compile()
        self._run(1)
        return {"compile_s": time.perf_counter() - start}

    def logits(self) -> Float[np.ndarray, "b k"]:
        """Returns the logits of the first batch of maps as in evaluation."""
        apply = jax.jit(self.setup.model.apply, static_argnames="map_of_px")
        return np.asarray(
            apply(self.variables, self._first.image[0], map_of_px=self.setup.cfg.map_of_px)[
                0
            ].logits
        )

    def losses(self, steps: int) -> list[float]:
        """Returns the losses of the next steps."""
        losses = []
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._next())
            losses.append(float(metrics.compute()["loss"]))
        return losses

    def time(self, steps: int) -> dict[str, float]:
        """Returns the seconds of a step."""
        return clock(self._run, steps)

    def close(self) -> None:
        """Ends the loader's threads."""
        self._batches.close()

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            self._state, _ = self._step(self._state, self._next())
        jax.block_until_ready(self._state)

    def _next(self) -> Batch:
        return globalise([next(self._batches)], self.setup.mesh)


def _ignore(line: str) -> None:
    del line
