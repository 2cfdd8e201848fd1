"""The contact sheet of prepared data: its numbers, its classes, and a fair choice of its images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines import decode, records
from data_pipelines.manifest import Manifest
from data_pipelines.pictures.drawing import label_text, shorten
from data_pipelines.pictures.page import Figure, Gallery, Page, Table, render, thumbnail
from data_pipelines.transforms import View

PER_CLASS, IN_ALL = 8, 96
OWN_GALLERY = 4  # so many examples give a class a heading of its own
SEED = 0

Place = tuple[str, int]  # a split and the position of a record in it
Choice = Mapping[int | None, Sequence[Place]]  # the places chosen for a class, or for no class


def contact_sheet(
    directory: Path,
    manifest: Manifest,
    first_classes: Mapping[str, Sequence[int | None]],
    warnings: Sequence[str],
) -> str:
    """The page, given each record's first class, by split and in record order."""
    examples = sum(split.examples for split in manifest.splits.values())
    return render(
        Page(
            title=f"{manifest.name}: prepared data",
            lead=f"{examples:,} images, {len(manifest.classes):,} classes, "
            f"fingerprint {manifest.fingerprint}",
            warnings=warnings,
            tables=[_table_of_splits(manifest), _table_of_classes(manifest)],
            galleries=_galleries(directory, manifest, choose(first_classes)),
            facts_heading="Where it comes from",
            facts=_facts(directory, manifest),
        )
    )


def choose(first_classes: Mapping[str, Sequence[int | None]]) -> Choice:
    """Equally many places for each class, or one for as many classes as there is room for."""
    by_class: dict[int | None, list[Place]] = {}
    for split, shown in first_classes.items():
        for position, each in enumerate(shown):
            by_class.setdefault(each, []).append((split, position))
    rng = np.random.default_rng(SEED)
    share = max(1, min(PER_CLASS, IN_ALL // max(1, len(by_class))))
    classes = sorted(by_class, key=lambda each: (each is None, each or 0))
    if len(classes) > IN_ALL:
        kept = rng.choice(len(classes), IN_ALL, replace=False)
        classes = [classes[index] for index in sorted(kept)]
    return {
        each: [by_class[each][index] for index in rng.permutation(len(by_class[each]))[:share]]
        for each in classes
    }


def _galleries(directory: Path, manifest: Manifest, choice: Choice) -> list[Gallery]:
    sources = {
        split: records.open_split(directory, split, manifest)
        for split in {split for places in choice.values() for split, _ in places}
    }
    figures = {
        each: [_figure(split, sources[split][at], manifest.classes) for split, at in places]
        for each, places in choice.items()
    }
    note = "Chosen at random, the same ones every time."
    if len(figures) * OWN_GALLERY > IN_ALL:
        return [Gallery("Examples", note, [each for group in figures.values() for each in group])]
    return [
        Gallery(
            "No label" if each is None else shorten(manifest.classes[each]),
            note * (not index),
            group,
        )
        for index, (each, group) in enumerate(figures.items())
    ]


def _figure(split: str, record: records.Record, classes: Sequence[str]) -> Figure:
    label = label_text(record["label"], classes)
    people = len(record["keypoints"])
    return Figure(
        title=record["id"],
        details=f"{split} \u00b7 {label}",
        thumbnails=[
            thumbnail(
                View(decode.decode(record["image"]), record["keypoints"], 0.0),
                alt=f"{label}, with {people} annotated {'person' if people == 1 else 'people'}",
            )
        ],
    )


def _table_of_splits(manifest: Manifest) -> Table:
    return Table(
        heading="Splits",
        note="",
        columns=("split", "images", "labelled", "with joints", "shards", "MiB"),
        rows=[
            (
                name,
                f"{split.examples:,}",
                f"{split.labelled:,}",
                f"{split.with_joints:,}",
                f"{len(split.shards):,}",
                f"{sum(shard.bytes for shard in split.shards) / 2**20:,.1f}",
            )
            for name, split in manifest.splits.items()
        ],
    )


def _table_of_classes(manifest: Manifest) -> Table:
    counts = {name: split.class_counts for name, split in manifest.splits.items()}
    shown = "train" if "train" in counts else next(iter(counts))
    order = np.argsort([-count for count in counts[shown]], kind="stable")
    most = max(1, *counts[shown])
    return Table(
        heading="Classes",
        note=f"Images of each class, most frequent first; bars show {shown}.",
        columns=("class", *counts),
        rows=[
            (shorten(manifest.classes[each]), *(f"{counts[name][each]:,}" for name in counts))
            for each in order
        ],
        bars=[round(100 * counts[shown][each] / most, 1) for each in order],
    )


def _facts(directory: Path, manifest: Manifest) -> list[tuple[str, str]]:
    facts = {
        "folder": directory,
        "people in an image": f"at most {manifest.max_people}",
        "EXIF orientation": manifest.exif,
        "format version": manifest.format_version,
        **manifest.provenance,
    }
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in facts.items()
    ]
