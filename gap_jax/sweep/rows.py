"""The rows of each kind of sweep: a config for each, or the reason why it does not run.

A method is a part of --config=FILE:parts, so that FILE decides about its other settings.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.core.errors import ConfigError, name_some
from data_pipelines.core.settings import unknown_field
from data_pipelines.manifest import Manifest
from gap_jax.config import Config, differences, fields
from gap_jax.flags import OVERRIDE, name_field, read_unchecked, resolve
from gap_jax.learning.length import resolve_length
from gap_jax.model_config import HARD, READ_BY, ModelConfig, find_region_readers
from gap_jax.runtime.run_folder import HARMLESS
from gap_jax.variants import METHODS

KINDS = {
    "table1": "the methods of the GAP paper's Table I",
    "fig2": "the weight of the pose loss, for each of its reductions (GAP, Fig. 2)",
    "fig3": "the layers T of the factored saliency (GAP, Fig. 3)",
    "ranks": "the rank P of attentional pooling",
    "grid": "all combinations of the values of chosen fields",
}
TUNE = "tune"  # a search, not rows: its module needs Optuna
TABLE1: Mapping[str, tuple[str, dict[str, str]]] = {  # the method and fields of each row
    "mean": ("mean", {}),
    "max": ("max", {}),
    "attention": ("attention", {}),
    "attention_pose_weight0": ("attention_pose", {"pose.weight": "0.0"}),
    "attention_pose": ("attention_pose", {}),
    "gap": ("gap", {}),
    "gap_weight_space": ("gap", {"model.space": "weight", "model.gate_init": "paper"}),
    "gap_pose": ("gap_pose", {}),
    "rcnn": ("rcnn", {}),
    "rstarcnn": ("rstarcnn", {}),
    "attention_people": ("attention", {"model.regions": "people"}),
}
REDUCTIONS = ("reference", "mean", "sum_per_image")
POSE_WEIGHTS = tuple(float(f"1e-{power}") for power in range(9))
RATE_FACTORS = (1 / 3, 1.0, 3.0)
LAYERS, RANKS = range(6), range(1, 6)

# mAP on MPII val in percent, from the two papers and the AP authors' page
PUBLISHED = {
    "table1": {
        "mean": 26.2, "attention": 30.3, "attention_pose": 30.6, "gap": 30.6, "gap_pose": 31.6,
        "rcnn": 16.5, "rstarcnn": 21.7,
    },
    "ranks": {"P=1": 30.3, "P=2": 29.2, "P=5": 30.0},
}  # fmt: skip
RATE = "optim.learning_rate"
CHOSEN_BY_SWEEP = {
    RATE: "--rates",
    "train.seed": "--seeds",
    "data.held_out": "--held-out",
}
SAFE_NAME = re.compile(r"[^\w.=,+-]+")

Over = tuple[str, tuple[str, ...]]


class Row(NamedTuple):
    """A row of a sweep; without a config it is only quoted, for `reason`."""

    name: str
    spec: str  # FILE[:parts], whose config is `base`
    cfg: Config | None
    reason: str = ""
    published: float | None = None  # mAP in percent, where data and metric are the paper's
    base: Config | None = None


def make_rows(
    kind: str,
    spec: str,
    overrides: Sequence[str],
    data: Manifest,
    over: Sequence[Over] = (),
) -> list[Row]:
    """Makes the rows of a kind from FILE[:parts] and overrides; a refused config names its row.

    A row of the table that reads boxes is only quoted where its config is refused, such as for
    several views, which the other rows take.
    """
    given = {name_field(word): word for word in overrides}
    read_base = functools.cache(read_unchecked)  # a method has many rows
    rows = [
        _make_row(name, _with_method(spec, method), read_base, method, own, given, data)
        for name, method, own in _list_rows(kind, spec, overrides, over)
    ]
    _refuse_equal_rows(kind, rows, data)
    published = PUBLISHED.get(kind, {})
    if not published or not all(_is_of_paper(row.cfg, data) for row in rows if row.cfg):
        return rows
    return [row._replace(published=published.get(row.name)) for row in rows]


def choose_rows(
    rows: Sequence[Row], names: Sequence[str]
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Returns the rows with these names and the others; without names all, and no others."""
    known = [row.name for row in rows]
    for name in names:
        if name not in known:
            raise ConfigError(f"--rows {name}: there is no such row; use {', '.join(known)}")
    chosen = tuple(row for row in rows if not names or row.name in names)
    return chosen, tuple(row for row in rows if row not in chosen)


