"""Maps the 33 landmarks of BlazePose to the sixteen joints of MPII."""

import numpy as np
from jaxtyping import Float

from data_pipelines.example import HIDDEN, JOINTS, NOT_ANNOTATED, VISIBLE

MOUTH, EARS, SHOULDERS, HIPS = [9, 10], [7, 8], [11, 12], [23, 24]
DIRECT = {
    "right ankle": 28, "right knee": 26, "right hip": 24,
    "left hip": 23, "left knee": 25, "left ankle": 27,
    "right wrist": 16, "right elbow": 14, "right shoulder": 12,
    "left shoulder": 11, "left elbow": 13, "left wrist": 15,
}  # fmt: skip
HEAD_FACTOR = 2.0
LEAST_VISIBILITY = 0.5  # of a visible joint; a landmark below it is hidden


def map_landmarks(
    landmarks: Float[np.ndarray, "33 3"], width: int, height: int
) -> tuple[Float[np.ndarray, "16 3"], Float[np.ndarray, " 16"]]:
    """Returns the joints (x, y, visibility) in 0-based pixels, and their scores in 0..1.

    Pelvis and thorax are the middles of the hips and the shoulders, the upper neck is halfway from
    the thorax to the mouth, the head top in the direction of the ears, twice as far. The centre of
    the first pixel is at 0. A joint outside the picture is not annotated. The score
    of a derived joint is the least of its landmarks'.
    """
    points, seen = landmarks[:, :2], landmarks[:, 2].clip(0, 1)
    found = {name: (points[index], seen[index]) for name, index in DIRECT.items()}
    pelvis, thorax, mouth, ears = (
        (points[pair].mean(axis=0), seen[pair].min()) for pair in (HIPS, SHOULDERS, MOUTH, EARS)
    )
    neck = (thorax[0] + mouth[0]) / 2, min(thorax[1], mouth[1])
    top = neck[0] + HEAD_FACTOR * (ears[0] - neck[0]), min(neck[1], ears[1])
    found |= {"pelvis": pelvis, "thorax": thorax, "upper neck": neck, "head top": top}
    xy = np.array([found[name][0] for name in JOINTS]) * (width, height) - 0.5
    scores = np.array([found[name][1] for name in JOINTS])
    kind = np.where(scores >= LEAST_VISIBILITY, VISIBLE, HIDDEN)
    is_inside = np.all((xy >= -0.5) & (xy <= np.array((width, height)) - 0.5), axis=1)
    kind = np.where(is_inside, kind, NOT_ANNOTATED)
    xy = np.where(is_inside[:, None], xy, 0.0)
    return np.column_stack([xy, kind]), np.where(is_inside, scores, 0.0)
