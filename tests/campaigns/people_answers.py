"""Measures the answers of models for single people of a drawn crowd, and R*CNN's winning regions.

    python -m tests.campaigns.people_answers RUN... --data data/crowd

Accuracy is the share of people whose own class has the highest score. With secondary regions, two
numbers of the winning region for a person's own class stand beside their mean over all regions
that the person had to choose from: how often it holds at least half of what the person holds, and
the share of its area that this thing covers. People who hold nothing, or whose thing is not in the
crop, do not count there. Intervals are 95 % over images (bootstrap), with all runs together.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from data_pipelines import manifest
from data_pipelines.core.boxes import find_areas
from data_pipelines.datasets.crowd import MASKS
from data_pipelines.example import PADDING_ID
from data_pipelines.records import open_split
from data_pipelines.rows import Rows, RowSpec
from gap_jax.batch import People
from gap_jax.evaluation import metrics
from gap_jax.report.comparison import percent
from gap_jax.report.measure import crop_mask
from gap_jax.saved.model import Opened, open_model

BATCH = 32
HALF = 0.5
Counts = Float[np.ndarray, "n 2"]  # of each image: a sum over its people, and their number


class Found(NamedTuple):
    """The sums and numbers of people of each image, by what is measured."""

    right: Counts
    hits: Counts
    allowed_hits: Counts
    density: Counts
    allowed_density: Counts


def main() -> None:
    """Measures the runs and prints a line for each number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    each = [measure(open_model(run), options.data) for run in options.runs]
    for name, fields in zip(Found._fields, zip(*each, strict=True), strict=True):
        if not sum(field[:, 1].sum() for field in fields):
            continue
        shares = ", ".join(f"{100 * _share(field):.1f}" for field in fields)
        print(f"{name}: {percent(average(fields))}; by run {shares}")


def measure(opened: Opened, folder: Path) -> Found:
    """Applies a run to the evaluated images of the data."""
    data, split = manifest.load(folder), opened.cfg.data.eval_split
    here = dataclasses.replace(opened.cfg.data, root=str(folder), cache="none").resolved()
    rows = Rows(here, data, split, with_people=True)
    records, masks = open_split(folder, split, data), np.load(folder / "raw" / MASKS)

    def score(image: jax.Array, people: People) -> tuple[jax.Array, jax.Array]:
        outputs, _ = opened.model.apply(opened.variables, image, people=people)
        if outputs.person_logits is None:
            raise AssertionError("the model gives people no scores")
        winner = outputs.winner
        none = jnp.full(outputs.person_logits.shape, -1)
        return outputs.person_logits, none if winner is None else winner

    compute = jax.jit(score)
    found: list[list[tuple[float, float]]] = []
    for start in range(0, len(rows), BATCH):
        chosen = list(range(start, min(start + BATCH, len(rows))))
        specs = [RowSpec(position) for position in chosen]
        specs += [RowSpec(PADDING_ID)] * (BATCH - len(chosen))
        batch = rows.batch(specs, np.empty(rows.image_shape(BATCH), np.uint8))
        if batch.people is None:
            raise AssertionError("the rows have no people")
        people = People.of(batch.people)
        logits, winner = map(np.asarray, compute(jnp.asarray(batch.image), people))
        for row, position in enumerate(chosen):
            label = np.asarray(batch.people.label[row])
            known = np.flatnonzero(label >= 0)
            right = (logits[row, known].argmax(-1) == label[known]).astype(float)
            mask = masks[records[position]["id"]]
            regions, best = batch.people.regions[row], winner[row]
            things = [crop_mask(mask == 2 + 2 * i, here) >= HALF for i in known]
            chosen_by = [
                judge(thing, regions[i], best[i, label[i]])
                for i, thing in zip(known, things, strict=True)
            ]
            counted = np.array([pair for pair in chosen_by if pair], float).reshape(-1, 4)
            measured = (right, *counted.T)
            found.append([(float(values.sum()), float(len(values))) for values in measured])
    return Found(*np.array(found, float).transpose(1, 0, 2))


def judge(
    thing: Bool[np.ndarray, "side side"], regions: Float[np.ndarray, "r 4"], winner: int
) -> tuple[float, float, float, float] | None:
    """Returns hit and density of the winning region, each beside the mean of all allowed ones."""
    is_allowed = find_areas(regions) > 0
    if winner < 0 or not thing.any() or not is_allowed.any():
        return None
    sums = np.pad(thing, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    left, top, right, bottom = np.rint(regions).astype(int).T
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    hits = inside >= HALF * thing.sum()
    density = inside / np.maximum((bottom - top) * (right - left), 1)
    return (
        float(hits[winner]), float(hits[is_allowed].mean()),
        float(density[winner]), float(density[is_allowed].mean()),
    )  # fmt: skip


def average(fields: tuple[Counts, ...]) -> metrics.Interval:
    """Returns the mean share of all runs, with its interval over images."""
    sums, numbers = np.stack(fields, axis=-1).transpose(1, 2, 0)  # of each run and image

    def share(counts: metrics.Counts) -> Float[np.ndarray, " r"]:
        return (sums @ counts / np.maximum(numbers @ counts, 1)).mean(axis=0)

    return metrics.resample(share, sums.shape[1]).interval()


def _share(field: Counts) -> float:
    return float(field[:, 0].sum() / field[:, 1].sum())


if __name__ == "__main__":
    main()
