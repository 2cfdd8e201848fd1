"""Describes a run before its first step, for a person to check."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.text import Text

from data_pipelines.core.files import quote
from data_pipelines.manifest import Split, describe_skipped
from gap_jax.config import OptimConfig
from gap_jax.learning.losses import balanced_class_weights, pose_weight_in_all_units
from gap_jax.learning.setup import Setup
from gap_jax.learning.state import count_parameters
from gap_jax.runtime.advice import advise, describe_length
from gap_jax.runtime.run_folder import FIRST_BATCH

WIDTH = 100
LABEL_WIDTH = 12  # with the colon and the space behind it
REFERENCE_BATCH = 128  # of the attentional-pooling release


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What is described; `start` is 0 in a fresh run, `loaded` names parts that are not random."""

    setup: Setup
    workdir: str
    start: int
    changes: Mapping[str, str]
    loaded: Sequence[str]

    def render(self) -> str:
        """Renders the block; no line is wider than `WIDTH` cells."""
        cfg = self.setup.cfg
        rows = [
            ("start", _start(self)),
            ("data", _data(self)),
            ("batch", _batch(self)),
            *((("length", describe_length(cfg, self.setup.data)),) if cfg.train.epochs else ()),
            ("lr", _schedule(self)),
            ("init", _init(self)),
            ("loss", _loss(self)),
            _views(self),
            *(("warning", text) for text in _warnings(self)),
        ]
        lines = ["-- preflight ".ljust(WIDTH, "-")]
        for label, text in rows:
            wrapped = wrap(text, WIDTH - LABEL_WIDTH)
            lines.append(f"{label:<{LABEL_WIDTH - 2}}: {wrapped[0]}")
            lines.extend(" " * LABEL_WIDTH + line for line in wrapped[1:])
        return "\n".join([*lines, "-" * WIDTH])


def describe_memory(step: Any) -> str:
    """Describes the memory that a compiled step takes on each device."""
    sizes, device = step.memory_analysis(), jax.local_devices()[0]
    needed = (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        + sizes.temp_size_in_bytes
        - sizes.alias_size_in_bytes
    )
    there = (device.memory_stats() or {}).get("bytes_limit")
    of = f" of {there / 2**30:,.1f}" if there else ""
    return f"compiled: a step takes {needed / 2**30:,.2f}{of} GiB on each device"


def wrap(text: str, width: int) -> list[str]:
    """Wraps at words to lines of at most `width` cells; splits longer words."""
    lines = Text(text).wrap(Console(), width, overflow="fold")
    return [line.plain.rstrip() for line in lines]


def _start(run: Preflight) -> str:
    if run.start:
        changes = "; ".join(run.changes.values()) or "config unchanged"
        return f"resumed at step {run.start:,} of {run.workdir} ({changes})"
    source = f", initialised from {run.setup.cfg.init.weights}" if run.loaded else ""
    return f"fresh run in {run.workdir}{source}"


def _data(run: Preflight) -> str:
    data, cfg = run.setup.data, run.setup.cfg.data
    train = data.find_split(cfg.train_split)
    ranked = sorted(zip(train.class_counts, data.classes, strict=True))
    (fewest, rarest), (most, commonest) = ranked[0], ranked[-1]
    if cfg.held_out:
        held, skipped = cfg.count_held_out(train.examples), ""  # the classes of a part are unknown
        evaluated = f"{held:,} of them held out and evaluated instead of {cfg.eval_split}"
    else:
        val = data.find_split(cfg.eval_split)
        skipped = describe_skipped(data.classes, val.class_counts, cfg.eval_split)
        evaluated = f"{val.examples:,} in {cfg.eval_split}"
        if cfg.scores_trained:
            evaluated += ", which are trained on (see data.held_out)"
    return (
        f"{data.name} in {cfg.directory} (fingerprint {data.fingerprint}): {train.examples:,} "
        f"images in {cfg.train_split}, {evaluated}; "
        f"{len(data.classes):,} classes, from {quote(rarest)} with {fewest:,} training images to "
        f"{quote(commonest)} with {most:,}{skipped and f'; {skipped}'}"
    )


def _batch(run: Preflight) -> str:
    train, model, devices = run.setup.cfg.train, run.setup.cfg.model, run.setup.mesh.devices
    per_device = train.micro_batch_size // devices.size
    group = min(model.norm_group_size, train.micro_batch_size)
    norm = f"groups of {group}" if model.norm == "train" else "running statistics, frozen"
    return (
        f"{train.batch_size} images = {per_device} per device x {_plural(devices.size, 'device')} "
        f"({devices.flat[0].device_kind}) x {train.accumulate} accumulated; the reference run has "
        f"{REFERENCE_BATCH}; batch norm over {norm}"
    )


