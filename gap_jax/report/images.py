"""The evaluated images of a run: as stored, and as the run's model receives them."""

import dataclasses
from pathlib import Path

import numpy as np

from data_pipelines import manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.core.errors import CheckpointError, DataError
from data_pipelines.manifest import Manifest
from data_pipelines.pictures.drawing import Picture
from data_pipelines.rows import Rows, RowSpec
from gap_jax.report.runs import ReportedRun


@dataclasses.dataclass(frozen=True)
class EvaluatedImages:
    """The images of a run's last evaluation; `positions` are their positions in the split."""

    folder: Path
    data: Manifest
    source: records.RecordSource
    positions: tuple[int, ...]

    def config_of(self, run: ReportedRun) -> DataConfig:
        """Returns a run's data config with the folder that holds the data now.

        A video is shown by its middle frame.
        """
        here = {"root": str(self.folder), "workers": 0, "eval_frames": 1}
        return dataclasses.replace(run.cfg.data, **here).resolved()

    def rows_of(self, run: ReportedRun) -> Rows:
        """Returns the images with the preprocessing of a run."""
        data, split = self.config_of(run), run.cfg.data.evaluated_split
        return Rows(data, self.data, split, with_people=run.cfg.reads_boxes)

    def record(self, row: int) -> records.Record:
        """Returns the stored record of a row of the scores."""
        return self.source[self.positions[row]]

    def crop(self, run: ReportedRun, row: int) -> Picture:
        """Returns the crop of an image that a run evaluates."""
        rows = self.rows_of(run)
        images = np.empty(rows.image_shape(1), np.uint8)
        return rows.batch([RowSpec(self.positions[row])], images).image[0]


def open_images(run: ReportedRun, folder: Path | None) -> EvaluatedImages:
    """Opens the evaluated images of a run, in `folder` or where the run read them."""
    folder = folder or run.cfg.data.directory
    if not manifest.is_prepared(folder):
        raise DataError(
            f"no prepared data of {run.root} in {folder}; name the folder with --data DIR"
        )
    data = manifest.load(folder)
    if data.fingerprint != run.fingerprint:
        raise CheckpointError(
            f"{run.root} was trained on data with fingerprint {run.fingerprint}; the data in "
            f"{folder} has {data.fingerprint}; name the run's own data with --data DIR"
        )
    source = records.open_split(folder, run.cfg.data.evaluated_split, data)
    positions = tuple(run.scores.ids.tolist())
    if positions[-1] >= len(source):
        raise DataError(
            f"the scores of {run.root} name image {positions[-1]:,} of {len(source):,}; "
            "evaluate again"
        )
    return EvaluatedImages(folder, data, source, positions)
