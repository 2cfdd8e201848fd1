"""Stores the maps of a frozen backbone, a row for each record, and fills batches with them.

A shard is an .npy file of rows; a row holds the maps, joints, boxes and disc radius of each stored
view and the labels, so that training opens no record. Its name ends in its digest, so that an
unfinished store can be continued; manifest.json completes it.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.core import faults, files
from data_pipelines.core.errors import CheckpointError, name_some
from data_pipelines.example import JOINTS, PADDING_ID, HostBatch
from data_pipelines.manifest import MANIFEST, Manifest, Shard
from data_pipelines.rows import RowSpec, blank_batch, fill_people, label_row
from data_pipelines.transforms import View

FOLDER = "features"
FORMAT_VERSION = 1
SHARD_BYTES = 2**26
LEAST_SHARDS = 16  # of many records, so that several processes share them
BATCH_IMAGES = 32  # computed at once
MAP_TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
STORED_TYPES = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}  # .npy has no bfloat16
DIGITS = 16  # of a digest in a file's name


def make_row_type(
    manifest: Manifest, views: int, map_shape: Sequence[int], map_type: str
) -> np.dtype:
    """Returns the type of a row: of one record with `views` views."""
    is_single = manifest.label_kind == "single"
    most = manifest.max_people
    boxes = [("boxes", "<f4", (views, most, 4)), ("person_labels", "<i4", (most,))]
    return np.dtype(
        [
            ("maps", STORED_TYPES[map_type], (views, *map_shape)),
            ("keypoints", "<f4", (views, most, len(JOINTS), 3)),
            ("disc_radius", "<f4", (views,)),
            ("label", "<i4" if is_single else "<i1", () if is_single else len(manifest.classes)),
            *(boxes if manifest.has_boxes else []),
        ]
    )


def fill_row(row: Any, views: Sequence[View], label: Any, maps: np.ndarray) -> None:
    """Fills a row of `make_row_type` with the views of a record and the maps of these."""
    row["maps"] = maps if row["maps"].dtype == maps.dtype else maps.view(row["maps"].dtype)
    for index, view in enumerate(views):
        row["keypoints"][index, : len(view.keypoints)] = view.keypoints
        row["disc_radius"][index] = view.disc_radius
        if "boxes" in row.dtype.names:
            row["boxes"][index, : len(view.boxes)] = view.boxes
            row["person_labels"][: len(view.boxes)] = view.person_labels
    row["label"] = label


@dataclasses.dataclass(frozen=True)
class FeatureMaps:
    """The stored maps of a split.

    `origin` holds everything that determines them, as JSON: the folder's name is its digest.
    """

    data: Path
    origin: Mapping[str, Any]
    row_type: np.dtype
    rows: int

    @cached_property
    def key(self) -> str:
        """The digest of the origin and the format, by which folder and shards are named."""
        text = json.dumps([FORMAT_VERSION, self.origin], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    @property
    def folder(self) -> Path:
        return self.data / FOLDER / f"{self.origin['split']}-{self.key}"

    @property
    def records_per_batch(self) -> int:
        return max(1, BATCH_IMAGES // self.origin["views"])

    @property
    def rows_per_shard(self) -> int:
        """Whole batches, so that none is padded but the last; the number of processes is free."""
        most = min(SHARD_BYTES // self.row_type.itemsize, math.ceil(self.rows / LEAST_SHARDS))
        return max(1, most // self.records_per_batch) * self.records_per_batch

    @property
    def shard_count(self) -> int:
        return math.ceil(self.rows / self.rows_per_shard)

    def positions(self, shard: int) -> range:
        """Returns the positions of the records in a shard."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.rows))

    def batch_count(self, shard: int) -> int:
        return math.ceil(len(self.positions(shard)) / self.records_per_batch)

    def find_shard(self, shard: int) -> Path | None:
        """Finds a finished shard."""
        found = sorted(self.folder.glob(f"{self._name(shard)}.*.npy"))
        return found[0] if found else None

    def missing_bytes(self) -> int:
        """Returns the bytes of the shards that are not finished."""
        absent = (i for i in range(self.shard_count) if self.find_shard(i) is None)
        return sum(len(self.positions(index)) for index in absent) * self.row_type.itemsize

    def _name(self, shard: int) -> str:
        return f"{self.key}-{shard:05}-of-{self.shard_count:05}"

    def write_shard(self, shard: int, rows: Iterable[np.ndarray]) -> None:
        """Writes a shard and names it by its digest; `rows` are arrays of `row_type`."""
        partial = self.folder / f".{self._name(shard)}.partial"
        with files.writing(partial):
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with partial.open("wb") as file:
                for content in self._content(shard, rows):
                    digest.update(content)
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
            faults.point("files.before_rename")
            name = f"{self._name(shard)}.{digest.hexdigest()[:DIGITS]}.npy"
            partial.replace(self.folder / name)

    def _content(self, shard: int, rows: Iterable[np.ndarray]) -> Iterator[bytes]:
        header = io.BytesIO()
        form = {
            "descr": np.lib.format.dtype_to_descr(self.row_type),
            "fortran_order": False,
            "shape": (len(self.positions(shard)),),
        }
        np.lib.format.write_array_header_2_0(header, form)
        yield header.getvalue()
        for each in rows:
            yield each.tobytes()

    def complete(self, shards: Sequence[Shard]) -> None:
        """Writes the manifest, which lists all shards."""
        content = {
            "format_version": FORMAT_VERSION,
            "origin": self.origin,
            "rows": self.rows,
            "shards": [dataclasses.asdict(each) for each in shards],
        }
        files.write_atomically(self.folder / MANIFEST, json.dumps(content, indent=2) + "\n")

    def describe(self, index: int) -> Shard:
        """Describes a finished shard for the manifest; refuses one that is damaged."""
        path = self.find_shard(index)
        if path is None:
            raise self._refuse(f"shard {self._name(index)} is missing")
        digest = files.sha256(path)
        if digest[:DIGITS] != path.suffixes[-2][1:]:
            raise self._refuse(f"{path.name} is damaged")
        return Shard(path.name, path.stat().st_size, len(self.positions(index)), digest)

    def is_complete(self) -> bool:
        return files.is_file(self.folder / MANIFEST, CheckpointError)

    def digest(self) -> str:
        """Returns the digest of all shards of a manifest that `check` accepts."""
        shards = json.loads((self.folder / MANIFEST).read_text("utf-8"))["shards"]
        return hashlib.sha256(" ".join(each["sha256"] for each in shards).encode()).hexdigest()

    def check(
        self, share: tuple[int, int] = (0, 1), report: Callable[[], None] = lambda: None
    ) -> None:
        """Compares the manifest, and the digest of this process's share of the shards.

        Calls `report` after each shard.
        """
        try:
            content = json.loads((self.folder / MANIFEST).read_text("utf-8"))
            origin = dict(content["origin"])
            differing = [name for name in self.origin if origin.get(name) != self.origin[name]]
            shards = [Shard(**each) for each in content["shards"]]
            names = [each.file.partition(".")[0] for each in shards]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._refuse(f"{MANIFEST} is not readable") from error
        if differing:
            raise self._refuse(f"it holds other maps: {name_some(differing)}")
        if names != [self._name(index) for index in range(self.shard_count)]:
            raise self._refuse(f"{MANIFEST} names other files")
        index, count = share
        for each in shards[index::count]:
            path = self.folder / Path(each.file).name
            if not path.is_file():
                raise self._refuse(f"{path.name} is missing")
            if path.stat().st_size != each.bytes or files.sha256(path) != each.sha256:
                raise self._refuse(f"{path.name} is damaged")
            report()

    def repair(self) -> None:
        """Removes damaged and foreign shards, and the manifest, so that they are computed again."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for path in self.folder.glob("*.npy"):
            name, _, digest = path.stem.partition(".")
            if not name.startswith(self.key) or files.sha256(path)[:DIGITS] != digest:
                path.unlink()

    def _refuse(self, fault: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: {fault}; compute them again with `gap_jax features --repair` and "
            "the same --config, or remove the folder"
        )

    def open(self) -> list[np.ndarray]:
        """Maps the shards into memory, read when used."""
        return [self._open(index) for index in range(self.shard_count)]

    def _open(self, shard: int) -> np.ndarray:
        path = self.find_shard(shard)
        if path is None:
            raise self._refuse(f"{self._name(shard)} is missing")
        try:
            rows = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise self._refuse(f"{path.name} is not readable") from error
        if (rows.dtype, len(rows)) != (self.row_type, len(self.positions(shard))):
            raise self._refuse(f"{path.name} holds other rows")
        return rows


class FeatureRows:
    """Fills batches with stored maps; training draws a view of each, evaluation takes them all."""

    def __init__(
        self,
        data: DataConfig,
        maps: FeatureMaps,
        manifest: Manifest,
        *,
        with_people: bool = False,
    ) -> None:
        self._data, self._maps, self._manifest = data, maps, manifest
        self._with_people = with_people
        self._shards = maps.open()
        self._map_shape = maps.row_type["maps"].shape
        self.image_type = np.dtype(MAP_TYPES[maps.origin["dtype"]])

    def __len__(self) -> int:
        return self._maps.rows

    def image_shape(self, rows: int) -> tuple[int, ...]:
        views, *of_map = self._map_shape
        keeps_views = self._maps.origin["purpose"] == "evaluation" and views > 1
        return rows, *([views] if keeps_views else []), *of_map

    def batch(self, specs: Sequence[RowSpec], images: np.ndarray) -> HostBatch:
        """Fills a batch whose maps lie in the given memory."""
        data, manifest = self._data, self._manifest
        batch = blank_batch(manifest, images, data if self._with_people else None)
        for row, spec in enumerate(specs):
            if spec.position == PADDING_ID:
                batch.image[row] = 0
                continue
            shard, index = divmod(spec.position, self._maps.rows_per_shard)
            stored = self._shards[shard][index]
            view = 0
            if spec.seed is not None:
                view = int(np.random.default_rng(spec.seed).integers(self._map_shape[0]))
            maps = stored["maps"].view(self.image_type)
            batch.image[row] = maps if images.ndim > maps.ndim else maps[view]
            batch.keypoints[row] = stored["keypoints"][view]
            batch.disc_radius[row] = stored["disc_radius"][view]
            if batch.people:
                boxes, labels = stored["boxes"][view], stored["person_labels"]
                fill_people(batch.people, row, boxes, labels, spec, data)
            label_row(batch, row, spec.position, stored["label"])
        return batch
