"""Measures the share of each bottom-up map on the actor and on the object that the actor holds.

Two maps that ignore the image serve as baselines: a uniform one, and a prior of the positions of
the joints in the training images.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines import records, transforms
from data_pipelines.config import DataConfig
from data_pipelines.core.errors import DataError, first_line
from data_pipelines.datasets.people import MASKS
from data_pipelines.example import NOT_ANNOTATED
from gap_jax.evaluation import metrics
from gap_jax.evaluation.metrics import Interval, Resampled
from gap_jax.models.cells import Grid
from gap_jax.prediction.attention import Map, upsample

Maps = Float[np.ndarray, "n h w p"]
Mask = Float[np.ndarray, "y x"]
NOBODY = np.zeros((0, 16, 3), np.float32)


class Attention(NamedTuple):
    """Mean shares of mass inside the masks, of the bottom-up map and of the two baselines."""

    images: int  # whose masks reach into the crop
    uniform: Interval
    prior: Interval
    own: Interval | None = None  # None for a constant map, as are the differences
    over_uniform: Interval | None = None
    over_prior: Interval | None = None


def mask_file(folder: Path) -> Path:
    """Returns the path of the masks that were drawn with the people."""
    return folder / "raw" / MASKS


def load_masks(
    data: DataConfig, source: records.RecordSource, positions: Sequence[int]
) -> list[Mask]:
    """Loads the masks and crops them like their images; 1 is inside."""
    path = mask_file(data.directory)
    found = []
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            for position in positions:
                record = source[position]
                mask = held[Path(record["id"]).stem]
                if mask.shape != (record["height_px"], record["width_px"]):
                    raise ValueError(f"{record['id']} has a mask of another size")
                found.append(crop_mask(mask > 0, data))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} does not hold the masks of these records ({first_line(error)}); "
            "prepare the data again"
        ) from error
    return found


def crop_mask(inside: np.ndarray, data: DataConfig) -> Mask:
    """Crops a mask at the centre; a pixel at an edge is partly inside."""
    white = np.repeat(inside[..., None].astype(np.uint8) * np.uint8(255), 3, axis=-1)
    view = transforms.center_crop(transforms.make_view(white, NOBODY, data), data)
    return view.image[..., 0] / 255.0


def training_joints(data: DataConfig, source: records.RecordSource) -> Float[np.ndarray, "m 2"]:
    """Returns x and y of all annotated joints inside the centre crops of a split."""
    found = [np.zeros((0, 2))]
    for position in range(len(source)):
        record = source[position]
        empty = np.zeros((record["height_px"], record["width_px"], 3), np.uint8)
        view = transforms.make_view(empty, record["keypoints"], data)
        keypoints = transforms.center_crop(view, data).keypoints
        found.append(keypoints[keypoints[..., 2] != NOT_ANNOTATED][:, :2])
    joints = np.concatenate(found)
    return joints[((joints >= 0) & (joints < data.image_size_px)).all(axis=1)]


def fit_prior(joints: Float[np.ndarray, "m 2"], grid: Grid) -> Map:
    """Returns the share of joints nearest to each cell's centre; uniform without joints."""
    counts = np.zeros((grid.rows.cells, grid.columns.cells))
    if not len(joints):
        return np.ones_like(counts)
    points = zip(grid, joints.T[::-1], strict=True)
    np.add.at(counts, tuple(np.rint(axis.place(each)).astype(int) for axis, each in points), 1)
    return counts / len(joints)


def share_inside(cells: Map, grid: Grid, mask: Mask) -> float:
    """Returns the share of a map's mass inside the mask; a map without mass counts as uniform."""
    mass = upsample(cells, grid, *mask.shape)
    total = mass.sum()
    return float((mass * mask).sum() / total) if total > 0 else float(mask.mean())


def measure(bottom_up: Sequence[Maps], grid: Grid, masks: Sequence[Mask], prior: Map) -> Attention:
    """Measures the share of |h - median(h)| inside the masks, averaged over the seeds."""
    reached = [index for index, mask in enumerate(masks) if mask.any()]
    if not reached:
        raise DataError("no mask reaches into its crop; prepare people with a larger crop")
    inside = [masks[index] for index in reached]
    uniform = _resample_mean([mask.mean() for mask in inside])
    central = _resample_mean([share_inside(prior, grid, mask) for mask in inside])
    found = Attention(len(reached), uniform.interval(), central.interval())
    deviations = [deviation(each) for each in bottom_up]
    if not any(each.any() for each in deviations):
        return found
    shares = [
        [share_inside(each[index], grid, masks[index]) for index in reached] for each in deviations
    ]
    own = _resample_mean(np.mean(shares, axis=0))
    return found._replace(
        own=own.interval(),
        over_uniform=own.minus(uniform).interval(lowest=-1.0),
        over_prior=own.minus(central).interval(lowest=-1.0),
    )


def deviation(bottom_up: Maps) -> Float[np.ndarray, "n h w"]:
    """Adds |h - median(h)| over the maps of an image; rounding of a constant map counts as 0."""
    maps = bottom_up.astype(np.float64)
    distances = np.abs(maps - np.median(maps, axis=(1, 2), keepdims=True))
    rounding = 1e-5 * np.abs(maps).max(axis=(1, 2), keepdims=True)
    return np.where(distances > rounding, distances, 0).sum(axis=-1)


def _resample_mean(shares: Sequence[float] | Float[np.ndarray, " n"]) -> Resampled:
    return metrics.resample(lambda counts: shares @ counts / counts.sum(axis=0), len(shares))
