"""Builds the gallery: images that a model gets right or wrong, under its maps on one scale."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.pictures.drawing import Picture, draw_skeletons, fit, label_text
from data_pipelines.pictures.page import Thumbnail, embed
from data_pipelines.records import Record
from data_pipelines.transforms import View
from gap_jax.evaluation.metrics import positives_of
from gap_jax.models.cells import Grid
from gap_jax.prediction.attention import Map, find_joints, upsample
from gap_jax.prediction.colours import find_scale, find_sign, lay_over, paint_bar
from gap_jax.report.maps import Predictions
from gap_jax.report.measure import NOBODY, deviation
from gap_jax.report.runs import ReportedRun

SEED = 0
MOST_IMAGES, FEWEST_IMAGES, MOST_PANELS = 12, 4, 160
SIDE_PX = 144


class Strip(NamedTuple):
    """The maps and prediction of a method for one image; a text replaces a missing panel."""

    method: str
    predicted: str
    is_hit: bool
    panels: Sequence[Thumbnail | str]


class Case(NamedTuple):
    """An image and the strip of each method."""

    label: str
    name: str
    photo: Thumbnail
    strips: Sequence[Strip]


class Gallery(NamedTuple):
    """The cases, the colour bar of all maps, and the values that each method's 1 stands for."""

    bar: Thumbnail
    units: Sequence[str]
    cases: Sequence[Case]


def choose(run: ReportedRun, methods: int) -> tuple[list[int], list[int]]:
    """Draws rows of the scores at random: some of the run's hits and as many misses."""
    scores = run.scores
    best = scores.logits.argmax(axis=1)
    positives = positives_of(scores.labels, scores.logits.shape[1])
    hit = positives[np.arange(len(best)), best]
    wanted = max(FEWEST_IMAGES, min(MOST_IMAGES, MOST_PANELS // (4 * methods)))
    order = np.random.default_rng(SEED).permutation(len(best))
    order = order[scores.is_labelled[order]]
    hits, misses = order[hit[order]], order[~hit[order]]
    few = min(wanted // 2, len(misses))
    many = min(wanted - few, len(hits))
    return hits[:many].tolist(), misses[: wanted - many].tolist()


class _Panels(NamedTuple):
    """A method's maps of the chosen images by kind, each kind divided by its scale."""

    name: str
    predictions: Predictions
    maps: Mapping[str, Float[np.ndarray, "b h w"] | None]
    unit: str


def build_gallery(
    names: Sequence[str],
    predictions: Sequence[Predictions],
    records: Sequence[Record],
    classes: Sequence[str],
) -> Gallery:
    """Builds the gallery of the chosen images."""
    methods = [_rescale(name, each) for name, each in zip(names, predictions, strict=True)]
    cases = []
    for index, record in enumerate(records):
        label = label_text(record["label"], classes)
        photo = _picture(predictions[0].image[index], f"{label}: the evaluated crop")
        strips = [_strip(each, index, record["label"], classes) for each in methods]
        cases.append(Case(label, record["id"], photo, strips))
    return Gallery(draw_bar(), [each.unit for each in methods], cases)


def _rescale(name: str, predictions: Predictions) -> _Panels:
    """Divides the maps by their scales; h gets the sign that makes its peaks positive."""
    h = predictions.bottom_up[..., 0].astype(np.float64)
    sign = find_sign(h)
    is_constant = not deviation(predictions.bottom_up).any()
    scales = [find_scale(each) for each in (h, predictions.top_down, predictions.combined)]
    maps = {
        "bottom-up": None if is_constant else sign * h / scales[0],
        "top-down": sign * predictions.top_down / scales[1],
        "combined": predictions.combined / scales[2],
    }
    units = [f"{kind} {value:.3g}" for kind, value in zip(maps, scales, strict=True)]
    return _Panels(name, predictions, maps, ", ".join([name, *units]))


def _strip(method: _Panels, index: int, label: object, classes: Sequence[str]) -> Strip:
    predictions = method.predictions
    predicted = int(predictions.logits[index].argmax())
    name = classes[predicted]
    crop = predictions.image[index]
    panels: list[Thumbnail | str] = []
    for kind, cells in method.maps.items():
        if cells is None:
            panels.append("h is constant")
        else:
            picture = overlay(cells[index], predictions.grid, crop)
            panels.append(_picture(picture, f"{kind} map of {method.name}, predicting {name}"))
    if predictions.pose is None:
        panels.append("no pose branch")
    else:
        people = find_joints(predictions.pose[index], *crop.shape[:2])
        found = int((people[..., 2] > 0).sum())
        panels.append(_picture(crop, f"{found} joints that {method.name} finds", people))
    positives = positives_of(np.asarray(label)[None], len(classes))[0]
    return Strip(method.name, name, bool(positives[predicted]), panels)


def _picture(picture: Picture, alt: str, people: Float[np.ndarray, "p j 3"] = NOBODY) -> Thumbnail:
    view = fit(View(picture, people, 0.0), SIDE_PX)
    return embed(draw_skeletons(view.image, view.keypoints), alt=alt)


def overlay(cells: Map, grid: Grid, crop: Picture) -> Picture:
    """Lays the colours of a map over the crop in grey."""
    return lay_over(upsample(cells, grid, *crop.shape[:2]), crop)


def draw_bar() -> Thumbnail:
    """Draws the colour scale from -1 to 1."""
    return embed(paint_bar(), alt="colours from -1, blue, over 0, white, to 1, red")
