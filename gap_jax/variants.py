"""The grammar of --config=FILE:part,part: where FILE lies, and what the parts mean."""

import dataclasses
from pathlib import Path

from data_pipelines.config import DATASETS
from data_pipelines.errors import ConfigError, nearest

METHODS = (
    "mean", "attention", "attention_pose", "gap", "gap_pose",
    "max", "second_order", "compact_bilinear", "pose_parts",
)  # fmt: skip
SCALES = ("full", "demo")
RECIPES = ("ours", "reference")

_INSTALLED = Path(__file__).parent / "configs"  # a wheel holds the configs there
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "configs"


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


def locate(spec: str) -> str:
    """FILE[:parts] with the path of FILE, where that is a config of the package.

    `gap_pose` always names configs/gap_pose.py of the package; `configs/gap_pose.py` does so unless
    such a file exists where the command runs.
    """
    file, colon, parts = spec.partition(":")
    name = Path(file).stem
    found = CONFIGS / f"{name}.py"
    is_named = file == name or (file == f"configs/{name}.py" and not Path(file).is_file())
    return f"{found}{colon}{parts}" if is_named and found.is_file() else spec


def list_configs() -> list[str]:
    """The names of the package's configs."""
    return sorted(path.stem for path in CONFIGS.glob("[!_]*.py"))
