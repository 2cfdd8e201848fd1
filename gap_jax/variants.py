"""Parses --config=FILE:part,part: locates FILE, reads the parts and sets a method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.config import DATASETS
from data_pipelines.core.errors import ConfigError, nearest
from gap_jax.config import Config
from gap_jax.model_config import HARD

METHODS = (
    "mean", "attention", "attention_pose", "gap", "gap_pose",
    "max", "second_order", "compact_bilinear", "pose_parts", *HARD,
)  # fmt: skip
OF_VIDEOS = tuple(each for each in METHODS if each not in HARD)
SCALES = ("full", "demo")
RECIPES = ("ours", "reference")
TRAININGS = ("frozen", "full")
SPLITS = ("split1", "split2", "split3")  # of HMDB51
KINDS = {"method": METHODS, "data": DATASETS, "scale": SCALES, "recipe": RECIPES}
PARTS = {  # of the package's configs: the parts after the colon, by kind
    "gap_pose": KINDS,
    "hico": {"method": METHODS, "recipe": RECIPES},
    "photos": {"method": METHODS, "training": TRAININGS},
    "hmdb51": {"method": OF_VIDEOS, "split": SPLITS},
}

WITHOUT_JOINTS = ("objects", "hico", "stanford40", "voc_action")
WITHOUT_VAL = ("hico", "stanford40", "hmdb51")  # they are published as train and test

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
    chosen = parse_parts(text, KINDS)
    scale = chosen.get("scale", "full")
    data = chosen.get("data", "people" if scale == "demo" else "mpii")
    recipe = chosen.get("recipe", "ours")
    if (scale, recipe) == ("demo", "reference"):
        raise ConfigError(
            f"config variant {text!r}: the released code has no demo scale; leave out demo or "
            "reference"
        )
    return Variant(chosen.get("method", method), data, scale, recipe)


def parse_parts(text: str, known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Reads parts in any order, at most one of each kind; `known` lists the parts of each kind."""
    kinds = {part: kind for kind, parts in known.items() for part in parts}
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
    return chosen


def set_method(cfg: Config, method: str) -> None:
    """Sets the pooling and the pose branch of a method in a config with the default values."""
    model, pose = cfg.model, cfg.pose
    match method:
        case "mean" | "max":
            model.pooling, model.dropout, pose.branch = method, 0.0, False
        case "attention" | "gap" | "second_order" | "compact_bilinear":
            model.pooling, pose.branch = method, False
        case "attention_pose":
            model.pooling, model.saliency_input = "attention", "pose"
            pose.weight, pose.reduction = 1.0, "reference"
        case "pose_parts":
            model.pooling, model.dropout_where = "pose_parts", "pooled"
            pose.weight, pose.reduction = 1.0, "reference"
        case "rcnn" | "rstarcnn":
            model.pooling, model.dropout, pose.branch = method, 0.5, False
            cfg.data.regions = 10 if method == "rstarcnn" else 0
        case _:
            pass  # the defaults are gap_pose


def set_data(cfg: Config, name: str, *, keeps_pose: bool = False) -> None:
    """Sets a data set, its evaluated split and its own metric; call `set_method` before.

    Without joints there is no pose branch, unless the config `keeps_pose`.
    """
    cfg.data.name = name
    if name in WITHOUT_VAL:
        cfg.data.eval_split = "test"
    if name in WITHOUT_JOINTS and not keeps_pose:
        cfg.pose.branch, cfg.model.saliency_input = False, "features"
    if name == "hico":
        cfg.eval.average_precision, cfg.eval.unknown = "voc2007", "negative"


def set_region_recipe(cfg: Config) -> None:
    """Sets the recipe of R*CNN's released code, as far as it fits (docs/method.md)."""
    data, model, optim, train = cfg.data, cfg.model, cfg.optim, cfg.train
    data.image_size_px = data.short_side_px = 600
    data.limit_width_px = 1000
    model.backbone, model.input = "vgg16", "fast_rcnn"
    cfg.init.weights = "weights/vgg16.safetensors"
    optim.learning_rate, optim.bias_multiplier = 1e-4, 2.0
    optim.decay_factor, optim.decay_every_steps = 0.1, 30_000
    optim.frozen = ("backbone/stages/0", "backbone/stages/1")
    train.steps, train.batch_size, train.accumulate = 40_000, 2, 1


def set_reference_recipe(cfg: Config) -> None:
    """Sets the recipe of AP's released code and checkpoints, including fields at their defaults."""
    data, model = cfg.data, cfg.model
    if model.pooling in HARD:
        raise ConfigError(f"AP's released code has no {model.pooling}; leave out reference")
    data.preprocessing, data.limit_width_px, data.resize = "reference", 512, "legacy"
    data.swap_on_flip, data.eval_crops, data.eval_flip = False, "center", False
    model.strides, model.stem_padding, model.dtype = "slim", "auto", "float32"
    model.input, model.norm_running = "reference", "first"
    if model.pooling in ("attention", "gap"):  # others ignore the field
        model.rank_form = "chained"
    model.sketch_normalisation = "none"
    cfg.pose.weight, cfg.pose.reduction = 1.0, "reference"
    cfg.train.unlabelled = "reference"
    cfg.eval.ranking = "softmax"
    if cfg.data.name == "hico":
        cfg.train.unknown, cfg.train.positive_weight = "negative", 10.0
    else:
        cfg.eval.average_precision = "envelope"


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
