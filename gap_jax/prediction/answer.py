"""An answer about one image: its classes with probabilities, attention maps and joints."""

import base64
import dataclasses
import html
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.core import files
from data_pipelines.core.errors import ConfigError, nearest
from data_pipelines.pictures.drawing import Picture, draw_boxes
from gap_jax.evaluation import metrics
from gap_jax.models.cells import Grid
from gap_jax.prediction import overlay
from gap_jax.prediction.attention import ClassMaps, Map, find_joints
from gap_jax.prediction.colours import find_sign
from gap_jax.prediction.photograph import Placement

SHOWN_CLASSES = 5


class Maps(NamedTuple):
    """The maps of a class, on the cells of the network; `combined` has the logit as its mean.

    With several pairs the first two are of the first pair. Both have the sign that makes the peaks
    of `bottom_up` positive.
    """

    bottom_up: Map
    top_down: Map
    combined: Map


def find_class(name: str, classes: tuple[str, ...]) -> int:
    """Returns the id of a class; refuses a name that the model does not know."""
    if name not in classes:
        known = nearest(name, classes)
        raise ConfigError(f"the model has no class {files.quote(name)}{known}")
    return classes.index(name)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """The answer of a model about one image.

    `crop` is what the network sees in its centre view; `placement` and `grid` relate its pixels
    to those of the upright image and to the cells of maps. With a `box` it is about that person,
    the `person`-th of the image.
    """

    name: str
    classes: tuple[str, ...]
    logits: Float[np.ndarray, " k"]
    is_multi_label: bool
    crop: Picture
    placement: Placement
    grid: Grid
    load: Callable[[], Picture]
    compute: Callable[[Picture, int], ClassMaps]
    person: int | None = None
    box: tuple[float, ...] | None = None
    _computed: dict[int, ClassMaps] = dataclasses.field(default_factory=dict)

    @property
    def image(self) -> Picture:
        """The upright photograph; it is read again."""
        return self.load()

    @property
    def probabilities(self) -> Float[np.ndarray, " k"]:
        """Softmax over the classes; a sigmoid of each if images have several labels."""
        if self.is_multi_label:
            return np.exp(-np.logaddexp(0, -self.logits.astype(np.float64)))
        return metrics.softmax(self.logits)

    def top(self, count: int = SHOWN_CLASSES) -> list[tuple[str, float]]:
        """Returns the classes of the highest probabilities, highest first."""
        return [(self.classes[k], float(self.probabilities[k])) for k in self.rank()[:count]]

    def rank(self) -> list[int]:
        """Returns the ids of the classes, highest logit first."""
        return np.argsort(-self.logits, kind="stable").tolist()

    def maps(self, name: str | None = None) -> Maps:
        """Computes the maps of a class, by default of the most probable one."""
        found = self._compute(self._find(name))
        h = np.asarray(found.bottom_up)[0, ..., 0]
        sign = find_sign(h)
        return Maps(sign * h, sign * np.asarray(found.top_down)[0], np.asarray(found.combined)[0])

    @property
    def joints(self) -> Float[np.ndarray, "16 3"] | None:
        """The joints (x, y, visibility; 0 if not found), or None without a pose branch."""
        pose = self._compute(next(iter(self._computed), self._find(None))).pose
        if pose is None:
            return None
        joints = find_joints(np.asarray(pose)[0], *self.crop.shape[:2])[0]
        joints[:, 0] = self.placement.columns.to_photograph(joints[:, 0])
        joints[:, 1] = self.placement.rows.to_photograph(joints[:, 1])
        return np.where(joints[:, 2:] > 0, joints, 0.0)

    def draw(self, name: str | None = None) -> Picture:
        """Draws the photograph with its joints, and the maps of a class over it."""
        k = self._find(name)
        label = f"{self.classes[k]} {100 * self.probabilities[k]:.1f} %"
        maps, image = self.maps(self.classes[k])._asdict(), self.image
        if self.box is not None:
            image = draw_boxes(image, np.array([self.box], np.float32))
        return overlay.draw(image, self.placement, self.grid, maps, self.joints, label)

    def save(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Writes the picture of `draw` as a PNG."""
        files.write_atomically(Path(path), overlay.encode(self.draw(name)))

    def _find(self, name: str | None) -> int:
        return int(self.logits.argmax()) if name is None else find_class(name, self.classes)

    def _compute(self, k: int) -> ClassMaps:
        if k not in self._computed:
            self._computed[k] = self.compute(self.crop, k)
        return self._computed[k]

    def __repr__(self) -> str:
        listed = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.top(3))
        return f"Answer({self.name!r}: {listed})"

    def _repr_html_(self) -> str:
        """Shows the picture and the highest classes in a notebook."""
        source = base64.b64encode(overlay.encode(self.draw())).decode()
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{100 * share:.1f} %</td></tr>"
            for name, share in self.top()
        )
        alt = html.escape(f"attention maps of {self.name}", quote=True)
        return f'<img alt="{alt}" src="data:image/png;base64,{source}"><table>{rows}</table>'
