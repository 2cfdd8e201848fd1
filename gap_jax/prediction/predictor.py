"""Opens a trained model for images: batches them, and computes answers in their order."""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import jax
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.core.parallel import map_ahead
from data_pipelines.datasets.drawn import DRAWN_DATA
from data_pipelines.example import JOINTS, PADDING_ID, HostBatch
from data_pipelines.example import People as HostPeople
from data_pipelines.pictures.drawing import Picture
from gap_jax.batch import People
from gap_jax.learning.sharding import evaluation_mesh, globalise, replicated
from gap_jax.learning.steps import jit_eval_step
from gap_jax.prediction.answer import Answer
from gap_jax.prediction.attention import ClassMaps, compute_maps
from gap_jax.prediction.people import make_people
from gap_jax.prediction.photograph import Prepared, prepare
from gap_jax.prediction.sources import Refused, Source, open_source
from gap_jax.runtime.bucket.workdir import open_for_reading
from gap_jax.saved import published
from gap_jax.saved.model import Opened, Which, open_model

FEW_IMAGES = 8
MOST_PADDED_PX = 4_000_000  # of a batch that few images are padded to: about a second on two cores

Input = str | os.PathLike[str] | np.ndarray | Source


def load(source: str | os.PathLike[str], *, checkpoint: Which = "best") -> "Predictor":
    """Opens a run or an exported model for predictions on images.

    >>> import gap_jax
    >>> model = gap_jax.load("runs/small")
    >>> answer = model.predict("my.jpg")
    >>> len(answer.top(3))
    3
    >>> answer.maps().combined.shape == answer.maps().top_down.shape
    True
    >>> answer.save("look.png")

    `source` is a folder, an address in a bucket, or the name of a published classifier;
    `checkpoint` is "best", "latest" or a step. `model.predict_people(image, boxes)` returns an
    answer for each box (left, top, right, bottom; in pixels of the upright image), if the model
    reads boxes.
    """
    return Predictor(find_model(source, checkpoint=checkpoint))


def find_model(source: str | os.PathLike[str], *, checkpoint: Which = "best") -> Opened:
    """Opens what `load` takes, before it is made ready for images."""
    name = os.fspath(source)
    if name in published.SIDES_PX and not Path(name).exists():
        if checkpoint != "best":
            raise ConfigError(f"{name} is a published classifier: it has no --checkpoint to choose")
        return published.open_published(name)
    with open_for_reading(name) as workdir:
        return open_model(workdir.folder, checkpoint=checkpoint, names=tuple(published.SIDES_PX))


class _Ready(NamedTuple):
    """A decoded and cropped image."""

    source: Source
    prepared: Prepared


