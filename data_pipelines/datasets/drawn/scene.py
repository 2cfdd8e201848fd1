"""A finished scene: the picture, who is in it, what lies about, and its twin in a mirror."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.example import MIRRORED_JOINTS

NOBODY, ACTOR, OBJECT = 0, 1, 2  # owners of pixels; what stands around has higher numbers
PERSON = "person"


class Person(NamedTuple):
    """Joints in 0-based pixels (x, y), which of them show, and the body's height."""

    joints: Float[np.ndarray, "16 2"]
    visible: Bool[np.ndarray, "16"]
    height_px: float

    def mirrored(self, width_px: int) -> "Person":
        """The person in the mirror, where a right hand has become a left one."""
        swapped = list(MIRRORED_JOINTS)
        joints = self.joints[swapped] * (-1, 1) + (width_px - 1, 0)
        return Person(joints, self.visible[swapped], self.height_px)


class Item(NamedTuple):
    """A thing that lies about or a bystander, and the share of it that nothing covers."""

    kind: str
    visible_share: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture and everything that is known about it; an actor is its first person."""

    image: UInt8[np.ndarray, "h w 3"]
    owner: UInt8[np.ndarray, "h w"]
    people: tuple[Person, ...]
    items: tuple[Item, ...]

    @property
    def mask(self) -> UInt8[np.ndarray, "h w"]:
        """1 where the actor is, 2 where what the actor holds is, 0 elsewhere."""
        return np.where(self.owner <= OBJECT, self.owner, NOBODY).astype(np.uint8)

    def mirrored(self) -> "Scene":
        """The scene in a mirror."""
        width_px = self.image.shape[1]
        return Scene(
            np.ascontiguousarray(self.image[:, ::-1]),
            np.ascontiguousarray(self.owner[:, ::-1]),
            tuple(person.mirrored(width_px) for person in self.people),
            self.items,
        )
