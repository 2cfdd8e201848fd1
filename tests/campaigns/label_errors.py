"""Measures how many flipped labels of drawn people the list of likely label errors finds.

    python -m tests.campaigns.label_errors [--out DIR]

Draws people, gives 5 % of the images of train another class at random, trains the demo's GAP +
pose, and ranks the images of val as gap_jax report does, after the same share of them was given
another class: 200 times, each with other images. Means over the draws are printed.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

from data_pipelines import manifest, prepare
from data_pipelines.datasets import mpii, people
from data_pipelines.example import RawData, RawSplit
from gap_jax.flags import read_config
from gap_jax.report.label_errors import find_label_errors
from gap_jax.report.runs import ReportedRun, read_runs
from gap_jax.train import train
from tests.campaigns.table import describe

SHARE, SEED, DRAWS = 0.05, 0, 200
SPLITS = ("train", "val")  # flips in val are undone before the draws


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
    """Gives a share of the images another class."""
    rng = np.random.default_rng([SEED, stream])
    entries = list(split.entries)
    for row in rng.choice(len(entries), round(SHARE * len(entries)), replace=False):
        shift = int(rng.integers(1, classes))
        label = (int(np.asarray(entries[row].label)) + shift) % classes
        entries[row] = dataclasses.replace(entries[row], label=label)
    return dataclasses.replace(split, entries=entries)


def measure(data: Path, run: Path) -> str:
    """Averages precision and recall over draws of the flipped labels of val.

    The model does not depend on them, so one run serves all draws.
    """
    (read,) = read_runs([run])
    classes = manifest.load(data).classes
    rows = read.scores.ids.tolist()
    truth = np.array([classes.index(people.choose_action(SEED, "val", row)) for row in rows])
    right = np.mean(read.scores.logits.argmax(axis=1) == truth)
    drawn = [_measure_draw(read, truth, draw) for draw in range(DRAWS)]
    names = ("listed", "precision", "recall", "precision of the first 24")
    lines = [
        f"{name}: {np.mean(each):.3g}, 95 % of the draws in "
        f"{np.quantile(each, 0.025):.3g}..{np.quantile(each, 0.975):.3g}"
        for name, each in zip(names, np.transpose(drawn), strict=True)
    ]
    return "\n".join([f"{len(rows)} images, accuracy before the flips {right:.1%}", *lines])


def _measure_draw(run: ReportedRun, truth: np.ndarray, draw: int) -> tuple[float, ...]:
    rng = np.random.default_rng([SEED, draw])
    flipped = rng.choice(len(truth), round(SHARE * len(truth)), replace=False)
    labels = truth.astype(np.int32)
    labels[flipped] += rng.integers(1, len(run.classes), len(flipped), dtype=np.int32)
    scores = run.scores._replace(labels=labels % len(run.classes))
    found = find_label_errors([dataclasses.replace(run, scores=scores)])
    is_wrong = np.isin([each.row for each in found.errors], flipped)
    first = is_wrong[: len(flipped)]
    return len(is_wrong), is_wrong.mean(), is_wrong.sum() / len(flipped), first.mean()


if __name__ == "__main__":
    main()
