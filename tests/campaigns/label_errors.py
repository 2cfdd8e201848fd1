"""Measures how many flipped labels of drawn people the list of likely label errors finds.

    python -m tests.campaigns.label_errors [--out DIR]

Draws people, gives 5 % of the images of train and of val another class at random, trains the demo's
GAP + pose on train, and ranks the images of val as gap_jax report does. The figures are printed.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

from data_pipelines import manifest, prepare, records
from data_pipelines.datasets import mpii, people
from data_pipelines.example import RawData, RawSplit
from gap_jax.flags import read_config
from gap_jax.report.label_errors import find_label_errors
from gap_jax.report.runs import read_runs
from gap_jax.train import train
from tests.campaigns.table import describe

SHARE, SEED = 0.05, 0
SPLITS = ("train", "val")


def main() -> None:
    """Measures precision and recall, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/label_errors"))
    out = parser.parse_args().out
    start = time.monotonic()
    if not manifest.is_prepared(out / "data"):
        prepare.build(out / "data", draw_flipped)
    run = out / "run"
    train(read_config("gap_pose:gap_pose,demo", [f"--config.data.root={out / 'data'}"]), run)
    print(describe("python -m tests.campaigns.label_errors", time.monotonic() - start))
    print(measure(out / "data", run))


def draw_flipped(folder: Path) -> RawData:
    """Draws people with flipped labels."""
    raw = folder / "raw"
    people.draw(raw, seed=SEED)
    drawn = mpii.read(raw / "annotations.mat", raw / "images", raw / "splits", name="people")
    splits = {
        name: flip(split, len(drawn.classes), index) if name in SPLITS else split
        for index, (name, split) in enumerate(drawn.splits.items())
    }
    return dataclasses.replace(drawn, splits=splits)


def flip(split: RawSplit, classes: int, stream: int) -> RawSplit:
    """Gives a share of the images another class; `source_index` 0 marks them."""
    rng = np.random.default_rng([SEED, stream])
    entries = list(split.entries)
    for row in rng.choice(len(entries), round(SHARE * len(entries)), replace=False):
        shift = int(rng.integers(1, classes))
        label = (int(np.asarray(entries[row].label)) + shift) % classes
        entries[row] = dataclasses.replace(entries[row], label=label, source_index=0)
    return dataclasses.replace(split, entries=entries)


def measure(data: Path, run: Path) -> str:
    """Counts the flipped labels on the list and among its first images."""
    stored = records.open_split(data, "val", manifest.load(data))
    flipped = {row for row in range(len(stored)) if not stored[row]["source_index"]}
    (read,) = read_runs([run])
    answers = read.scores.logits.argmax(axis=1)
    errors = find_label_errors([read]).errors
    listed = [each.row for each in errors]
    first = flipped.intersection(listed[: len(flipped)])
    found = flipped.intersection(listed)
    return (
        f"{len(flipped)} of {len(stored)} labels flipped, accuracy on them "
        f"{np.mean(answers == read.scores.labels):.1%}; {len(listed)} listed, "
        f"{len(found)} of them flipped: precision {len(found) / max(1, len(listed)):.1%}, "
        f"recall {len(found) / len(flipped):.1%}; of the first {len(flipped)} "
        f"{len(first)} are flipped ({len(first) / len(flipped):.1%})"
    )


if __name__ == "__main__":
    main()
