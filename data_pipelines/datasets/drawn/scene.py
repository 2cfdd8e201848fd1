"""Holds a finished scene: the picture, its people and things, and how to mirror them."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.example import MIRRORED_JOINTS

NOBODY, ACTOR, OBJECT = 0, 1, 2  # owners of pixels; other things and people have higher numbers
PERSON = "person"


class Person(NamedTuple):
    """Holds joints in 0-based pixels (x, y), their visibility and the body's height."""

    joints: Float[np.ndarray, "16 2"]
    visible: Bool[np.ndarray, "16"]
    height_px: float

    def mirrored(self, width_px: int) -> "Person":
        """Mirrors the person; left and right joints are swapped."""
        swapped = list(MIRRORED_JOINTS)
        joints = self.joints[swapped] * (-1, 1) + (width_px - 1, 0)
        return Person(joints, self.visible[swapped], self.height_px)


class Item(NamedTuple):
    """Names a thing or a bystander, and the share of it that is not covered."""

    kind: str
    visible_share: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """Holds a picture and its annotation; the actor is the first person."""

    image: UInt8[np.ndarray, "h w 3"]
    owner: UInt8[np.ndarray, "h w"]
    people: tuple[Person, ...]
    items: tuple[Item, ...]

    @property
    def mask(self) -> UInt8[np.ndarray, "h w"]:
        """The mask: 1 on the actor, 2 on the held thing, 0 elsewhere."""
        return np.where(self.owner <= OBJECT, self.owner, NOBODY).astype(np.uint8)

    def mirrored(self) -> "Scene":
        """Mirrors the scene."""
        width_px = self.image.shape[1]
        return Scene(
            np.ascontiguousarray(self.image[:, ::-1]),
            np.ascontiguousarray(self.owner[:, ::-1]),
            tuple(person.mirrored(width_px) for person in self.people),
            self.items,
        )
