"""Images that a model gets right and wrong, with its maps over them, all on one colour scale."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from data_pipelines.pictures.drawing import Picture, draw_skeletons, fit, label_text
from data_pipelines.pictures.page import Thumbnail, embed
from data_pipelines.transforms import View
from gap_jax.evaluation.metrics import positives_of
from gap_jax.explain.report.colours import draw_bar, find_reach, lay_over
from gap_jax.explain.report.looking import Look, Map, find_joints
from gap_jax.explain.report.measure import NOBODY, deviation
from gap_jax.explain.report.runs import Run

SEED = 0
MOST_IMAGES, FEWEST_IMAGES, MOST_PANELS = 12, 4, 160
SIDE_PX = 144


@dataclasses.dataclass(frozen=True)
class Strip:
    """What one method makes of one image; a panel that is a word says why there is no picture."""

    method: str
    answer: str
    is_hit: bool
    panels: Sequence[Thumbnail | str]


@dataclasses.dataclass(frozen=True)
class Case:
    """One image and every method's strip."""

    label: str
    name: str
    photo: Thumbnail
    strips: Sequence[Strip]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The cases, the scale that all maps share, and what its 1 is in each method's own numbers."""

    hits: int
    misses: int
    bar: Thumbnail
    units: Sequence[str]
    cases: Sequence[Case]


def choose(run: Run, methods: int) -> tuple[list[int], list[int]]:
    """Rows of the scores: some of the run's hits and as many misses, each drawn blindly."""
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


@dataclasses.dataclass(frozen=True)
class _Panels:
    """A method's maps of the chosen images, each kind as shares of its largest values."""

    name: str
    look: Look
    bottom_up: Float[np.ndarray, "b h w"] | None
    top_down: Float[np.ndarray, "b h w"]
    combined: Float[np.ndarray, "b h w"]
    unit: str


def build_gallery(
    names: Sequence[str],
    looks: Sequence[Look],
    labels: Sequence[object],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    hits: int,
) -> Gallery:
    """The gallery of images that all methods looked at, `hits` of them first."""
    methods = [_rescale(name, look) for name, look in zip(names, looks, strict=True)]
    cases = []
    for index, (label, name) in enumerate(zip(labels, ids, strict=True)):
        truth = label_text(label, classes)
        cases.append(
            Case(
                label=truth,
                name=name,
                photo=_picture(looks[0].image[index], f"{truth}: the crop that is evaluated"),
                strips=[_strip(each, index, label, classes) for each in methods],
            )
        )
    return Gallery(hits, len(cases) - hits, draw_bar(), [each.unit for each in methods], cases)


def _rescale(name: str, look: Look) -> _Panels:
    """Only the product of h and top-down is given, so h takes the sign of positive peaks."""
    h = look.bottom_up[..., 0].astype(np.float64)
    sign = -1.0 if np.mean(h**3) < 0 else 1.0
    is_constant = not deviation(look.bottom_up).any()
    reach = [find_reach(each) for each in (h, look.top_down, look.combined)]
    parts = zip(("bottom-up", "top-down", "combined"), reach, strict=True)
    return _Panels(
        name=name,
        look=look,
        bottom_up=None if is_constant else sign * h / reach[0],
        top_down=sign * look.top_down / reach[1],
        combined=look.combined / reach[2],
        unit=f"{name}, " + ", ".join(f"{kind} {value:.3g}" for kind, value in parts),
    )


def _strip(method: _Panels, index: int, label: object, classes: Sequence[str]) -> Strip:
    look = method.look
    predicted = int(look.predicted[index])
    answer = classes[predicted]
    crop = look.image[index]

    def lay(kind: str, cells: Map) -> Thumbnail:
        return _picture(
            lay_over(cells, look.grid, crop), f"{kind} of {method.name}, which says {answer}"
        )

    panels: list[Thumbnail | str] = [
        "h is constant"
        if method.bottom_up is None
        else lay("bottom-up map h", method.bottom_up[index]),
        lay("top-down map", method.top_down[index]),
        lay("combined map", method.combined[index]),
        "no pose branch",
    ]
    if look.pose is not None:
        people = find_joints(look.pose[index], *crop.shape[:2])
        seen = int((people[..., 2] > 0).sum())
        panels[3] = _picture(crop, f"{seen} joints that {method.name} finds", people)
    positives = positives_of(np.asarray(label)[None], len(classes))[0]
    return Strip(method.name, answer, bool(positives[predicted]), panels)


def _picture(picture: Picture, alt: str, people: Float[np.ndarray, "p j 3"] = NOBODY) -> Thumbnail:
    view = fit(View(picture, people, 0.0), SIDE_PX)
    return embed(draw_skeletons(view.image, view.keypoints), alt=alt)
