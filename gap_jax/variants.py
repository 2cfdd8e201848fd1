"""The grammar of what follows the colon in --config=FILE:part,part."""

import dataclasses

from data_pipelines.config import DATASETS
from data_pipelines.errors import ConfigError, nearest

METHODS = (
    "mean", "attention", "attention_pose", "gap", "gap_pose",
    "max", "second_order", "compact_bilinear", "pose_parts",
)  # fmt: skip
SCALES = ("full", "demo")
RECIPES = ("ours", "reference")


@dataclasses.dataclass(frozen=True)
class Variant:
    """What follows the colon in --config=FILE:part,part, one of each kind."""

    method: str
    data: str
    scale: str
    recipe: str


def parse_variant(text: str, *, method: str) -> Variant:
    """Reads the parts in any order; `demo` alone means `people,demo`, nothing the paper's run."""
    kinds = {"method": METHODS, "data": DATASETS, "scale": SCALES, "recipe": RECIPES}
    chosen: dict[str, str] = {}
    for part in (word for word in text.split(",") if word):
        kind = next((name for name, words in kinds.items() if part in words), None)
        if kind is None:
            raise ConfigError(
                f"config variant {part!r} is unknown{nearest(part, sum(kinds.values(), ()))}"
            )
        if kind in chosen:
            raise ConfigError(
                f"config variant {text!r} names two {kind}s: {chosen[kind]} and {part}"
            )
        chosen[kind] = part
    scale = chosen.get("scale", "full")
    data = chosen.get("data", "people" if scale == "demo" else "mpii")
    recipe = chosen.get("recipe", "ours")
    if (scale, recipe) == ("demo", "reference"):
        raise ConfigError(
            f"config variant {text!r}: the released code has no demo scale; leave out demo or "
            "reference"
        )
    return Variant(chosen.get("method", method), data, scale, recipe)