def _views(run: Preflight) -> tuple[str, str]:
    """Says where to see what the model sees; maps of a backbone are no pictures."""
    cfg = run.setup.cfg.data
    if cfg.cache != "features":
        return "look at", f"{run.workdir}/{FIRST_BATCH}, the first batch as the model sees it"
    views = ["the centre crop", *(["its mirror image"] if cfg.flip else [])][: cfg.feature_views]
    views += [_plural(cfg.random_views, "random crop")] if cfg.random_views else []
    return (
        "features",
        f"each step draws one of {_plural(cfg.feature_views, 'stored view')} of an image "
        f"({', '.join(views)}); maps are stored as {cfg.feature_dtype}",
    )


def _schedule(run: Preflight) -> str:
    optim, train = run.setup.cfg.optim, run.setup.cfg.train
    images = run.setup.cfg.data.count_trained(_train_split(run).examples)
    epochs = train.steps * train.batch_size / max(images, 1)
    rule = f"momentum {optim.momentum:g}, " if optim.name == "sgd" else ""
    has_stairs = optim.schedule == "staircase" and optim.decay_every_steps < train.steps
    only_rises = optim.warmup_steps >= train.steps and not has_stairs
    return (
        f"{optim.learning_rate:g}{_course(optim)}, {train.steps:,} steps = {epochs:,.1f} epochs"
        f"{', all of them warm-up: the rate never falls' * only_rises}; "
        f"{optim.name}, {rule}weight decay {optim.weight_decay:g}"
    )


def _course(optim: OptimConfig) -> str:
    warmup = f" after {optim.warmup_steps:,} steps of warm-up" if optim.warmup_steps else ""
    match optim.schedule:
        case "staircase":
            stairs = f" x {optim.decay_factor:g} every {optim.decay_every_steps:,} steps"
            return f"{warmup},{stairs}" if warmup else stairs
        case "cosine":
            return f"{warmup}, cosine to 0"
        case _:
            return f"{warmup}, constant"


def _init(run: Preflight) -> str:
    sizes = count_parameters(run.setup.target.variables.params)
    if run.start:
        counts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        return f"{counts} parameters from the checkpoint"
    return "; ".join(
        f"{name} {size:,} {'loaded' if name in run.loaded else 'random'}"
        + (", frozen" if name in run.setup.cfg.optim.frozen else "")
        for name, size in sizes.items()
    )


def _loss(run: Preflight) -> str:
    pose, train, targets = run.setup.cfg.pose, _train_split(run), _targets(run)
    if (cells := run.setup.map_size()) is None:
        return f"action only, there is no pose branch{targets}"
    height, width = cells
    units = pose_weight_in_all_units(pose.weight, pose.reduction, height, width)
    weights = " = ".join(f"{weight:.4g} as {unit}" for unit, weight in units.items())
    return (
        f"action x 1 + pose x {pose.weight:g} ({pose.reduction}), which on {height} x {width} "
        f"cells is {weights}; {train.with_joints / max(train.examples, 1):.0%} of the training "
        f"images have joints{targets}"
    )


def _targets(run: Preflight) -> str:
    """Describes what changes the targets of the classes or the weights of their images."""
    train, texts = run.setup.cfg.train, []
    if train.label_smoothing:
        texts.append(f"label smoothing {train.label_smoothing:g}")
    if train.mixup:
        texts.append(f"mixup {train.mixup:g}")
    if train.class_weights == "balanced":
        weights = balanced_class_weights(_train_split(run).class_counts)
        used = weights[weights > 0]
        low, high = (used.min(), used.max()) if used.size else (0, 0)
        texts.append(f"classes weighted from {low:.2g} to {high:.2g} by their number of images")
    return "".join(f"; {text}" for text in texts)


def _warnings(run: Preflight) -> Iterable[str]:
    """Finds common mistakes before the first step."""
    train, classes = _train_split(run), run.setup.data.classes
    if not run.start and not run.loaded:
        yield "every parameter starts random; the papers' runs start from ImageNet (init.weights)"
    if run.setup.cfg.pose.branch and not train.with_joints:
        yield "no training image has a joint, so the pose branch learns nothing (pose.branch)"
    if run.setup.cfg.reads_boxes and not run.setup.data.max_people:
        yield "no image has people, so the whole crop is the one person of each"
    absent = [name for name, n in zip(classes, train.class_counts, strict=True) if not n]
    if absent:
        count = _plural(len(absent), "class", "classes")
        yield f"{count} without training images: {quote(absent[0])}"
    if train.labelled < train.examples:
        yield f"{train.examples - train.labelled:,} training images have no label and weigh nothing"
    if run.setup.cfg.train.epochs:  # data of one's own
        yield from advise(run.setup.cfg, run.setup.data)


def _train_split(run: Preflight) -> Split:
    return run.setup.data.find_split(run.setup.cfg.data.train_split)


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
