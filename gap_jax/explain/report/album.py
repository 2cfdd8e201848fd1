"""The evaluated images as they are stored, and what a run's model sees of them."""

import dataclasses
from pathlib import Path

import numpy as np

from data_pipelines import manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.loader import Rows, RowSpec
from data_pipelines.manifest import Manifest
from data_pipelines.pictures.drawing import Picture
from gap_jax.errors import CheckpointError, DataError
from gap_jax.explain.report.runs import Run


@dataclasses.dataclass(frozen=True)
class Album:
    """The images of a run's last evaluation: `places` are their positions in the split."""

    folder: Path
    data: Manifest
    split: str
    source: records.RecordSource
    places: tuple[int, ...]

    def config_of(self, run: Run) -> DataConfig:
        """What a run does to an image, and where the images lie now."""
        return dataclasses.replace(run.cfg.data, root=str(self.folder), workers=0).resolved()

    def rows_of(self, run: Run) -> Rows:
        """The images as a run's model sees them."""
        return Rows(self.config_of(run), self.data, self.split)

    def record(self, row: int) -> records.Record:
        """What is stored of the image in a row of the scores."""
        return self.source[self.places[row]]

    def crop(self, run: Run, row: int) -> Picture:
        """The crop of an image that a run evaluates."""
        rows = self.rows_of(run)
        images = np.empty(rows.image_shape(1), np.uint8)
        return rows.batch([RowSpec(self.places[row])], images).image[0]


def open_album(run: Run, folder: Path | None) -> Album:
    """The images that a run was scored on, from where they lie now."""
    place = folder or run.cfg.data.directory
    if not manifest.is_prepared(place):
        raise DataError(
            f"no prepared data in {place}, where {run.root} found its own; "
            "name their place with --data DIR"
        )
    data = manifest.load(place)
    if data.fingerprint != run.fingerprint:
        raise CheckpointError(
            f"{run.root} was trained on data with fingerprint {run.fingerprint} and those in "
            f"{place} have {data.fingerprint}; name its own data with --data DIR"
        )
    source = records.open_split(place, run.split, data)
    places = tuple(run.scores.ids.tolist())
    if places[-1] >= len(source):
        raise DataError(f"the scores of {run.root} name image {places[-1]:,} of {len(source):,}")
    return Album(place, data, run.split, source, places)
