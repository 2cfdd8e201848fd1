"""The whole network: input scaling, a backbone, the pose branch, a pooling."""

import dataclasses
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, UInt8

from gap_jax.batch import AttentionMaps, Outputs, People
from gap_jax.model_config import Colours
from gap_jax.models.cells import Axis, Grid
from gap_jax.models.pooling import Pooling, SaliencyInput
from gap_jax.models.pose import PoseBranch
from gap_jax.models.regions.people import (
    PeopleRule,
    PeopleScores,
    score_people,
    share,
    whole_picture,
)
from gap_jax.models.regions.rcnn import RegionPooling
from gap_jax.models.saliency import Saliency

Image = UInt8[Array, "b *frames h w 3"] | Float[Array, "b *frames h w 3"]
Picture = UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
Map = Float[Array, "b h2 w2 f"]  # of the backbone
SaliencySource = Literal["features", "hidden", "heatmaps"]  # the last two: of the pose branch


class Placed(NamedTuple):
    """The people of images, the axes of the images' maps, and the height and width of an image."""

    people: People
    grid: Grid
    size: tuple[int, int]


@runtime_checkable
class Backbone(Protocol):
    """A module that turns pixels into a map of `features` channels."""

    features: int

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 f"]: ...

    def locate(self, axis: Axis) -> Axis:
        """Computes the map's axis from the image's."""
        ...


def normalise(image: Picture, mean: Colours, scale: Colours) -> Float[Array, "b h w 3"]:
    """(image - mean) / scale per channel."""
    shift, spread = (jnp.array(values)[None, None, None] for values in (mean, scale))
    return (image.astype(jnp.float32) - shift) / spread


@nnx.dataclass(eq=False)
class Network(nnx.Module):
    """Backbone, pooling and an optional pose branch.

    With `people_rule` it scores each person in their box, by a `RegionPooling` or by any pooling.

    The input of the backbone is (pixel - mean) / scale. The backbone and the hidden layers of the
    pose branch and of the saliency compute in `dtype`; heatmaps, bottom-up maps, pooled vectors
    and logits are float32.
    """

    backbone: Backbone
    pooling: Pooling | RegionPooling
    pose: PoseBranch | None = None
    _: dataclasses.KW_ONLY
    saliency_source: SaliencySource = "features"
    over_frames: Saliency | None = None
    people_rule: PeopleRule | None = None
    mean: Colours = (0.0, 0.0, 0.0)
    scale: Colours = (1.0, 1.0, 1.0)
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        source = self.saliency_source
        if source != "features" and self.pose is None:
            raise ValueError(
                f"saliency_source={source!r} is of the pose branch, and pose=None; pass one"
            )
        if self.people_rule is not None and self.over_frames is not None:
            raise ValueError("people_rule is for pictures, and over_frames for clips; pass one")

    def __call__(
        self,
        image: Image | Map,
        *,
        people: People | None = None,
        train: bool = False,
        keys: Key[Array, " b"] | None = None,
        want_maps: bool = False,
        map_of_px: int | None = None,
    ) -> Outputs:
        """Computes logits, heatmaps and, with `want_maps`, attention maps.

        With `map_of_px` the image is the map that the backbone computed of a square of such a side.
        `train` uses and updates batch statistics. `keys`, one for each row, draw the dropout masks.
        With `over_frames` an image is a clip, and heatmaps and maps have its axis of frames.
        With `people_rule` a call without `people` takes each image as the box of one person.
        """
        if (image.ndim == 5) != (self.over_frames is not None):
            due = "(b, h, w, 3)" if self.over_frames is None else "(b, frames, h, w, 3)"
            raise ValueError(f"the image has shape {image.shape}; this network takes {due}")
        if people is not None and self.people_rule is None:
            raise ValueError("this network reads no boxes; leave out `people`")
        if self.over_frames is None:
            x = image.astype(self.dtype) if map_of_px else self.extract(image, train=train)
            height, width = (map_of_px, map_of_px) if map_of_px else image.shape[1:3]
            size = height, width
            boxed = None if self.people_rule is None else self._place(len(image), size, people)
            return self._read(x, train, keys, want_maps, boxed)
        b, t = image.shape[:2]
        if keys is not None:
            keys = jax.vmap(lambda key: jax.random.split(key, t))(keys).reshape(-1)
        x = self.extract(image.reshape(b * t, *image.shape[2:]), train=train)
        frames = self._read(x, train, keys, want_maps)
        frames = jax.tree.map(lambda leaf: leaf.reshape(b, t, *leaf.shape[1:]), frames)
        return _join_frames(frames, self.over_frames(frames.logits))

    def extract(self, image: Picture, *, train: bool = False) -> Map:
        """Computes the backbone's map."""
        return self.backbone(
            normalise(image, self.mean, self.scale).astype(self.dtype), train=train
        )

    def _place(self, rows: int, size: tuple[int, int], people: People | None) -> Placed:
        """Adds the axes of the map and the size of the image; by default the image is a person."""
        grid = Grid(*(self.backbone.locate(Axis(pixels)) for pixels in size))
        return Placed(people or whole_picture(rows, *size), grid, size)

    def _read(
        self,
        x: Map,
        train: bool,
        keys: Key[Array, " b"] | None,
        want_maps: bool,
        placed: Placed | None = None,
    ) -> Outputs:
        """Computes the outputs from the backbone's map."""
        if train and keys is None and self.pooling.dropout:
            raise ValueError("training with dropout needs `keys`, one for each row")
        heatmaps, hidden = (None, None) if self.pose is None else self.pose(x)
        read = {"features": None, "hidden": hidden, "heatmaps": heatmaps}[self.saliency_source]
        if placed is not None and self.people_rule is not None:
            found = self._score_people(x, read, placed, self.people_rule, keys, want_maps)
            shares = share(found.logits, placed.people.boxes, self.people_rule.over)
            logits = (shares * found.logits).sum(1)
            return Outputs(logits, heatmaps, found.maps, found.logits, found.winner)
        if isinstance(self.pooling, RegionPooling):
            raise ValueError("a RegionPooling needs a people_rule; pass one")
        if want_maps:
            maps = self.pooling.maps(x, read, keys=keys)
            return Outputs(maps.logits, heatmaps, maps)
        return Outputs(self.pooling(x, read, keys=keys), heatmaps, None)

    def _score_people(
        self,
        x: Map,
        read: SaliencyInput,
        placed: Placed,
        rule: PeopleRule,
        keys: Key[Array, " b"] | None,
        want_maps: bool,
    ) -> PeopleScores:
        people, grid, size = placed
        choices: Any = {"keys": keys, "want_maps": want_maps}
        if isinstance(self.pooling, RegionPooling):
            return self.pooling(x, people, grid, over=rule.over, **choices)
        return score_people(self.pooling, x, read, people.boxes, grid, size, rule, **choices)


def _join_frames(frames: Any, g: Float[Array, "b t 1"]) -> Outputs:
    """Computes the logits mean_t(L_t g_t) and the maps of a clip from those of its frames."""
    if frames.maps is None:
        return Outputs((frames.logits * g).mean(1), frames.pose, None)
    bottom_up, combined = (
        each * g.reshape(*g.shape[:2], *[1] * (each.ndim - 2))
        for each in (frames.maps.bottom_up, frames.maps.combined)
    )
    maps = AttentionMaps(bottom_up, frames.maps.top_down, combined)
    return Outputs(maps.logits, frames.pose, maps)
