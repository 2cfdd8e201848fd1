"""Verifies prepared data, from the digests of shards to every joint, and warns of oddities."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipelines import decode, manifest, records
from data_pipelines.core import files
from data_pipelines.core.boxes import clip
from data_pipelines.core.errors import DataError, name_some
from data_pipelines.example import NOT_ANNOTATED, find_box_fault
from data_pipelines.manifest import Manifest, Split, Tally
from data_pipelines.photographs.duplicates import (
    Member,
    Sketch,
    find_groups,
    is_conflict,
    list_conflicts,
    sketch,
)
from data_pipelines.photographs.examine import Log, count_images
from data_pipelines.photographs.exif import UPRIGHT, find_orientation
from data_pipelines.photographs.intake import make_member
from data_pipelines.pictures.sheet import Annotations, contact_sheet
from data_pipelines.prepare import FEW_IMAGES

MAX_NAMED = 10  # in a message
FAR_OUTSIDE = 0.1  # of the longer side: annotators mark joints a little beyond the border


def check(directory: Path, *, html: Path | None, log: Log = print) -> Manifest:
    """Refuses prepared data that differ from their manifest; writes a contact sheet to `html`."""
    stated = manifest.load(directory)
    check_shards(directory, stated)
    inspection = _Inspection(stated, log)
    for name, split in stated.splits.items():
        if split.examples:
            inspection.inspect_split(name, records.open_split(directory, name, stated))
    if inspection.faults:
        raise DataError(
            f"{len(inspection.faults):,} of the records in {directory} are damaged: "
            f"{name_some(inspection.faults, MAX_NAMED, '; ')}; prepare the data again"
        )
    compare(directory, stated, inspection.tallies)
    duplicates = inspection.group_duplicates()
    oddities = inspection.list_oddities(duplicates)
    kind = "images" if stated.frames == 1 else f"videos of {stated.frames} frames"
    log(f"{directory}: data set {stated.name}, fingerprint {stated.fingerprint}")
    for name, split in stated.splits.items():
        shards = f"{len(split.shards)} shard" + "s" * (len(split.shards) != 1)
        read = ", each read and decoded" if split.examples else ""
        log(f"{name}: {split.examples:,} {kind} in {shards}{read}")
    for oddity in oddities:
        log(f"warning: {oddity}")
    if html:
        conflicts = [group for group in duplicates if is_conflict(group)]
        page = contact_sheet(
            directory, stated, inspection.first_classes, oddities, conflicts, inspection.annotations
        )
        files.write_atomically(html, page)
        log(f"contact sheet: {html}")
    return stated


def check_shards(directory: Path, stated: Manifest) -> None:
    """Refuses a shard that is missing, changed or not in the manifest."""
    listed = [shard for split in stated.splits.values() for shard in split.shards]
    for shard in listed:
        records.check_shard_size(directory, shard)
        if files.sha256(directory / shard.file) != shard.sha256:
            raise DataError(
                f"shard {directory / shard.file} was changed after it was written (its SHA-256 is "
                "not the manifest's); prepare the data again"
            )
    known = {directory / shard.file for shard in listed}
    for folder in {path.parent for path in known}:
        for path in sorted(folder.iterdir()):
            if ".array_record" in path.name and path not in known:
                raise DataError(f"{path} is not a shard of {directory}; remove it")


class _Inspection:
    """Inspects every record once; collects faults, counts and oddities."""

    def __init__(self, stated: Manifest, log: Log) -> None:
        self.faults: list[str] = []
        self.tallies = {name: Tally(len(stated.classes), stated.frames) for name in stated.splits}
        self.annotations = {name: Annotations() for name in stated.splits}
        self.first_classes: dict[str, list[int | None]] = {name: [] for name in stated.splits}
        self._stated = stated
        self._log = log
        self._members: list[Member] = []  # with a sketch for each
        self._sketches: list[Sketch] = []
        self._far_outside: list[str] = []
        self._rotated: list[str] = []
        self._short: list[str] = []  # videos that repeat frames

    def inspect_split(self, split: str, source: records.RecordSource) -> None:
        for position in count_images(split, len(source), self._log):
            record = source[position]
            named = f"{split} {record['id']!r}"
            try:
                upright = self._stated.exif_applied
                images = [decode.decode(each, upright=upright) for each in record["frames"]]
            except DataError as error:
                self.faults.append(f"{named}: {error}")
                continue
            if fault := self._find_fault(record, images):
                self.faults.append(f"{named}: {fault}")
                continue
            people = record["frame_keypoints"].reshape(-1, *record["keypoints"].shape[1:])
            self.tallies[split].add(record["id"], record["label"], people)
            self.annotations[split].add(record)
            member = make_member(split, record["id"], record["label"], position)
            self.first_classes[split].append(member.label[0] if member.label else None)
            self._members.append(member)
            self._sketches.append(sketch(images[len(images) // 2]))
            self._note_oddities(named, record)

    def _find_fault(
        self, record: records.Record, images: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> str | None:
        stated = f"{record['width_px']} x {record['height_px']}"
        for height_px, width_px, _ in (each.shape for each in images):
            if (found := f"{width_px} x {height_px}") != stated:
                return f"it is {found} pixels, its record says {stated}"
        kind, classes = self._stated.label_kind, len(self._stated.classes)
        keypoints, boxes = record["keypoints"], record["boxes"]
        if fault := records.find_fault(record["label"], keypoints, kind, classes):
            return fault
        if not self._stated.has_boxes:
            return None
        if fault := find_box_fault(boxes, record["person_labels"], len(keypoints), classes):
            return fault
        size = record["width_px"], record["height_px"]
        return None if (clip(boxes, *size) == boxes).all() else "a box reaches beyond its image"

    def _note_oddities(self, named: str, record: records.Record) -> None:
        keypoints = record["frame_keypoints"]
        size = np.array([record["width_px"], record["height_px"]])
        annotated = keypoints[keypoints[..., 2] != NOT_ANNOTATED][:, :2]
        beyond = np.maximum(-annotated, annotated - (size - 1))
        if (beyond > FAR_OUTSIDE * size.max()).any():
            self._far_outside.append(named)
        if not self._stated.exif_applied and find_orientation(record["image"]) != UPRIGHT:
            self._rotated.append(named)
        if record.get("source_frames", 1) < self._stated.frames:
            self._short.append(named)

    def group_duplicates(self) -> list[list[Member]]:
        """Groups the near-duplicates."""
        groups = find_groups(self._sketches)
        return [[self._members[position] for position in group] for group in groups]

    def list_oddities(self, duplicates: Sequence[Sequence[Member]]) -> list[str]:
        train = self.tallies.get("train", Tally(len(self._stated.classes)))
        counts = list(zip(map(files.quote, self._stated.classes), train.class_counts, strict=True))
        if "train" not in self.tallies:  # the data are for scoring alone
            counts = []
        few = [name for name, count in counts if 0 < count < FEW_IMAGES]
        found = {
            "classes without a training image": [name for name, count in counts if not count],
            f"classes with fewer than {FEW_IMAGES} training images": few,
            **list_conflicts(duplicates),
            "images with a joint far outside": self._far_outside,
            "images with an EXIF orientation, which is ignored": self._rotated,
            f"videos of fewer than {self._stated.frames} frames, which are repeated": self._short,
        }
        lines = [
            f"{text} ({len(named):,}): {name_some(named, MAX_NAMED, '; ')}"
            for text, named in found.items()
            if named
        ]
        lines += manifest.list_skipped(self._stated)
        if unlabelled := len(train.ids) - train.labelled:
            lines.append(f"{unlabelled:,} training images have no label and train with weight 0")
        return lines


def compare(directory: Path, stated: Manifest, tallies: dict[str, Tally]) -> None:
    """Refuses a manifest whose numbers differ from those of the records."""
    for name, split in stated.splits.items():
        counted = tallies[name].split(split.shards)
        for field in Split.__dataclass_fields__:
            if getattr(counted, field) != getattr(split, field):
                raise DataError(
                    f"the manifest of {directory} and its records differ in {field} of split "
                    f"{name!r}; prepare the data again"
                )
    people = max((tally.max_people for tally in tallies.values()), default=0)
    if people != stated.max_people:
        raise DataError(
            f"the manifest of {directory} has max_people={stated.max_people} and its records "
            f"have {people}; prepare the data again"
        )
