"""Verifies prepared data from its shards' digests down to every joint, and says what is odd."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines import decode, files, manifest, records
from data_pipelines.errors import DataError
from data_pipelines.example import NOT_ANNOTATED
from data_pipelines.manifest import Manifest, Split, Tally
from data_pipelines.pictures.sheet import contact_sheet
from data_pipelines.prepare import FEW_IMAGES, News, Say

NAMED = 10
FAR_OUTSIDE = 0.1  # of the longer side: annotators mark joints a little beyond the border
ORIENTATION_TAG, TURNED = 0x0112, range(2, 9)


def check(directory: Path, *, html: Path | None, say: Say = print) -> Manifest:
    """Refuses prepared data that is not exactly what its manifest says; warns of oddities.

    `html` names the contact sheet to write.
    """
    stated = manifest.load(directory)
    check_shards(directory, stated)
    inspection = Inspection(stated, News(say))
    for name, split in stated.splits.items():
        if split.examples:
            inspection.read(name, records.open_split(directory, name, stated))
    if inspection.faults:
        raise DataError(
            f"{len(inspection.faults):,} of the records in {directory} are damaged: "
            f"{_first(inspection.faults)}; prepare the data again"
        )
    compare(directory, stated, inspection.tallies)
    oddities = inspection.oddities()
    say(f"{directory}: data set {stated.name}, fingerprint {stated.fingerprint}")
    for name, split in stated.splits.items():
        shards = f"{len(split.shards)} shard" + "s" * (len(split.shards) != 1)
        read = ", each read and decoded" if split.examples else ""
        say(f"{name}: {split.examples:,} images in {shards}{read}")
    for oddity in oddities:
        say(f"warning: {oddity}")
    if html:
        page = contact_sheet(directory, stated, inspection.first_classes, oddities)
        files.write_atomically(html, page)
        say(f"contact sheet: {html}")
    return stated


def check_shards(directory: Path, stated: Manifest) -> None:
    """Refuses a shard that is missing, changed or not in the manifest."""
    listed = [shard for split in stated.splits.values() for shard in split.shards]
    for shard in listed:
        records.check_shard_size(directory, shard)
        if files.sha256(directory / shard.file) != shard.sha256:
            raise DataError(
                f"shard {directory / shard.file} was changed after it was written (another "
                "SHA-256 than the manifest's); prepare the data again"
            )
    known = {directory / shard.file for shard in listed}
    for folder in {path.parent for path in known}:
        for path in sorted(folder.iterdir()):
            if ".array_record" in path.name and path not in known:
                raise DataError(f"{path} is no shard of {directory}; remove it")


class Inspection:
    """What one look at every record found."""

    def __init__(self, stated: Manifest, news: News) -> None:
        self.faults: list[str] = []
        self.tallies = {name: Tally(len(stated.classes)) for name in stated.splits}
        self.first_classes: dict[str, list[int | None]] = {name: [] for name in stated.splits}
        self._stated = stated
        self._news = news
        self._seen: dict[bytes, tuple[str, str]] = {}  # split and id of every image's digest
        self._leaks: list[str] = []
        self._far: list[str] = []
        self._rotated: list[str] = []

    def read(self, split: str, source: records.RecordSource) -> None:
        """Looks at every record of a split."""
        for position in range(len(source)):
            self._news.tell(split, position, len(source))
            record = source[position]
            named = f"{split} {record['id']!r}"
            fault = self._fault(record)
            if fault:
                self.faults.append(f"{named}: {fault}")
                continue
            label, keypoints = record["label"], record["keypoints"]
            self.tallies[split].add(record["id"], label, keypoints)
            self.first_classes[split].append(next(iter(manifest.classes_of(label)), None))
            self._note(split, named, record)

    def _fault(self, record: records.Record) -> str | None:
        try:
            height_px, width_px, _ = decode.decode(record["image"]).shape
        except DataError as error:
            return str(error)
        found, stated = (width_px, height_px), (record["width_px"], record["height_px"])
        if found != stated:
            return "it is {} x {} pixels, its record says {} x {}".format(*found, *stated)
        return records.label_fault(
            record["label"], self._stated.label_kind, len(self._stated.classes)
        ) or records.keypoints_fault(record["keypoints"])

    def _note(self, split: str, named: str, record: records.Record) -> None:
        digest = hashlib.sha256(record["image"]).digest()
        home, twin = self._seen.setdefault(digest, (split, named))
        if home != split:
            self._leaks.append(f"{twin} = {named}")
        if joints_far_outside(record["keypoints"], record["width_px"], record["height_px"]):
            self._far.append(named)
        if not is_upright(record["image"]):
            self._rotated.append(named)

    def oddities(self) -> list[str]:
        """Everything that is allowed but deserves a look."""
        train = self.tallies.get("train", Tally(len(self._stated.classes)))
        counts = list(zip(self._stated.classes, train.class_counts, strict=True))
        found = (
            (
                [files.quote(name) for name, count in counts if count == 0],
                "classes without a training image",
            ),
            (
                [files.quote(name) for name, count in counts if 0 < count < FEW_IMAGES],
                f"classes with fewer than {FEW_IMAGES} training images",
            ),
            (self._leaks, "images that lie in two splits, byte for byte"),
            (self._far, "images with a joint far outside of them"),
            (self._rotated, "images with an EXIF orientation, which is ignored"),
        )
        lines = [f"{text} ({len(named):,}): {_first(named)}" for named, text in found if named]
        lines += manifest.list_skipped(self._stated)
        unlabelled = len(train.ids) - train.labelled
        if unlabelled:
            lines.append(f"{unlabelled:,} training images have no label and train with weight 0")
        return lines


def joints_far_outside(keypoints: np.ndarray, width_px: int, height_px: int) -> bool:
    """Whether an annotated joint lies more than a tenth of the longer side beyond the border."""
    annotated = keypoints[keypoints[..., 2] != NOT_ANNOTATED][:, :2]
    beyond = np.maximum(-annotated, annotated - (width_px - 1, height_px - 1))
    return bool((beyond > FAR_OUTSIDE * max(width_px, height_px)).any())


def is_upright(content: bytes) -> bool:
    """Whether a viewer that heeds EXIF would show the pixels as they are stored."""
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
        return image.getexif().get(ORIENTATION_TAG) not in TURNED


def compare(directory: Path, stated: Manifest, tallies: dict[str, Tally]) -> None:
    """Refuses a manifest whose numbers are not those of the records."""
    for name, split in stated.splits.items():
        counted = tallies[name].split(split.shards)
        for field in Split.__dataclass_fields__:
            if getattr(counted, field) != getattr(split, field):
                raise DataError(
                    f"the manifest of {directory} states another {field} of split {name!r} than "
                    "its records give; prepare the data again"
                )
    people = max((tally.max_people for tally in tallies.values()), default=0)
    if people != stated.max_people:
        raise DataError(
            f"the manifest of {directory} says max_people={stated.max_people} and its records "
            f"hold {people}; prepare the data again"
        )


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more
