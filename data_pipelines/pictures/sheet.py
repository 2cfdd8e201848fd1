"""Makes the contact sheet of prepared data: numbers, classes and a sample of the images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines import decode, records
from data_pipelines.manifest import Manifest
from data_pipelines.photographs.duplicates import Member
from data_pipelines.pictures.drawing import label_text, shorten
from data_pipelines.pictures.page import Figure, Gallery, Page, Table, fill_template, thumbnail
from data_pipelines.transforms import View

MAX_PER_CLASS, MAX_EXAMPLES = 8, 96
MAX_CONFLICTS, MAX_PER_CONFLICT = 24, 4  # groups of near-duplicates, images of one
MIN_PER_GALLERY = 4  # examples of a class that has its own gallery
SEED = 0

Position = tuple[str, int]  # a split and the position of a record in it
Sample = Mapping[int | None, Sequence[Position]]  # by class id, None for unlabelled


def contact_sheet(
    directory: Path,
    manifest: Manifest,
    first_classes: Mapping[str, Sequence[int | None]],
    warnings: Sequence[str],
    conflicts: Sequence[Sequence[Member]] = (),
) -> str:
    """Renders the page; `first_classes` has each record's first class by split in record order.

    `conflicts` are groups of near-duplicates that are shown side by side.
    """
    examples = sum(split.examples for split in manifest.splits.values())
    page = Page(
        title=f"{manifest.name}: prepared data",
        lead=f"{examples:,} images, {len(manifest.classes):,} classes, "
        f"fingerprint {manifest.fingerprint}",
        galleries=[
            *_show_conflicts(directory, manifest, conflicts),
            *_make_galleries(directory, manifest, sample_records(first_classes)),
        ],
        facts_heading="Provenance",
        facts=_list_facts(directory, manifest),
        tables=[_tabulate_splits(manifest), _tabulate_classes(manifest)],
        warnings=warnings,
    )
    return fill_template(page=page)


def sample_records(first_classes: Mapping[str, Sequence[int | None]]) -> Sample:
    """Samples equally many records of each class, or one of each of `MAX_EXAMPLES` classes."""
    by_class: dict[int | None, list[Position]] = {}
    for split, classes_of_split in first_classes.items():
        for position, each in enumerate(classes_of_split):
            by_class.setdefault(each, []).append((split, position))
    rng = np.random.default_rng(SEED)
    per_class = max(1, min(MAX_PER_CLASS, MAX_EXAMPLES // max(1, len(by_class))))
    classes = sorted(by_class, key=lambda each: (each is None, each or 0))
    if len(classes) > MAX_EXAMPLES:
        kept = rng.choice(len(classes), MAX_EXAMPLES, replace=False)
        classes = [classes[index] for index in sorted(kept)]
    return {
        each: [by_class[each][index] for index in rng.permutation(len(by_class[each]))[:per_class]]
        for each in classes
    }


def _show_conflicts(
    directory: Path, manifest: Manifest, conflicts: Sequence[Sequence[Member]]
) -> list[Gallery]:
    """Shows near-duplicates that lie in two splits or have different labels."""
    if not conflicts:
        return []
    shown = conflicts[:MAX_CONFLICTS]
    sources = _open_splits(directory, manifest, {each.split for group in shown for each in group})
    figures = []
    for group in shown:
        thumbnails = []
        for each in group[:MAX_PER_CONFLICT]:
            figure = _make_figure(each.split, sources[each.split][each.position], manifest)
            caption = f"{figure.details} \u00b7 {figure.title}"
            thumbnails.append(figure.thumbnails[0]._replace(caption=caption))
        more = len(group) - len(thumbnails)
        details = f"{more:,} more are not shown" if more else ""
        figures.append(Figure(f"{len(group):,} near-duplicates", details, thumbnails))
    note = f"Groups in two splits or with different labels; {len(shown)} of {len(conflicts):,}."
    return [Gallery("Near-duplicates", note, figures, wide=True)]


def _open_splits(
    directory: Path, manifest: Manifest, splits: Iterable[str]
) -> dict[str, records.RecordSource]:
    return {split: records.open_split(directory, split, manifest) for split in splits}


def _make_galleries(directory: Path, manifest: Manifest, sample: Sample) -> list[Gallery]:
    splits = {split for positions in sample.values() for split, _ in positions}
    sources = _open_splits(directory, manifest, splits)
    figures = {
        each: [_make_figure(split, sources[split][at], manifest) for split, at in positions]
        for each, positions in sample.items()
    }
    note = "Chosen at random with a fixed seed."
    if len(figures) * MIN_PER_GALLERY > MAX_EXAMPLES:
        return [Gallery("Examples", note, [each for group in figures.values() for each in group])]
    galleries: list[Gallery] = []
    for each, group in figures.items():
        heading = "No label" if each is None else shorten(manifest.classes[each])
        galleries.append(Gallery(heading, "" if galleries else note, group))
    return galleries


def _make_figure(split: str, record: records.Record, manifest: Manifest) -> Figure:
    label = label_text(record["label"], manifest.classes)
    people = len(record["keypoints"])
    image = decode.decode(record["image"], upright=manifest.exif_applied)
    view = View(image, record["keypoints"], 0.0)
    alt = f"{label}, with {people} annotated {'person' if people == 1 else 'people'}"
    return Figure(record["id"], f"{split} \u00b7 {label}", [thumbnail(view, alt=alt)])


def _tabulate_splits(manifest: Manifest) -> Table:
    rows = []
    for name, split in manifest.splits.items():
        counts = (split.examples, split.labelled, split.with_joints, len(split.shards))
        size = sum(shard.bytes for shard in split.shards) / 2**20
        rows.append((name, *(f"{count:,}" for count in counts), f"{size:,.1f}"))
    columns = ("split", "images", "labelled", "with joints", "shards", "MiB")
    return Table("Splits", "", columns, rows)


def _tabulate_classes(manifest: Manifest) -> Table:
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


def _list_facts(directory: Path, manifest: Manifest) -> list[tuple[str, str]]:
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
