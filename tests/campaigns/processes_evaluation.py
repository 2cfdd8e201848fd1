"""Evaluates small numbers of images on small numbers of devices and processes.

    python -m tests.campaigns.processes_evaluation --out DIR

Each evaluation must score exactly the expected images once, as one device does one by one. The
counts go into docs/reliability.md, and the exit code is 1 if any setting failed. They are kept in
DIR: a campaign that is stopped continues with the next setting.
"""

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from data_pipelines import manifest
from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.evaluation import evaluate
from gap_jax.flags import read_config
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.state import Variables
from tests.campaigns.kept import PAGE, identify, keep_rows, read_rows
from tests.campaigns.table import describe, replace_marked
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tiny_training import ROOT, SPEC, overrides

PROGRAM = "tests.campaigns.processes_evaluation"
IMAGES, ROWS = range(1, 41), range(1, 9)
DEVICES, PROCESSES = (1, 2, 4, 8), (1, 2)
CLOSE = 1e-5
WORKER = "worker"  # the word with which this program starts its own processes


class Setting(NamedTuple):
    """A number of processes, and how many devices they have together."""

    processes: int
    devices: int


class Found(NamedTuple):
    """How many evaluations a setting made, and how many of them were wrong."""

    processes: int
    devices: int
    tried: int
    wrong: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries all settings, one after the other."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data and counts")
    out = parser.parse_args(arguments).out.absolute()
    settings = [Setting(p, d) for p, d in itertools.product(PROCESSES, DEVICES) if d >= p]
    head = identify(settings=settings)
    found = [Found(**row) for row in read_rows(out, head)]
    if not found:
        shutil.rmtree(out, ignore_errors=True)
        prepare_tiny_people(out / "data", sizes={"train": 9, "val": IMAGES[-1], "test": 0})
    for setting in settings[len(found) :]:
        start = time.monotonic()
        found.append(Found(*setting, *run_setting(setting, out), time.monotonic() - start))
        keep_rows(out, head, [each._asdict() for each in found])
        print(found[-1], flush=True)
    lines = [
        describe(f"python -m {PROGRAM} --out DIR", sum(each.seconds for each in found)),
        "",
        f"Evaluations of {IMAGES[0]} to {IMAGES[-1]} images in batches of {ROWS[0]} to {ROWS[-1]} "
        "on each device:",
        "",
        "| processes | devices | evaluations | wrong |",
        "|---|---|---|---|",
        *(
            f"| {each.processes} | {each.devices} | {each.tried:,} | {each.wrong} |"
            for each in found
        ),
    ]
    replace_marked(PAGE, "processes evaluation", "\n".join(lines))
    return int(any(each.wrong for each in found))


def run_setting(setting: Setting, folder: Path) -> tuple[int, int]:
    """Starts the processes of a setting; returns the numbers of evaluations and of wrong ones."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={setting.devices // setting.processes}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    words = [
        sys.executable,
        "-m",
        PROGRAM,
        WORKER,
        str(folder),
        str(port),
        str(setting.processes),
    ]
    workers = [
        subprocess.Popen(
            [*words, str(index)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE
        )
        for index in range(setting.processes)
    ]
    said = [each.communicate()[0] for each in workers]
    if any(each.returncode for each in workers):
        raise SystemExit(f"{setting}: {[each.returncode for each in workers]}")
    tried, wrong = json.loads(said[0].splitlines()[-1])
    return tried, wrong


def evaluate_all(folder: Path, port: str, processes: int, index: int) -> None:
    """Runs one process: all evaluations, and at the end the counts."""
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, index)
    cfg = read_config(SPEC, overrides(folder / "data"))
    data = manifest.load(cfg.data.directory)
    results = list(try_all(cfg, data, folder / "expected.npy"))
    print(json.dumps([len(results), results.count(False)]))


def try_all(cfg: Config, data: Manifest, expected: Path) -> Iterator[bool]:
    """Yields whether each evaluation is right; the very first one scores image by image."""
    for rows in ROWS:
        setup = assemble(in_batches_of(cfg, rows * jax.device_count()), data)
        variables = setup.fold(setup.initial_variables())
        if not expected.exists():
            np.save(expected, score(setup, variables, data, IMAGES[-1]).logits)
        logits = np.load(expected)
        for images in IMAGES:
            scores = score(setup, variables, data, images)
            ids = np.arange(images) * IMAGES[-1] // images  # spread evenly
            yield np.array_equal(scores.ids, ids) and np.allclose(
                scores.logits, logits[ids], rtol=CLOSE, atol=CLOSE
            )


def in_batches_of(cfg: Config, size: int) -> Config:
    """Returns the config with `size` images in every batch of all devices."""
    return dataclasses.replace(
        cfg,
        train=dataclasses.replace(cfg.train, batch_size=size, accumulate=1),
        model=dataclasses.replace(cfg.model, norm_group_size=size),
        eval=dataclasses.replace(cfg.eval, batch_size=size),
    ).resolved()


def score(setup: Setup, variables: Variables, data: Manifest, images: int) -> evaluate.Scores:
    """Evaluates in all processes."""
    scores = evaluate.score_split(
        setup.cfg,
        data,
        setup.eval_step,
        variables,
        setup.mesh,
        process=(jax.process_index(), jax.process_count()),
        max_examples=images,
    )
    assert scores is not None, "nothing ends it early"
    return scores


if __name__ == "__main__":
    if sys.argv[1:2] != [WORKER]:
        sys.exit(main())
    evaluate_all(Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
