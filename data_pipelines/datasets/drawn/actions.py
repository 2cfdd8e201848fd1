"""Defines the eight actions: limb angles with their spread, and the held thing."""

from typing import NamedTuple

import numpy as np

from data_pipelines.datasets.drawn.body import Joints
from data_pipelines.datasets.drawn.canvas import Point, Shape, rotation
from data_pipelines.datasets.drawn.things import THINGS


class Grip(NamedTuple):
    """Places a thing at the mean of joints, moved by `offset` and rotated to `degrees`.

    `degrees` count from the line between the joints `along`, if given; `offset` is a share of the
    body's height in the thing's own axes.
    """

    thing: str
    at: tuple[int, ...]
    offset: Point = 0
    along: tuple[int, int] | None = None
    degrees: float = 0.0
    spread: float = 0.0
    layer: int = 1  # 0 is drawn behind the body, 1 between torso and arms

    def place_thing(self, joints: Joints, rng: np.random.Generator) -> list[Shape]:
        """Returns the shapes of the thing at the joints."""
        line = 1.0
        if self.along:
            start, end = joints[list(self.along)]
            line = (end - start) / abs(end - start)
        by = line * rotation(self.degrees + self.spread * rng.uniform(-1, 1))
        at = joints[list(self.at)].mean() + by * self.offset
        return [shape.placed(at, by) for shape in THINGS[self.thing]]


class Pose(NamedTuple):
    """Holds limb angles in the order of LIMB_ANGLES and their spreads."""

    angles: tuple[float, ...]
    spreads: tuple[float, ...]
    frontal: float = 1.0


class Action(NamedTuple):
    """Defines a label; a second act id is the same activity."""

    category: str
    act_ids: tuple[int, ...]
    pose: Pose
    grip: Grip | None = None


_LEGS, _LEG_SPREADS = (-6, -5, 6, 5), (16, 12, 16, 12)  # standing or walking

#     spine neck  right arm  left arm  right leg and left leg
STANDING = Pose(
    (180, 180, -18, -6, 18, 6, *_LEGS),
    (4, 8, 14, 22, 14, 22, *_LEG_SPREADS),
)

ACTIONS = {
    "kicking ball": Action("sports", (11,), Pose(
        (186, 182, -40, -20, 40, 45, 46, 28, -6, -10),
        (8, 10, 35, 45, 35, 45, 22, 18, 14, 12), 0.75,
    ), Grip("ball", at=(0,), offset=0.12 + 0.04j, spread=25)),
    "playing guitar": Action("music playing", (12,), Pose(
        (180, 180, -44, 58, 42, 118, *_LEGS),
        (6, 14, 14, 16, 16, 22, *_LEG_SPREADS),
    ), Grip("guitar", at=(10,), offset=-0.02, along=(10, 15))),
    "reading book": Action("home activities", (13,), Pose(
        (180, 180, -26, 140, 26, -140, *_LEGS),
        (5, 12, 14, 16, 14, 16, *_LEG_SPREADS),
    ), Grip("book", at=(10, 15), offset=-0.01j, spread=12)),
    "riding bicycle": Action("bicycling", (14,), Pose(
        (145, 160, 50, 60, 52, 62, 70, -8, 34, 0),
        (5, 8, 4, 4, 4, 4, 8, 6, 8, 6), 0.3,
    ), Grip("bicycle", at=(6,), spread=3, layer=0)),
    "throwing ball": Action("sports", (15,), Pose(
        (182, 178, -100, -180, 34, 38, *_LEGS),
        (8, 12, 35, 35, 40, 55, *_LEG_SPREADS), 0.8,
    ), Grip("ball", at=(10,), offset=0.09, along=(11, 10), spread=20)),
    "umbrella walking": Action("walking", (16, 18), Pose(
        (180, 178, -72, -180, 14, 18, *_LEGS),
        (6, 12, 38, 25, 32, 45, *_LEG_SPREADS), 0.8,
    ), Grip("umbrella", at=(10,), degrees=8, spread=12)),
    "waving": Action("miscellaneous", (17,), Pose(
        (180, 180, -96, -180, 26, 26, *_LEGS),
        (6, 12, 38, 38, 38, 52, *_LEG_SPREADS), 0.9,
    )),
    "weight lifting": Action("conditioning exercise", (19,), Pose(
        (180, 180, -135, -180, 135, 180, *_LEGS),
        (5, 10, 18, 14, 18, 14, *_LEG_SPREADS),
    ), Grip("barbell", at=(10, 15), along=(10, 15))),
}  # fmt: skip
