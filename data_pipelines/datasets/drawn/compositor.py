"""Composes a scene: first the surroundings, then the actor.

The surroundings are drawn from random numbers that do not depend on the action, and are rejected
only if they are too near to the actor's body, so only the actor shows the action.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from data_pipelines.datasets.drawn import body, things
from data_pipelines.datasets.drawn.actions import STANDING, Action, Grip, Pose
from data_pipelines.datasets.drawn.canvas import (
    Canvas,
    Shape,
    draw_background,
    draw_colours,
    mix_colours,
    oval,
    rotation,
)
from data_pipelines.datasets.drawn.scene import ACTOR, NOBODY, OBJECT, PERSON, Item, Person, Scene

_GREY = (128, 128, 128)
_SIZES_PX = ((192, 192), (144, 192), (192, 144), (192, 288), (256, 192))  # height, width
_SIZE_SHARES = (0.95, 0.0125, 0.0125, 0.0125, 0.0125)
_MARGIN, _BYSTANDER_MARGIN = 0.04, 0.3  # shares of the picture without centres of things
_MAX_TRIES = 20
CROWD, CROWD_SIDE_PX = 200, 256  # the first owner of a crowd's people; side of its picture


class SceneSettings(NamedTuple):
    """Sets the height of people, as a share of the shorter side, and the numbers of things."""

    height: tuple[float, float]
    things: tuple[int, int]
    clutter: tuple[int, int]
    bystander_share: float


class BodyPosition(NamedTuple):
    """Holds a body's pelvis in pixels and its height."""

    pelvis: complex
    height_px: float

    def covers(self, point: complex, reach_px: float) -> bool:
        """Tells whether a thing of that reach around the point is too near to the body."""
        away = point - self.pelvis
        x = away.real / (0.3 * self.height_px + reach_px)
        y = away.imag / (0.55 * self.height_px + reach_px)
        return x * x + y * y < 1


def compose_scene(
    rng: np.random.Generator, settings: SceneSettings, action: Action | None = None
) -> Scene:
    """Draws a scene with an actor, or without an action only its surroundings."""
    height_px, width_px = _SIZES_PX[rng.choice(len(_SIZES_PX), p=_SIZE_SHARES)]
    canvas = Canvas(draw_background(rng, height_px, width_px))
    mirrored = rng.random() < 0.5
    x, y = rng.uniform((0.32, 0.46), (0.68, 0.58))
    unit_px = min(height_px, width_px)
    position = BodyPosition(
        complex(x * width_px, y * height_px), unit_px * rng.uniform(*settings.height)
    )
    size = complex(width_px, height_px)
    compositor = _Compositor(rng, settings, canvas, size, unit_px, [position] if action else [])
    compositor.add_surroundings()
    if rng.random() < settings.bystander_share:
        compositor.add_bystander()
    if action:
        compositor.add_person(ACTOR, position, action.pose, action.grip)
    scene = compositor.finish()
    return scene.mirrored() if mirrored else scene


