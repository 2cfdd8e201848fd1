"""How much of a bottom-up map lies on the actor and on what the actor holds, image by image.

Two maps that look at nothing in particular stand beside it: one that is the same everywhere, and
where the joints of the training images are on average.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines import records, transforms
from data_pipelines.config import DataConfig
from data_pipelines.datasets.people import MASKS
from data_pipelines.errors import DataError, first_line
from data_pipelines.example import NOT_ANNOTATED, Keypoints
from data_pipelines.transforms import View
from gap_jax.evaluation import metrics
from gap_jax.evaluation.metrics import Counts, Interval, Labels, Scores
from gap_jax.explain.report.looking import Map, spread
from gap_jax.models.cells import Grid

Shares = Float[np.ndarray, " n"]
Maps = Float[np.ndarray, "n h w p"]
Mask = Float[np.ndarray, "y x"]
NOBODY = np.zeros((0, 16, 3), np.float32)


class Attention(NamedTuple):
    """Mean shares of mass inside the masks, and what the bottom-up map has over the others.

    `own` and the differences are None where the map is constant, so that there is nothing to
    measure; `images` are those whose masks reach into the crop.
    """

    images: int
    own: Interval | None
    uniform: Interval
    prior: Interval
    over_uniform: Interval | None
    over_prior: Interval | None


def mask_file(folder: Path) -> Path:
    """Where the masks lie that were drawn with the people."""
    return folder / "raw" / MASKS


def load_masks(
    data: DataConfig, source: records.RecordSource, positions: Sequence[int]
) -> list[Mask]:
    """The crops of the masks, 1 inside: they pass through what the image passes through."""
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
    """A mask's centre crop; at an edge a pixel lies partly inside."""
    white = np.repeat(inside[..., None].astype(np.uint8) * np.uint8(255), 3, axis=-1)
    view = transforms.center_crop(transforms.make_view(white, NOBODY, data), data)
    return view.image[..., 0] / 255.0


def training_joints(data: DataConfig, source: records.RecordSource) -> Float[np.ndarray, "m 2"]:
    """x and y of everybody's annotated joints inside the centre crops of a split."""
    found = [np.zeros((0, 2))]
    for position in range(len(source)):
        record = source[position]
        keypoints: Keypoints = record["keypoints"]
        empty = np.zeros((record["height_px"], record["width_px"], 3), np.uint8)
        view: View = transforms.center_crop(transforms.make_view(empty, keypoints, data), data)
        known = view.keypoints[view.keypoints[..., 2] != NOT_ANNOTATED][:, :2]
        found.append(known)
    joints = np.concatenate(found)
    return joints[((joints >= 0) & (joints < data.image_size_px)).all(axis=1)]


def fit_prior(joints: Float[np.ndarray, "m 2"], grid: Grid) -> Map:
    """The share of joints nearest to each cell's centre: where people are, whatever they do."""
    rows, columns = grid.rows.cells, grid.columns.cells
    if not len(joints):
        return np.ones((rows, columns))
    j, i = (
        np.rint(axis.place(joints[:, k])).astype(int)
        for k, axis in enumerate((grid.columns, grid.rows))
    )
    counts = np.bincount(i * columns + j, minlength=rows * columns)
    return counts.reshape(rows, columns) / len(joints)


def share_inside(cells: Map, grid: Grid, mask: Mask) -> float:
    """The share of a map's mass that lies inside; a map without mass is as good as uniform."""
    mass = spread(cells, grid, *mask.shape)
    total = mass.sum()
    return float((mass * mask).sum() / total) if total > 0 else float(mask.mean())


def measure(bottom_up: Sequence[Maps], grid: Grid, masks: Sequence[Mask], prior: Map) -> Attention:
    """The shares of the maps of a method's seeds, |h - median(h)| being what a map points out.

    The interval is over images drawn anew; of several maps p the deviations are added, and shares
    are averaged over seeds.
    """
    reached = [index for index, mask in enumerate(masks) if mask.any()]
    if not reached:
        raise DataError("no mask reaches into its crop; there is nothing to measure attention by")
    uniform = np.array([float(masks[index].mean()) for index in reached])
    central = np.array([share_inside(prior, grid, masks[index]) for index in reached])
    own = None
    deviations = [deviation(each) for each in bottom_up]
    if any(each.any() for each in deviations):
        own = np.mean(
            [
                [share_inside(each[index], grid, masks[index]) for index in reached]
                for each in deviations
            ],
            axis=0,
        )
    return Attention(
        images=len(reached),
        own=None if own is None else _mean(own),
        uniform=_mean(uniform),
        prior=_mean(central),
        over_uniform=None if own is None else _difference(own, uniform),
        over_prior=None if own is None else _difference(own, central),
    )


def deviation(bottom_up: Maps) -> Float[np.ndarray, "n h w"]:
    """|h - median(h)| added over the maps of an image; rounding of a constant map is nothing."""
    maps = bottom_up.astype(np.float64)
    apart = np.abs(maps - np.median(maps, axis=(1, 2), keepdims=True))
    tiny = 1e-5 * np.abs(maps).max(axis=(1, 2), keepdims=True)
    return np.where(apart > tiny, apart, 0).sum(axis=-1)


def _mean(shares: Shares) -> Interval:
    return metrics.bootstrap_interval(_resampled_mean, shares[:, None], _labels(shares))


def _difference(a: Shares, b: Shares) -> Interval:
    return metrics.paired_bootstrap(_resampled_mean, a[:, None], b[:, None], _labels(a))


def _labels(shares: Shares) -> Labels:
    return np.zeros(len(shares), np.int64)


def _resampled_mean(scores: Scores, labels: Labels, counts: Counts) -> Float[np.ndarray, " r"]:
    del labels
    return scores[:, 0] @ counts / counts.sum(axis=0)
