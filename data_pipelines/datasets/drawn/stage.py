"""The stage on which a scene is composed: surroundings first, the actor last.

All that surrounds the actor is drawn from random numbers before the action is looked at, and is
rejected only where it would hide the actor's body: so nothing but the actor tells the action.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from data_pipelines.datasets.drawn import body, things
from data_pipelines.datasets.drawn.actions import STANDING, Action, Grip, Pose
from data_pipelines.datasets.drawn.canvas import (
    Canvas,
    Shape,
    colours,
    mix,
    oval,
    smooth_background,
    turn,
)
from data_pipelines.datasets.drawn.scene import ACTOR, NOBODY, OBJECT, PERSON, Item, Person, Scene

_GREY = (128, 128, 128)
_SIZES_PX = ((192, 192), (144, 192), (192, 144), (192, 288), (256, 192))  # height, width
_SIZE_SHARES = (0.95, 0.0125, 0.0125, 0.0125, 0.0125)
_MARGIN, _BYSTANDER_MARGIN = 0.04, 0.3  # shares of the picture that stay free of middles
_TRIES = 20


class Setting(NamedTuple):
    """How tall people are, as a share of the shorter side, and how much lies about."""

    height: tuple[float, float]
    things: tuple[int, int]
    clutter: tuple[int, int]
    bystander_share: float


class Place(NamedTuple):
    """Where a body stands: its pelvis in pixels, and its height."""

    pelvis: complex
    height_px: float

    def covers(self, point: complex, reach_px: float) -> bool:
        """Whether something of that reach around the point comes too near to the body."""
        away = point - self.pelvis
        x = away.real / (0.3 * self.height_px + reach_px)
        y = away.imag / (0.55 * self.height_px + reach_px)
        return x * x + y * y < 1


def compose(rng: np.random.Generator, setting: Setting, action: Action | None = None) -> Scene:
    """Draws a scene around an actor, or surroundings alone."""
    height_px, width_px = _SIZES_PX[rng.choice(len(_SIZES_PX), p=_SIZE_SHARES)]
    canvas = Canvas.on(smooth_background(rng, height_px, width_px))
    stage = _Stage(rng, setting, canvas, complex(width_px, height_px))
    mirrored = rng.random() < 0.5
    place = stage.draw_place(*rng.uniform((0.32, 0.46), (0.68, 0.58)))
    stage.surround(place if action else None)
    if action:
        stage.add_person(ACTOR, place, action.pose, action.grip)
    scene = stage.finish()
    return scene.mirrored() if mirrored else scene


@dataclasses.dataclass
class _Stage:
    rng: np.random.Generator
    setting: Setting
    canvas: Canvas
    size: complex
    people: dict[int, tuple[Place, body.Joints]] = dataclasses.field(default_factory=dict)
    items: dict[int, tuple[str, int]] = dataclasses.field(default_factory=dict)

    @property
    def unit_px(self) -> float:
        return min(self.size.real, self.size.imag)

    @property
    def next_owner(self) -> int:
        return OBJECT + 1 + len(self.items)

    def draw_place(self, x: float, y: float) -> Place:
        height_px = self.unit_px * self.rng.uniform(*self.setting.height)
        return Place(complex(x * self.size.real, y * self.size.imag), height_px)

    def surround(self, actor: Place | None) -> None:
        rng, setting = self.rng, self.setting
        for _ in range(rng.integers(*setting.clutter, endpoint=True)):
            self.add_clutter()
        for _ in range(rng.integers(*setting.things, endpoint=True)):
            self.add_thing(actor)
        if rng.random() < setting.bystander_share:
            self.add_bystander(actor)

    def add_clutter(self) -> None:
        rng = self.rng
        corners = rng.uniform(0.4, 1, 5) * np.exp(2j * np.pi * np.sort(rng.random(5)))
        shape = (
            Shape("muted", corners, filled=True),
            Shape("muted", oval(1.0, 0.55), filled=True),
            Shape("muted", 1.1 * corners[::2], 0.3),
        )[rng.integers(3)]
        palette = {"muted": mix(colours(rng, 1)[0], _GREY, 0.3)}
        by = self.unit_px * rng.uniform(0.06, 0.17) * turn(rng.uniform(0, 360))
        self.canvas.paint([shape], palette, NOBODY, self.draw_spot(), by)

    def add_thing(self, actor: Place | None) -> None:
        rng = self.rng
        kind = things.KINDS[rng.integers(len(things.KINDS))]
        thing, palette = things.THINGS[kind], things.paint(rng)
        by = self.unit_px * rng.uniform(*self.setting.height) * rng.uniform(0.6, 1)
        by *= turn(rng.uniform(-40, 40))
        spot = self.find_free_spot(actor, 0.6 * abs(by) * thing.radius)
        if spot is None:
            return
        owner = self.next_owner
        self.canvas.paint(thing.shapes, palette, owner, spot - by * thing.centre, by)
        self.items[owner] = kind, self.canvas.count(owner)

    def add_bystander(self, actor: Place | None) -> None:
        height_px = 0.85 * self.unit_px * self.rng.uniform(*self.setting.height)
        spot = self.find_free_spot(actor, 0.3 * height_px, _BYSTANDER_MARGIN)
        if spot is None:
            return
        owner = self.next_owner
        self.add_person(owner, Place(spot, height_px), STANDING, None)
        self.items[owner] = PERSON, self.canvas.count(owner)

    def draw_spot(self, margin_y: float = _MARGIN) -> complex:
        x, y = self.rng.uniform((_MARGIN, margin_y), (1 - _MARGIN, 1 - margin_y))
        return complex(x * self.size.real, y * self.size.imag)

    def find_free_spot(
        self, taken: Place | None, reach_px: float, margin_y: float = _MARGIN
    ) -> complex | None:
        for _ in range(_TRIES):
            spot = self.draw_spot(margin_y)
            if taken is None or not taken.covers(spot, reach_px):
                return spot
        return None

    def add_person(self, owner: int, place: Place, pose: Pose, grip: Grip | None) -> None:
        rng = self.rng
        joints = body.place_joints(pose.draw(rng), pose.frontal)
        clothes = body.dress(rng)
        layers = [
            (body.trunk(joints, pose.frontal), clothes, owner),
            (body.arms(joints), clothes, owner),
        ]
        if grip:
            layers.insert(grip.layer, (grip.hold(joints, rng), things.paint(rng), OBJECT))
        for shapes, palette, whose in layers:
            self.canvas.paint(shapes, palette, whose, place.pelvis, place.height_px)
        self.people[owner] = place, joints

    def finish(self) -> Scene:
        image, owners = self.canvas.finish()
        shown = np.bincount(owners.ravel(), minlength=256)
        people = [_find(owners == owner, *who) for owner, who in sorted(self.people.items())]
        items = [
            Item(kind, shown[owner] / max(1, whole)) for owner, (kind, whole) in self.items.items()
        ]
        return Scene(image, owners, tuple(people), tuple(items))


def _find(own: Bool[np.ndarray, "h w"], place: Place, joints: body.Joints) -> Person:
    """The person in the picture; a joint shows where the person's own pixels are next to it."""
    at = place.pelvis + place.height_px * joints
    height, width = own.shape
    padded = np.pad(own, 2)
    visible = [
        0 <= x < width and 0 <= y < height and padded[y : y + 5, x : x + 5].any()
        for x, y in zip(np.rint(at.real).astype(int), np.rint(at.imag).astype(int), strict=True)
    ]
    return Person(np.stack([at.real, at.imag], 1), np.array(visible, bool), place.height_px)
