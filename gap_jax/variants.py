"""Parses --config=FILE:part,part: locates FILE and reads the parts."""

from pathlib import Path
from typing import NamedTuple

from data_pipelines.config import DATASETS
from data_pipelines.core.errors import ConfigError, nearest

METHODS = (
    "mean", "attention", "attention_pose", "gap", "gap_pose",
    "max", "second_order", "compact_bilinear", "pose_parts",
)  # fmt: skip
SCALES = ("full", "demo")
RECIPES = ("ours", "reference")
KINDS = {"method": METHODS, "data": DATASETS, "scale": SCALES, "recipe": RECIPES}
PARTS = {"gap_pose": KINDS}  # of the package's configs: the parts after the colon, by kind

_INSTALLED = Path(__file__).parent / "configs"  # in a wheel
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "configs"


class Variant(NamedTuple):
    """The parts after the colon in --config=FILE:part,part, one of each kind."""

    method: str
    data: str
    scale: str
    recipe: str


def parse_variant(text: str, *, method: str) -> Variant:
    """Reads the parts in any order; `demo` implies `people`, no part means the paper's run."""
    kinds = {part: kind for kind, parts in KINDS.items() for part in parts}
    chosen: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        if part not in kinds:
            raise ConfigError(f"config variant {part!r} is unknown{nearest(part, list(kinds))}")
        kind = kinds[part]
        if kind in chosen:
            raise ConfigError(
                f"config variant {text!r} names two {kind}s, {chosen[kind]} and {part}; keep one"
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
    """Replaces FILE in FILE[:parts] by its path if it names a config of the package.

    `gap_pose` always names configs/gap_pose.py of the package; `configs/gap_pose.py` does so unless
    the current folder has such a file.
    """
    file, colon, parts = spec.partition(":")
    name = Path(file).stem
    found = CONFIGS / f"{name}.py"
    is_named = file == name or (file == f"configs/{name}.py" and not Path(file).is_file())
    return f"{found}{colon}{parts}" if is_named and found.is_file() else spec


def list_configs() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("[!_]*.py"))
