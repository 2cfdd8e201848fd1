"""Runs `python -m benchmarks input|step|head|regions|features|scaling|gpu` and prints the table."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("input", help="CPU ms per image from records to batches")
    command.add_argument("--images", type=int, default=64, help="images per measurement")
    command.add_argument("--kilobytes", type=_integers, default=(200, 500), help="sizes of JPEGs")
    command.add_argument("--rows", type=_split, help="rows of the table, such as 'decode,loader/0'")
    _add_turns(command, measure_input, turns=5)

    command = commands.add_parser("step", help="CPU s of a step, ours and PyTorch's")
    command.add_argument("--mode", choices=("train", "eval"), default="train")
    _add_task(command, rows="torch eager,gap", backbone="resnet101")
    _add_turns(command, measure_step, turns=7)

    command = commands.add_parser("head", help="CPU ms of the pooling, in both orders")
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--side", type=int, default=15, help="cells along the map")
    command.add_argument("--features", type=int, default=2048)
    _add_turns(command, measure_head, turns=7)

    command = commands.add_parser("regions", help="CPU s of a step that reads people's boxes")
    _add_task(command, rows="rstarcnn,dense", backbone="vgg16")
    _add_turns(command, measure_regions, turns=5)

    command = commands.add_parser("features", help="extraction of maps, and steps of heads on them")
    command.add_argument("--parts", type=_split, default=("extraction", "heads", "mpii"))
    command.add_argument(
        "--backbones",
        type=_split,
        default=("resnet101", "vgg16", "efficientnet_lite0"),
        help="rows of the extraction; the heads read the maps of the first",
    )
    command.add_argument("--heads", type=_split, help="such as 'attention,gap'; by default all")
    command.add_argument("--px", type=int, default=224)
    command.add_argument("--batch", type=int, default=32, help="images computed at once")
    command.add_argument("--head-batch", type=int, default=16, help="images of a training step")
    command.add_argument(
        "--records", type=int, default=200, help="50 or fewer, or a multiple of 50"
    )
    command.add_argument("--tiny", action="store_true", help="tiny sizes, for a test")
    _add_turns(command, measure_features, turns=5)

    command = commands.add_parser("scaling", help="collectives of eight devices, simulated times")
    command.add_argument("--full", action="store_true", help="ResNet-101 at 450 px; minutes")
    command.set_defaults(run=measure_scaling)

    command = commands.add_parser("gpu", help="all rows of a GPU, in ten minutes")
    command.add_argument("--backbone", default="resnet101")
    command.add_argument("--px", type=int, default=448)
    command.add_argument("--batches", type=_integers, default=(64, 16, 128))
    command.add_argument("--steps", type=int, default=10, help="steps in a turn")
    command.add_argument("--budget", type=float, default=540, help="seconds for all rows")
    command.add_argument("--only", default="", help="part of the names of groups")
    command.add_argument("--folder", type=Path, help="folder of the compilation cache")
    command.add_argument("--tiny", action="store_true", help="tiny sizes on CPU, for a test")
    command.add_argument("--json", type=Path, help="file for a line of each row")
    command.set_defaults(run=measure_gpu)
    return parser.parse_args(arguments)


def _add_task(command: argparse.ArgumentParser, *, rows: str, backbone: str) -> None:
    command.add_argument("--rows", type=_split, help=f"rows of the table, such as '{rows}'")
    command.add_argument("--backbone", default=backbone)
    command.add_argument("--px", type=int, default=224)
    command.add_argument("--batch", type=int, default=2)
    command.add_argument("--tiny", action="store_true", help="tiny sizes, for a test")


def _add_turns(command: argparse.ArgumentParser, run: Any, turns: int) -> None:
    command.add_argument("--pairs", type=int, default=turns, help="alternating turns")
    command.add_argument("--json", type=Path, help="file for all numbers")
    command.set_defaults(run=run)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _split(text: str) -> list[str]:
    return text.split(",")


def measure_input(options: argparse.Namespace) -> None:
    """Measures the input pipeline."""
    from benchmarks import input as input_pipeline

    results = input_pipeline.measure_all(
        options.kilobytes, options.images, options.pairs, options.rows or input_pipeline.EVERY
    )
    numbers = [result._asdict() for result in results]
    _output(input_pipeline.render(results), numbers, options.json)


def measure_step(options: argparse.Namespace) -> None:
    """Measures a step."""
    from benchmarks import step
    from benchmarks.sides import TINY, Task

    base = Task(mode=options.mode, backbone=options.backbone, px=options.px, batch=options.batch)
    if options.tiny:
        base = dataclasses.replace(base, **TINY)
    result = step.measure(step.plan(base, options.rows), options.pairs)
    _output(step.render(result), result._asdict(), options.json)


def measure_head(options: argparse.Namespace) -> None:
    """Measures the pooling."""
    from benchmarks import head

    result = head.measure(options.batch, options.side, options.pairs, options.features)
    _output(head.render(result), result._asdict(), options.json)


def measure_regions(options: argparse.Namespace) -> None:
    """Measures steps with people's boxes."""
    from benchmarks.region_steps import measure as regions
    from benchmarks.sides import TINY, Task

    task = Task(backbone=options.backbone, px=options.px, batch=options.batch)
    if options.tiny:
        task = dataclasses.replace(task, **TINY)
    result = regions.measure(task, options.pairs, options.rows)
    numbers = {**result._asdict(), "task": dataclasses.asdict(task)}
    _output(regions.render(result), numbers, options.json)


def measure_features(options: argparse.Namespace) -> None:
    """Measures extraction and heads, and prints each part when it is done."""
    from benchmarks.features import page
    from benchmarks.features.tasks import HEADS

    settings = page.Settings(
        parts=options.parts,
        backbones=options.backbones,
        heads=options.heads or tuple(HEADS),
        px=options.px,
        batch=options.batch,
        head_batch=options.head_batch,
        records=options.records,
        turns=options.pairs,
        is_tiny=options.tiny,
    )
    numbers = {}
    for part, text, measured in page.measure(settings):
        print(f"{text}\n", flush=True)
        numbers[part] = measured
        if options.json:
            options.json.write_text(json.dumps(numbers, indent=1) + "\n")


def measure_scaling(options: argparse.Namespace) -> None:
    """Analyses eight simulated devices; fails if a step has too many collectives."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    from benchmarks.scaling import page

    text, faults = page.measure(full=options.full)
    print(text)
    if faults:
        sys.exit("; ".join(faults))


def measure_gpu(options: argparse.Namespace) -> None:
    """Measures on a GPU, and prints each row when it is done."""
    from benchmarks import gpu

    gpu.run(
        gpu.Settings(
            is_tiny=options.tiny,
            backbone=options.backbone,
            px=options.px,
            batches=options.batches,
            steps=options.steps,
            budget_s=options.budget,
            only=options.only,
            folder=options.folder,
            json=options.json,
        )
    )


def _output(table: str, numbers: dict[str, Any] | Sequence[Any], file: Path | None) -> None:
    print(table)
    if file:
        file.write_text(json.dumps(numbers, indent=1) + "\n")


def main() -> None:
    """Runs the chosen benchmark."""
    options = parse()
    options.run(options)


if __name__ == "__main__":
    main()