def _list_rows(
    kind: str, spec: str, overrides: Sequence[str], over: Sequence[Over]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yields the name, the method ("": that of the config) and the own fields of each row."""
    match kind:
        case "table1":
            for name, (method, own) in TABLE1.items():
                yield name, method, own
        case "fig2":
            base = read_unchecked(spec, overrides)
            method = "" if base.pose.branch and base.model.pooling != "pose_parts" else "gap_pose"
            for reduction, weight in itertools.product(REDUCTIONS, POSE_WEIGHTS):
                own = {"pose.reduction": reduction, "pose.weight": repr(weight)}
                yield f"{reduction}-{weight:g}", method, own
        case "fig3":
            widths = read_unchecked(_with_method(spec, "gap"), overrides).model.widths
            for layers in LAYERS:
                halved = tuple(max(1, widths[0] >> t) for t in range(layers)) if widths else ()
                yield f"T={layers}", "gap", {"model.T": str(layers), "model.widths": repr(halved)}
        case "ranks":
            for rank in RANKS:
                yield f"P={rank}", "attention", {"model.rank": str(rank)}
        case _:
            names = [name for name, _ in over]
            for values in itertools.product(*(each for _, each in over)):
                own = dict(zip(names, values, strict=True))
                shown = ",".join(f"{name}={value}" for name, value in own.items())
                yield SAFE_NAME.sub("_", shown), "", own


def _with_method(spec: str, method: str) -> str:
    """Replaces the method among the parts of FILE[:parts]."""
    if not method:
        return spec
    file, _, parts = spec.partition(":")
    kept = [part for part in parts.split(",") if part and part not in METHODS]
    return f"{file}:{','.join([method, *kept])}"


def _make_row(
    name: str,
    spec: str,
    read_base: Callable[[str], Config],
    method: str,
    own: Mapping[str, str],
    given: Mapping[str, str],
    data: Manifest,
) -> Row:
    try:
        base = read_base(spec)
        pooling = method.removesuffix("_pose")
        if method and base.model.pooling != pooling:
            raise ConfigError(
                f"{spec.partition(':')[0]} does not take the method {method} as its part; "
                "sweep a config of the package, or let get_config call gap_jax.variants.set_method"
            )
        words = {**given, **{field: f"--{OVERRIDE}{field}={value}" for field, value in own.items()}}
        read_by = own.get("model.pooling", base.model.pooling)
        wanted = read_unchecked(spec, [*words.values()]).model
        words = {
            field: word
            for field, word in words.items()
            if field in own or _is_read(field, read_by, wanted)
        }
        cfg = resolve(read_unchecked(spec, [*words.values()]))
        if method and cfg.model.pooling != pooling:
            raise ConfigError(
                f"model.pooling={cfg.model.pooling} would replace the row's; leave it out"
            )
        for split in (cfg.data.train_split, cfg.data.eval_split):
            if not data.list_parts(split):
                raise ConfigError(f"{data.name} has no split {split!r}; choose another split")
    except ConfigError as error:
        if method in HARD or own.get("model.regions") == "people":
            return Row(name, spec, None, str(error))
        raise ConfigError(f"row {name}: {error}") from error
    if cfg.pose.branch and not data.find_split(cfg.data.train_split).with_joints:
        return Row(name, spec, None, f"{data.name} has no joints")
    if cfg.reads_boxes and not data.has_boxes:
        return Row(name, spec, None, f"the records of {data.name} have no boxes of people")
    if cfg.reads_boxes and not data.max_people:
        return Row(name, spec, None, f"no image of {data.name} has people")
    return Row(name, spec, cfg, base=base)


def _refuse_equal_rows(kind: str, rows: Sequence[Row], data: Manifest) -> None:
    """Refuses rows that a comparison could not tell apart, before anything is trained."""
    remedy = "leave out " + ("one of them" if kind == "grid" else "the override that makes them so")
    names, found = set[str](), dict[str, tuple[str, Config]]()
    for name, cfg in ((row.name, row.cfg) for row in rows if row.cfg):
        if name in names:
            raise ConfigError(f"two rows are named {name}; sweep one of them in another --out")
        names.add(name)
        steps = {**identify(resolve_length(cfg, data)), "train.epochs": 0}  # its steps count
        other, same = found.setdefault(repr(steps), (name, cfg))
        if other != name:
            unread = name_some([*differences(same, cfg)])
            reason = f", as no number depends on {unread}" if unread else ""
            raise ConfigError(f"rows {other} and {name} are the same run{reason}; {remedy}")


def identify(cfg: Config) -> dict[str, Any]:
    """Returns the fields that determine the numbers of a row and are not chosen by the sweep."""
    varying = {*HARMLESS, *CHOSEN_BY_SWEEP}
    found = {name: value for name, _, value in fields(cfg) if name not in varying}
    return {**found, "data.cache=features": cfg.data.cache == "features"}


def _is_read(field: str, pooling: str, model: ModelConfig) -> bool:
    """Tells whether the model of a row reads a field; overrides of the others are left out."""
    group, _, leaf = field.partition(".")
    if field == "data.regions":
        return pooling == "rstarcnn"
    if group != "model":
        return True
    return find_region_readers(model).get(leaf, pooling in READ_BY.get(leaf, (pooling,)))


def _is_of_paper(cfg: Config, data: Manifest) -> bool:
    """Tells whether the data set and the metric are the papers': mAP of MPII's val."""
    return (
        data.name == "mpii"
        and cfg.data.eval_split == "val"
        and cfg.eval.average_precision == "envelope"
        and not cfg.eval.max_examples
    )


def make_rates(row: Row, given: Sequence[float]) -> tuple[float, ...]:
    """Returns the rates of a row in rising order: those given, or its own x 1/3, 1 and 3."""
    if given or row.cfg is None:
        return tuple(sorted(given))
    base = row.cfg.optim.learning_rate
    return tuple(base if factor == 1 else float(f"{base * factor:.3g}") for factor in RATE_FACTORS)


def check_overrides(words: Sequence[str], rates: Sequence[float]) -> None:
    """Refuses overrides of fields that the sweep sets; the config's rate is the middle one."""
    for field, word in ((name_field(word), word) for word in words):
        if field in CHOSEN_BY_SWEEP and (rates or field != RATE):
            raise ConfigError(f"{word} is set by the sweep; use {CHOSEN_BY_SWEEP[field]} instead")


def parse_over(text: str, chosen: Mapping[str, str] = CHOSEN_BY_SWEEP) -> Over:
    """Parses FIELD=v1,v2; commas in brackets do not separate values."""
    field, equals, values = text.partition("=")
    if field not in {name for name, _, _ in fields(Config())}:
        raise unknown_field(field)
    if option := chosen.get(field):
        raise ConfigError(f"--over {text}: a sweep chooses {field}; use {option}")
    found = tuple(each.strip() for each in re.split(r",(?![^(]*\))", values))
    if not equals or not all(found):
        raise ConfigError(f"--over {text} must be FIELD=VALUE,VALUE")
    if len(set(found)) < len(found):
        raise ConfigError(f"--over {text} names a value twice; name each once")
    return field, found
