"""Measures extraction and heads, and works out the times of MPII at 450 px from them."""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import alternating
from benchmarks.features import extraction, heads
from benchmarks.features.heads import ON_MAPS
from benchmarks.features.tasks import HEADS, HeadTask
from benchmarks.scaling.page import BATCH, IMAGES, RUN_STEPS
from benchmarks.sides import TINY, Task

BACKBONES = ("resnet101", "vgg16", "efficientnet_lite0")
PARTS = ("extraction", "heads", "mpii")
MPII_PX, MPII_BATCH, MPII_RECORDS = 450, 8, 32
EVALUATED = 6_988  # images of MPII's evaluation split
VIEWS = 2  # stored of a training image: the centre and its mirror image
EPOCHS = {"20 epochs": 20.0, "the paper's 187 epochs": RUN_STEPS * BATCH / IMAGES}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


class Settings(NamedTuple):
    """The options; the first backbone is that of the heads."""

    parts: Sequence[str] = PARTS
    backbones: Sequence[str] = BACKBONES
    heads: Sequence[str] = tuple(HEADS)
    px: int = 224
    batch: int = 32
    head_batch: int = 16
    records: int = 200
    turns: int = 5
    is_tiny: bool = False


def measure(settings: Settings) -> Iterator[tuple[str, str, Any]]:
    """Yields the name of each part, its text and its numbers, as soon as it is measured."""
    machine = alternating.describe_machine(PACKAGES)
    yield "machine", machine, machine
    parts, turns = settings.parts, settings.turns
    base = Task(mode="eval", px=settings.px, batch=settings.batch)
    step = HeadTask(backbone=settings.backbones[0], px=settings.px, batch=settings.head_batch)
    if settings.is_tiny:
        base = dataclasses.replace(base, **TINY)
        shared = {name: TINY[name] for name in ("backbone", "stage", "px")}
        step = dataclasses.replace(step, **shared)
    if "extraction" in parts:
        for backbone in (base.backbone,) if settings.is_tiny else settings.backbones:
            rows = extraction.plan(dataclasses.replace(base, backbone=backbone))
            if settings.is_tiny:
                rows.pop("torch compiled")  # takes half a minute
            result = extraction.measure(rows, turns)
            yield f"extraction {backbone}", extraction.render(result), result._asdict()
    if "heads" in parts:
        for result in heads.measure_all(step, settings.heads, settings.records, turns):
            yield f"head {result.task['head']}", heads.render(result), result._asdict()
    if "mpii" in parts:
        yield "mpii", *_measure_mpii(settings, base, step)


def _measure_mpii(settings: Settings, base: Task, step: HeadTask) -> tuple[str, dict[str, Any]]:
    """Measures our rows at 450 px."""
    records = MPII_RECORDS
    if settings.is_tiny:
        records = settings.records
    else:
        base = dataclasses.replace(base, backbone=step.backbone, px=MPII_PX, batch=MPII_BATCH)
        step = dataclasses.replace(step, px=MPII_PX)
    rows = {extraction.EXTRACTION: base}
    extracted = extraction.measure(rows, settings.turns)
    stepped = list(heads.measure_all(step, settings.heads, records, settings.turns, (ON_MAPS,)))
    numbers = {"extraction": extracted._asdict(), "heads": [each._asdict() for each in stepped]}
    return work_out(extracted, stepped), numbers


def work_out(extracted: extraction.Result, stepped: Sequence[heads.Result]) -> str:
    """Renders the times of MPII on one core: of the maps once, and of runs on them."""
    image_s = statistics.median(extracted.rounds[extraction.EXTRACTION]) / 1e3
    views = IMAGES * VIEWS + EVALUATED
    hours, gigabytes = views * image_s / 3600, views * extracted.bytes_per_image / 1e9
    task = extracted.task
    lines = [
        f"MPII with {task['backbone']} at {task['px']} px, worked out for one core:",
        f"  once: {views:,} maps ({IMAGES:,} x {VIEWS} + {EVALUATED:,} images) in "
        f"{hours:.1f} h at {image_s * 1e3:.0f} CPU ms an image, {gigabytes:.1f} GB",
    ]
    for result in stepped:
        step_s = statistics.median(result.rounds[ON_MAPS]) / 1e3
        head_s = step_s / result.task["batch"]
        for name, epochs in EPOCHS.items():
            minutes, added = IMAGES * epochs * head_s / 60, IMAGES * epochs * image_s / 3600
            lines.append(
                f"  {result.task['head']}, {name}: {minutes:,.0f} min at {head_s * 1e3:.2f} CPU ms "
                f"an image; the backbone in every step would add {added:,.0f} h"
            )
    return "\n".join(lines)