def compose_crowd(
    rng: np.random.Generator, settings: SceneSettings, actions: Sequence[Action]
) -> Scene:
    """Draws a scene of up to four actors, each in a quarter of its own, the upper ones first.

    Person i has the pixels of owner CROWD + 2 i, and the held thing those of the next owner.
    """
    canvas = Canvas(draw_background(rng, CROWD_SIDE_PX, CROWD_SIDE_PX))
    mirrored = rng.random() < 0.5
    quarters = np.sort(rng.permutation(4)[: len(actions)])
    positions = []
    for quarter in quarters:
        x, y = (0.25, 0.27) + 0.5 * np.array([quarter % 2, quarter // 2])
        x, y = CROWD_SIDE_PX * (np.array([x, y]) + rng.uniform(-0.03, 0.03, 2))
        positions.append(BodyPosition(complex(x, y), CROWD_SIDE_PX * rng.uniform(*settings.height)))
    size = complex(CROWD_SIDE_PX, CROWD_SIDE_PX)
    compositor = _Compositor(rng, settings, canvas, size, CROWD_SIDE_PX, positions)
    compositor.add_surroundings()
    for index, (position, action) in enumerate(zip(positions, actions, strict=True)):
        compositor.add_person(CROWD + 2 * index, position, action.pose, action.grip)
    scene = compositor.finish()
    return scene.mirrored() if mirrored else scene


@dataclasses.dataclass
class _Compositor:
    rng: np.random.Generator
    settings: SceneSettings
    canvas: Canvas
    size: complex
    unit_px: int
    actors: Sequence[BodyPosition]
    people: dict[int, tuple[BodyPosition, body.Joints]] = dataclasses.field(default_factory=dict)
    items: list[tuple[str, int]] = dataclasses.field(default_factory=list)  # with their pixels

    def add_surroundings(self) -> None:
        for _ in range(self.rng.integers(*self.settings.clutter, endpoint=True)):
            self.add_clutter()
        for _ in range(self.rng.integers(*self.settings.things, endpoint=True)):
            self.add_thing()

    def add_clutter(self) -> None:
        rng = self.rng
        corners = rng.uniform(0.4, 1, 5) * np.exp(2j * np.pi * np.sort(rng.random(5)))
        shape = (
            Shape("muted", corners, filled=True),
            Shape("muted", oval(1.0, 0.55), filled=True),
            Shape("muted", 1.1 * corners[::2], 0.3),
        )[rng.integers(3)]
        palette = {"muted": mix_colours(draw_colours(rng, 1)[0], _GREY, 0.3)}
        by = self.unit_px * rng.uniform(0.06, 0.17) * rotation(rng.uniform(0, 360))
        self.canvas.paint([shape], palette, NOBODY, self.draw_spot(), by)

    def add_thing(self) -> None:
        rng = self.rng
        kind = things.KINDS[rng.integers(len(things.KINDS))]
        shapes, palette = things.THINGS[kind], things.draw_palette(rng)
        centre, radius = things.measure(shapes)
        by = self.unit_px * rng.uniform(*self.settings.height) * rng.uniform(0.6, 1)
        by *= rotation(rng.uniform(-40, 40))
        spot = self.find_free_spot(0.6 * abs(by) * radius)
        if spot is not None:
            self.canvas.paint(shapes, palette, self.next_owner, spot - by * centre, by)
            self.add_item(kind)

    def add_bystander(self) -> None:
        height_px = 0.85 * self.unit_px * self.rng.uniform(*self.settings.height)
        spot = self.find_free_spot(0.3 * height_px, _BYSTANDER_MARGIN)
        if spot is not None:
            self.add_person(self.next_owner, BodyPosition(spot, height_px), STANDING, None)
            self.add_item(PERSON)

    @property
    def next_owner(self) -> int:
        return OBJECT + 1 + len(self.items)

    def add_item(self, kind: str) -> None:
        self.items.append((kind, int(np.sum(self.canvas.owners == self.next_owner))))

    def draw_spot(self, margin_y: float = _MARGIN) -> complex:
        x, y = self.rng.uniform((_MARGIN, margin_y), (1 - _MARGIN, 1 - margin_y))
        return complex(x * self.size.real, y * self.size.imag)

    def find_free_spot(self, reach_px: float, margin_y: float = _MARGIN) -> complex | None:
        for _ in range(_MAX_TRIES):
            spot = self.draw_spot(margin_y)
            if not any(actor.covers(spot, reach_px) for actor in self.actors):
                return spot
        return None

    def add_person(self, owner: int, position: BodyPosition, pose: Pose, grip: Grip | None) -> None:
        rng = self.rng
        angles = np.add(pose.angles, np.multiply(pose.spreads, rng.uniform(-1, 1, 10)))
        joints = body.place_joints(angles, pose.frontal)
        clothes = body.draw_clothes(rng)
        layers = [
            (body.shape_torso(joints, pose.frontal), clothes, owner),
            (body.shape_arms(joints), clothes, owner),
        ]
        if grip:
            thing = grip.place_thing(joints, rng), things.draw_palette(rng), owner + 1
            layers.insert(grip.layer, thing)
        for shapes, palette, layer_owner in layers:
            self.canvas.paint(shapes, palette, layer_owner, *position)
        self.people[owner] = position, joints

    def finish(self) -> Scene:
        owners = self.canvas.owners
        shown = np.bincount(owners.ravel(), minlength=256)
        people = [_locate(owners == each, *self.people[each]) for each in sorted(self.people)]
        items = [
            Item(kind, shown[owner] / max(1, whole))
            for owner, (kind, whole) in enumerate(self.items, OBJECT + 1)
        ]
        return Scene(self.canvas.image, owners, tuple(people), tuple(items))


def _locate(own: Bool[np.ndarray, "h w"], position: BodyPosition, joints: body.Joints) -> Person:
    """Returns the person in the picture; a joint is visible if the person's pixels are near it."""
    at = position.pelvis + position.height_px * joints
    joints_px = np.stack([at.real, at.imag], 1)
    height, width = own.shape
    padded = np.pad(own, 2)
    visible = [
        0 <= x < width and 0 <= y < height and padded[y : y + 5, x : x + 5].any()
        for x, y in np.rint(joints_px).astype(int)
    ]
    return Person(joints_px, np.array(visible, bool), position.height_px)
