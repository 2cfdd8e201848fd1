"""Draws a few images, trains one step, saves, loads and evaluates it; runs in a child process."""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.core.errors import DataError, describe

FEWEST_IMAGES = 8
FIELDS = (
    "data.image_size_px=32", "data.short_side_px=36", "data.cache=none", "model.stage=1",
    "pose.hidden=(6,)", "init.weights=", "init.allow_random=true",
    "optim.warmup_steps=0", "train.steps=1", "eval.every_steps=0",
)  # fmt: skip


def run_parts(folder: Path, devices: int) -> Iterator[str]:
    """Runs the parts of the self-test in `folder`; yields the name of each before it runs."""
    yield "import the packages"
    from gap_jax.commands import api, data
    from gap_jax.flags import read_config

    yield "draw people and write records"
    images = -(-FEWEST_IMAGES // devices) * devices  # as many on each
    people, run = folder / "data", folder / "run"
    sizes = [f"--train={images}", f"--val={images}", "--test=0"]
    data.run(["prepare", "people", *sizes, "--out", str(people)])
    yield "train one step and save it"
    words = [*FIELDS, f"data.root={people}"]
    words += [f"{group}.batch_size={images}" for group in ("train", "eval")]
    cfg = read_config("gap_pose:demo", [f"--config.{each}" for each in words])
    scores = api.train_config(cfg, run)
    yield "load the checkpoint and evaluate it"
    found = api.evaluate_run(run, checkpoint="latest")
    if differing := [name for name, value in scores.items() if found.get(name) != value]:
        raise DataError(f"the loaded model has other scores: {', '.join(differing)}")


def main(folder: str, devices: str) -> None:
    """Prints the parts up to the first that fails; the last line on stderr then names the fault."""
    console = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    parts = run_parts(Path(folder), int(devices))
    part, start = next(parts), time.monotonic()
    try:
        for following in itertools.chain(parts, [""]):
            now = time.monotonic()
            print(f"  {part:<38} ok {now - start:9.1f} s", file=console, flush=True)
            part, start = following, now
    except Exception as error:  # a broken installation may raise anything
        print(f"  {part:<38} failed", file=console, flush=True)
        fault = describe(error)[1].partition("; please report")[0]
        print(f"{part}: {fault}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)  # a broken driver may hang while Python shuts down


if __name__ == "__main__":
    main(*sys.argv[1:])