class Predictor:
    """A trained model, ready for images; `opened` has its config and the origin of its weights."""

    def __init__(self, opened: Opened) -> None:
        cfg = opened.cfg
        if cfg.model.frames > 1:
            raise ConfigError(
                f"{opened.source} takes clips of {cfg.model.frames} frames; predict takes images"
            )
        self.opened = opened
        self.classes = opened.classes
        self._mesh = evaluation_mesh(cfg)
        folded = opened.fold()
        self._variables = jax.device_put(jax.device_get(folded.variables), replicated(self._mesh))
        self._score = jit_eval_step(folded.model, self._mesh, cfg.data.eval_views)
        self._compute_maps = jax.jit(functools.partial(compute_maps, folded.model))
        side = cfg.data.image_size_px
        self._grid = folded.model.locate_cells(folded.variables, side, side)

    @property
    def note(self) -> str:
        """Warns of a model that was trained on drawn pictures; empty for others."""
        name = self.opened.cfg.data.name
        if name not in DRAWN_DATA:
            return ""
        return (
            f"{self.opened.source} was trained on drawn {name}: on photographs its answers "
            "mean little"
        )

    @overload
    def predict(self, image: Input) -> Answer: ...
    @overload
    def predict(self, image: list[Input]) -> list[Answer]: ...
    def predict(self, image: Input | list[Input]) -> Answer | list[Answer]:
        """Answers for a path or an RGB array (height, width, 3) of uint8, or for a list of them."""
        answers = []
        for found in self.predict_each(image if isinstance(image, list) else [image]):
            if isinstance(found, Refused):
                raise DataError(f"{found.name}: {found.error}")
            answers.append(found)
        return answers if isinstance(image, list) else answers[0]

    def check_reads_boxes(self) -> None:
        """Refuses a model that reads no boxes of people."""
        model = self.opened.cfg.model
        if not model.reads_boxes:
            raise ConfigError(
                f"{self.opened.source} reads no boxes of people (model.pooling={model.pooling}, "
                f"model.regions={model.regions}); train with model.regions=people, rcnn or rstarcnn"
            )

    def predict_people(self, image: Input, boxes: Iterable[Sequence[float]]) -> list[Answer]:
        """Answers for each person of an image, by boxes (left, top, right, bottom) in pixels."""
        self.check_reads_boxes()
        source = open_source(image)
        return self.predict(
            [
                dataclasses.replace(source, person=number, box=tuple(box))
                for number, box in enumerate(boxes, 1)
            ]
        )

    def predict_each(self, images: Iterable[Input | Refused]) -> Iterator[Answer | Refused]:
        """Answers for each image in order; images are decoded in threads and computed in batches.

        An image that cannot be read gives its reason, and the others their answers.
        """
        batch_size = self.opened.cfg.eval.batch_size
        ready = map_ahead(functools.partial(_prepare, self.opened.cfg.data), images, batch_size)
        first = list(itertools.islice(ready, batch_size))
        rows = self._choose_rows(len(first))
        batches = _cut(itertools.chain(first, ready), rows)
        unread: tuple[list[_Ready | Refused], jax.Array | None] = [], None
        for batch in batches:  # the device computes one batch while the previous one is read
            computing = batch, self._compute_logits(batch, rows)
            yield from self._read(*unread)
            unread = computing
        yield from self._read(*unread)

    def _choose_rows(self, images: int) -> int:
        """Returns evaluation's batch size, whose logits have its bits; for few images it may cost.

        XLA sums in another order in a batch of another size.
        """
        cfg, devices = self.opened.cfg, self._mesh.size
        batch_size = cfg.eval.batch_size
        pixels = batch_size * cfg.data.eval_views * cfg.data.image_size_px**2
        if images > FEW_IMAGES or pixels <= MOST_PADDED_PX:
            return batch_size
        few = 1 if images == 1 else FEW_IMAGES  # two sizes to compile
        return min(batch_size, devices * math.ceil(few / devices))

    def _compute_logits(self, batch: list[_Ready | Refused], rows: int) -> jax.Array | None:
        """Starts to compute the logits of the images, padded to `rows`."""
        cfg = self.opened.cfg
        prepared = [each.prepared for each in batch if not isinstance(each, Refused)]
        if not prepared:
            return None
        views = [each.views for each in prepared]
        images = np.zeros((rows, *views[0].shape), np.uint8)
        np.stack(views, out=images[: len(views)])
        boxes = np.stack([each.box for each in prepared])
        host_batch = HostBatch(
            image=images[:, 0] if cfg.data.eval_views == 1 else images,
            keypoints=np.zeros((rows, 1, len(JOINTS), 3), np.float32),
            disc_radius=np.zeros(rows, np.float32),
            label=np.zeros(rows, np.int32),
            weight=np.zeros(rows, np.float32),
            id=np.full(rows, PADDING_ID, np.int64),
            people=self._make_people(np.resize(boxes, (rows, 4))),
        )
        return self._score(self._variables, globalise([host_batch], self._mesh))

    def _read(
        self, batch: list[_Ready | Refused], logits: jax.Array | None
    ) -> Iterator[Answer | Refused]:
        rows = iter([] if logits is None else np.asarray(logits))
        for each in batch:
            if isinstance(each, Refused):
                yield each
                continue
            yield Answer(
                name=each.source.name,
                classes=self.classes,
                logits=next(rows),
                is_multi_label=self.opened.origin.label_kind == "multi",
                crop=each.prepared.crop,
                placement=each.prepared.placement,
                grid=self._grid,
                load=each.source.load,
                compute=functools.partial(self._compute_class, each.prepared.box),
                person=each.source.person,
                box=each.source.box,
            )

    def _compute_class(self, box: np.ndarray, crop: Picture, k: int) -> ClassMaps:
        people = People.of(self._make_people(box[None]))
        found = self._compute_maps(
            self._variables, crop[None], np.array([k], np.int32), people=people
        )
        return jax.device_get(found)

    def _make_people(self, boxes: np.ndarray) -> HostPeople | None:
        """Makes the one person of each image, for a model that reads boxes."""
        cfg = self.opened.cfg
        return make_people(boxes, cfg.data) if cfg.reads_boxes else None


def _cut(ready: Iterable[_Ready | Refused], images: int) -> Iterator[list[_Ready | Refused]]:
    """Cuts into batches of at most that many images, with the refused inputs between them."""
    batch: list[_Ready | Refused] = []
    count = 0
    for each in ready:
        batch.append(each)
        count += not isinstance(each, Refused)
        if count == images:
            yield batch
            batch, count = [], 0
    yield batch


def _prepare(data: DataConfig, image: Input | Refused) -> _Ready | Refused:
    if isinstance(image, Refused):
        return image
    source = open_source(image)
    try:
        return _Ready(source, prepare(source.load(), data, source.box))
    except DataError as refusal:
        return Refused(source.name, str(refusal), source.person)
