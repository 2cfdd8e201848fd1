"""`python -m benchmarks input|step|head|scaling|gpu`: picks a measurement, prints its table."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; wrong ones end in argparse's usage message."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("input", help="CPU ms per image from records to batches")
    command.add_argument("--images", type=int, default=64, help="images per measurement")
    command.add_argument("--kilobytes", type=_integers, default=(200, 500), help="JPEGs' sizes")
    command.add_argument("--rows", type=_words, help="of the table, as 'decode,loader/0'")
    _add_turns(command, measure_input, turns=5)

    command = commands.add_parser("step", help="CPU s of a whole step, ours and PyTorch's")
    command.add_argument("--mode", choices=("train", "eval"), default="train")
    command.add_argument("--rows", type=_words, help="of the table, as 'torch eager,gap'")
    command.add_argument("--backbone", default="resnet101")
    command.add_argument("--px", type=int, default=224)
    command.add_argument("--batch", type=int, default=2)
    command.add_argument("--tiny", action="store_true", help="to see that everything runs")
    _add_turns(command, measure_step, turns=7)

    command = commands.add_parser("head", help="CPU ms of the pooling alone, in both orders")
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--side", type=int, default=15, help="cells along the map")
    command.add_argument("--features", type=int, default=2048)
    _add_turns(command, measure_head, turns=7)

    command = commands.add_parser("scaling", help="collectives of eight devices, and simulations")
    command.add_argument("--full", action="store_true", help="ResNet-101 at 450 px; minutes")
    command.set_defaults(run=measure_scaling)

    command = commands.add_parser("gpu", help="ten minutes on a GPU")
    command.add_argument("--backbone", default="resnet101")
    command.add_argument("--px", type=int, default=448)
    command.add_argument("--batches", type=_integers, default=(64, 16, 128))
    command.add_argument("--steps", type=int, default=10, help="in a turn")
    command.add_argument("--budget", type=float, default=540, help="seconds for everything")
    command.add_argument("--only", default="", help="part of the groups' names")
    command.add_argument("--folder", type=Path, help="keeps what was compiled")
    command.add_argument("--tiny", action="store_true", help="on CPU, to see that everything runs")
    command.add_argument("--json", type=Path, help="file that gets a line for every row")
    command.set_defaults(run=measure_gpu)
    return parser.parse_args(arguments)


def _add_turns(command: argparse.ArgumentParser, run: Any, turns: int) -> None:
    command.add_argument("--pairs", type=int, default=turns, help="alternating turns")
    command.add_argument("--json", type=Path, help="file for every single number")
    command.set_defaults(run=run)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _words(text: str) -> list[str]:
    return text.split(",")


def measure_input(asked: argparse.Namespace) -> None:
    """From records to batches."""
    from benchmarks import input as input_pipeline

    results = input_pipeline.measure_all(
        asked.kilobytes, asked.images, asked.pairs, asked.rows or input_pipeline.EVERY
    )
    _tell(input_pipeline.render(results), [result._asdict() for result in results], asked.json)


def measure_step(asked: argparse.Namespace) -> None:
    """A whole step."""
    from benchmarks import step
    from benchmarks.sides import TINY, Task

    base = Task(mode=asked.mode, backbone=asked.backbone, px=asked.px, batch=asked.batch)
    if asked.tiny:
        base = dataclasses.replace(base, **TINY)
    result = step.measure(step.plan(base, asked.rows), asked.pairs)
    _tell(step.render(result), result._asdict(), asked.json)


def measure_head(asked: argparse.Namespace) -> None:
    """The pooling alone."""
    from benchmarks import head

    result = head.measure(asked.batch, asked.side, asked.pairs, asked.features)
    _tell(head.render(result), result._asdict(), asked.json)


def measure_scaling(asked: argparse.Namespace) -> None:
    """On eight CPU devices that are none; it fails where a step has too many collectives."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    from benchmarks.scaling import page

    text, faults = page.measure(full=asked.full)
    print(text)
    if faults:
        sys.exit("; ".join(faults))


def measure_gpu(asked: argparse.Namespace) -> None:
    """Lines as they come."""
    from benchmarks import gpu

    gpu.run(
        gpu.Settings(
            is_tiny=asked.tiny,
            backbone=asked.backbone,
            px=asked.px,
            batches=asked.batches,
            steps=asked.steps,
            budget_s=asked.budget,
            only=asked.only,
            folder=asked.folder,
            json=asked.json,
        )
    )


def _tell(table: str, numbers: dict[str, Any] | Sequence[Any], file: Path | None) -> None:
    print(table)
    if file:
        file.write_text(json.dumps(numbers, indent=1) + "\n")


def main() -> None:
    """Measures, prints, and writes the numbers if asked to."""
    asked = parse()
    asked.run(asked)


if __name__ == "__main__":
    main()
