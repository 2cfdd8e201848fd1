"""Makes the contact sheet of prepared data: numbers, classes and a sample of the images."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipelines import decode, records
from data_pipelines.example import (
    AMBIGUOUS,
    HIDDEN,
    NEGATIVE,
    NOT_ANNOTATED,
    OBJECT_ABSENT,
    POSITIVE,
    UNKNOWN,
)
from data_pipelines.manifest import Manifest, list_classes
from data_pipelines.photographs.duplicates import Member
from data_pipelines.pictures.drawing import count_not_known, label_text, shorten
from data_pipelines.pictures.page import Figure, Gallery, Page, Table, fill_template, thumbnail
from data_pipelines.transforms import View

MAX_PER_CLASS, MAX_EXAMPLES = 8, 96
MAX_CONFLICTS, MAX_PER_CONFLICT = 24, 4  # groups of near-duplicates, images of one
MIN_PER_GALLERY = 4  # examples of a class that has its own gallery
SEED = 0
MANY_CLASSES = 10  # of an image; those with more share a row
LABELS = {
    POSITIVE: "positive",
    NEGATIVE: "negative",
    AMBIGUOUS: "ambiguous",
    UNKNOWN: "unknown",
    OBJECT_ABSENT: "unknown, object in no label",
}

Position = tuple[str, int]  # a split and the position of a record in it
Sample = Mapping[int | None, Sequence[Position]]  # by class id, None for unlabelled


class Annotations:
    """Counts the labels and joints of a split; of a video the joints of all its stored frames."""

    def __init__(self) -> None:
        self.images_by_classes = collections.Counter[int]()
        self.labels = collections.Counter[int]()  # by value, if images have several
        self.people = self.joints = self.hidden = self.outside = self.images_outside = 0

    def add(self, record: records.Record) -> None:
        self.images_by_classes[min(len(list_classes(record["label"])), MANY_CLASSES)] += 1
        if np.ndim(record["label"]):
            values, counts = np.unique(record["label"], return_counts=True)
            self.labels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        keypoints = record["frame_keypoints"]
        seen = keypoints[..., 2] != NOT_ANNOTATED
        size = np.array([record["width_px"], record["height_px"]])
        xy = keypoints[..., :2]
        outside = int((seen & ((xy < 0) | (xy >= size)).any(axis=-1)).sum())
        self.people += int(seen.any(axis=-1).sum())
        self.joints += int(seen.sum())
        self.hidden += int((keypoints[..., 2] == HIDDEN).sum())
        self.outside += outside
        self.images_outside += outside > 0


def contact_sheet(
    directory: Path,
    manifest: Manifest,
    first_classes: Mapping[str, Sequence[int | None]],
    warnings: Sequence[str],
    conflicts: Sequence[Sequence[Member]] = (),
    annotations: Mapping[str, Annotations] = {},
) -> str:
    """Renders the page; `first_classes` has each record's first class by split in record order.

    `conflicts` are groups of near-duplicates that are shown side by side; `annotations` are counts
    by split.
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
        tables=[
            _tabulate_splits(manifest),
            _tabulate_classes(manifest),
            *_tabulate_annotations(manifest, annotations),
        ],
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
        nothing = "No label" if manifest.label_kind == "single" else "No class"
        heading = nothing if each is None else shorten(manifest.classes[each])
        galleries.append(Gallery(heading, "" if galleries else note, group))
    return galleries


def _make_figure(split: str, record: records.Record, manifest: Manifest) -> Figure:
    label = label_text(record["label"], manifest.classes)
    people = int((record["keypoints"][..., 2] != NOT_ANNOTATED).any(-1).sum())
    image = decode.decode(record["image"], upright=manifest.exif_applied)
    view = View(image, record["keypoints"], 0.0, record["boxes"])
    alt = f"{label}, with {people} annotated {'person' if people == 1 else 'people'}"
    details = " \u00b7 ".join([split, label, *count_not_known(record["label"])])
    return Figure(record["id"], details, [thumbnail(view, alt=alt)])


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


def _tabulate_annotations(
    manifest: Manifest, annotations: Mapping[str, Annotations]
) -> list[Table]:
    """Tabulates the labels of images that can have several, and the joints of data with joints."""
    tables: list[Table] = []
    splits = {name: each for name, each in annotations.items() if each.images_by_classes}
    if splits and manifest.label_kind == "multi":
        most = max(max(each.images_by_classes) for each in splits.values())
        first = next(iter(splits.values())).images_by_classes
        rows = [
            (
                f"{count:,}" + " or more" * (count == MANY_CLASSES),
                *(f"{each.images_by_classes[count]:,}" for each in splits.values()),
            )
            for count in range(most + 1)
        ]
        bars = [round(100 * first[count] / max(first.values()), 1) for count in range(most + 1)]
        note = f"Images by the number of their classes; bars show {next(iter(splits))}."
        tables.append(Table("Labels of an image", note, ("classes", *splits), rows, bars))
        rows = [
            (text, *(f"{each.labels[value]:,}" for each in splits.values()))
            for value, text in LABELS.items()
            if any(each.labels[value] for each in splits.values())
        ]
        note = "A label for each image and class; ambiguous and unknown ones are no disagreement."
        tables.append(Table("Labels", note, ("label", *splits), rows))
    if any(each.joints for each in splits.values()):
        columns = ("split", "people", "joints", "hidden", "outside the image", "images with one")
        rows = [
            (
                name,
                *(
                    f"{count:,}"
                    for count in (
                        each.people,
                        each.joints,
                        each.hidden,
                        each.outside,
                        each.images_outside,
                    )
                ),
            )
            for name, each in splits.items()
        ]
        note = "Annotated people and joints, and images with a joint outside."
        if manifest.frames > 1:
            note = (
                f"People and joints of all {manifest.frames} frames, and videos with one outside."
            )
        tables.append(Table("Joints", note, columns, rows))
    return tables


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
