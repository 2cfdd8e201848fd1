"""Computes a body's sixteen joints by forward kinematics, and the shapes of its clothed figure."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from data_pipelines.datasets.drawn.canvas import (
    Colour,
    Shape,
    area,
    disc,
    draw_colours,
    mix_colours,
    oval,
    stroke,
)

Joints = Complex[np.ndarray, "16"]

LIMB_ANGLES = (
    "spine", "neck",
    "right upper arm", "right forearm", "left upper arm", "left forearm",
    "right thigh", "right shin", "left thigh", "left shin",
)  # fmt: skip


class Bone(NamedTuple):
    """Joins a joint to its parent at a length, along a limb's angle or at right angles to it."""

    joint: int
    parent: int
    length: float
    limb: int
    square: int = 0  # +90 or -90 degrees off the limb: shoulders and hips, narrower in profile


# Lengths are shares of the height from ankle to head top; the first bone starts at the pelvis, 6.
SKELETON = (
    Bone(7, 6, 0.29, 0), Bone(8, 7, 0.055, 1), Bone(9, 8, 0.17, 1),
    Bone(12, 7, 0.105, 0, +90), Bone(11, 12, 0.17, 2), Bone(10, 11, 0.16, 3),
    Bone(13, 7, 0.105, 0, -90), Bone(14, 13, 0.17, 4), Bone(15, 14, 0.16, 5),
    Bone(2, 6, 0.06, 0, +90), Bone(1, 2, 0.245, 6), Bone(0, 1, 0.24, 7),
    Bone(3, 6, 0.06, 0, -90), Bone(4, 3, 0.245, 8), Bone(5, 4, 0.24, 9),
)  # fmt: skip


def place_joints(angles: Float[np.ndarray, "10"], frontal: float) -> Joints:
    """Computes the joints of a body of height 1 with its pelvis at 0.

    An angle is 0 for a limb that hangs, 90 for one that points right in the picture, 180 for up;
    `frontal` is 1 for a body seen from the front and near 0 in profile, looking right.
    """
    joints = np.zeros(16, complex)
    for bone in SKELETON:
        angle = np.radians(angles[bone.limb] + bone.square)
        width = frontal if bone.square else 1.0
        joints[bone.joint] = joints[bone.parent] + width * bone.length * 1j * np.exp(-1j * angle)
    return joints


_SKINS = (
    (255, 219, 186), (241, 194, 150), (224, 172, 120),
    (190, 132, 88), (141, 92, 60), (96, 62, 44),
)  # fmt: skip
_HAIRS = ((40, 30, 26), (92, 58, 36), (196, 150, 74), (150, 62, 34), (150, 146, 144))
_SHOES = ((44, 44, 48), (232, 230, 224), (128, 74, 44))


def draw_clothes(rng: np.random.Generator) -> dict[str, Colour]:
    """Draws the colours of skin, hair and clothes, with long or short sleeves and legs."""
    skin, hair, shoe = (choices[rng.integers(len(choices))] for choices in (_SKINS, _HAIRS, _SHOES))
    shirt, trousers = draw_colours(rng, 2)
    dark_trousers = mix_colours(trousers, (40, 40, 60), 0.45)
    return {
        "skin": skin,
        "hair": hair,
        "eye": (30, 24, 24),
        "shoe": shoe,
        "shirt": shirt,
        "trousers": dark_trousers,
        "forearm": (skin, shirt)[rng.integers(2)],
        "shin": (skin, dark_trousers, dark_trousers)[rng.integers(3)],
    }


def shape_torso(joints: Joints, frontal: float) -> list[Shape]:
    """Returns the shapes of legs, torso and head, the farther ones first."""
    left_leg = _leg(joints[[3, 4, 5]], frontal, +1)
    right_leg = _leg(joints[[2, 1, 0]], frontal, -1)
    torso = area("shirt", *joints[[12, 13, 3, 2]], rounding=0.075)
    belt = stroke("trousers", 0.08, *joints[[3, 2]])
    return [*left_leg, *right_leg, belt, torso, *_head(joints, frontal)]


def shape_arms(joints: Joints) -> list[Shape]:
    """Returns the shapes of both arms, the left one first."""
    return [*_arm(joints[[13, 14, 15]]), *_arm(joints[[12, 11, 10]])]


def _leg(joints: Complex[np.ndarray, "3"], frontal: float, outward: int) -> list[Shape]:
    hip, knee, ankle = joints
    toe = ankle + 0.075 * (1 - frontal) + 0.03 * outward * frontal + 0.018j
    return [
        stroke("shoe", 0.05, ankle + 0.012j, toe),
        stroke("shin", 0.062, knee, ankle),
        stroke("trousers", 0.085, hip, knee),
    ]


def _arm(joints: Complex[np.ndarray, "3"]) -> list[Shape]:
    shoulder, elbow, wrist = joints
    hand = wrist + 0.15 * (wrist - elbow)
    return [
        disc("skin", hand, 0.03),
        stroke("forearm", 0.048, elbow, wrist),
        stroke("shirt", 0.06, shoulder, elbow),
    ]


def _head(joints: Joints, frontal: float) -> list[Shape]:
    neck, top = joints[[8, 9]]
    up = (top - neck) / 2
    side = 1 - frontal
    eyes = 0.45 * side + 0.05j + np.array([-0.36, 0.36]) * (1 - 0.4 * side)
    face = [
        Shape("skin", oval(0.82, 1.0), filled=True),
        Shape("hair", oval(0.84, 1.03, -162 - 50 * side, -18 - 25 * side), 0.16, filled=True),
        *(disc("eye", eye, 0.03) for eye in eyes),
    ]
    throat = stroke("skin", 0.055, joints[7], neck + 0.3 * up)
    return [throat, *(shape.placed((neck + top) / 2, 1j * up) for shape in face)]
