"""Prepares verified records from a data set's own files, and names every image it rejects."""

import importlib.metadata
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import simplejpeg

from data_pipelines import decode, records
from data_pipelines.core import faults, files
from data_pipelines.core.errors import CannotWrite, DataError, name_some
from data_pipelines.example import Entry, RawData, Reject
from data_pipelines.manifest import (
    EXIF_APPLIED,
    EXIF_IGNORED,
    MANIFEST,
    Manifest,
    Shard,
    Tally,
    list_skipped,
    load,
    save,
)
from data_pipelines.transforms import View, resize

REJECTS = "rejects.csv"
FEW_IMAGES = 5  # of a class: fewer give a warning
MAX_FILE_BYTES = 256 * 2**20
JPEG_QUALITY = 95
PROGRESS_INTERVAL_S = 15.0

Log = Callable[[str], None]


def build(
    out: Path,
    source: Callable[[Path], RawData],
    *,
    max_rejects: int = 0,
    max_width_px: int = 0,
    overwrite: bool = False,
    log: Log = print,
) -> Manifest:
    """Builds records and a manifest under `out`, or leaves nothing there.

    `source` may write raw files into the folder it is given. Images wider than `max_width_px` are
    shrunk to it; 0 shrinks none. More than `max_rejects` unusable images are an error and listed
    beside `out`.
    """
    with files.writing(out):
        out = Path(os.path.realpath(out))
    with files.locked(out):
        _refuse_existing(out, overwrite)
        reject_list = out.with_name(f"{out.name}.{REJECTS}")
        with files.fresh_folder(out) as partial:
            raw = _read_source(source, partial)
            intake = _Intake(raw, max_width_px, log)
            entries = {name: intake.records(name) for name in raw.splits}
            shards = records.write(partial, raw.label_kind, len(raw.classes), entries)
            rejects = files.csv_table(Reject._fields, intake.rejects)
            if len(intake.rejects) > max_rejects:
                files.write_atomically(reject_list, rejects)
                raise DataError(intake.describe_rejects(max_rejects, reject_list))
            intake.refuse_untrainable()
            if intake.rejects:
                files.write_atomically(partial / REJECTS, rejects)
            manifest = intake.describe(shards)
            save(manifest, partial)
        reject_list.unlink(missing_ok=True)
    for line in _summarise(out, raw, manifest, len(intake.rejects)):
        log(line)
    return manifest


def _refuse_existing(out: Path, overwrite: bool) -> None:
    with files.writing(out):
        if os.path.lexists(out) and not out.is_dir():
            raise CannotWrite(f"{out} is a file or a link loop; pass another --out")
        if not out.exists() or not any(out.iterdir()):
            return
    if not (out / MANIFEST).is_file():
        raise CannotWrite(
            f"{out} holds files that are no prepared data and is not changed; pass another --out"
        )
    if not overwrite:
        try:
            held = load(out)
            described = f"data set {held.name} ({held.fingerprint})"
        except DataError:
            described = "a damaged data set"
        raise CannotWrite(f"{out} already holds {described}; pass --overwrite or another --out")


def _read_source(source: Callable[[Path], RawData], partial: Path) -> RawData:
    try:
        return source(partial)
    except OSError as error:
        if error.filename and not Path(str(error.filename)).is_relative_to(partial):
            raise DataError(
                f"cannot read {error.filename}: {error.strerror}; repair it or pass another"
            ) from error
        raise


def count_images(split: str, total: int, log: Log) -> Iterator[int]:
    """Yields the positions of a split's images and logs the progress at intervals."""
    logged_at = time.monotonic()
    for done in range(total):
        if time.monotonic() - logged_at > PROGRESS_INTERVAL_S:
            logged_at = time.monotonic()
            log(f"{split}: {done:,} of {total:,} images read")
        yield done


class _Intake:
    """Turns entries into records one at a time; counts the records and collects the rejects."""

    def __init__(self, raw: RawData, max_width_px: int, log: Log) -> None:
        self.rejects = list(raw.rejects)
        self.tallies = {name: Tally(len(raw.classes)) for name in raw.splits}
        self._raw = raw
        self._max_width_px = max_width_px
        self._split_of: dict[str, str] = {}  # by id
        self._log = log

    def records(self, split: str) -> Iterator[records.Record]:
        entries = self._raw.splits[split].entries
        for position in count_images(split, len(entries), self._log):
            entry = entries[position]
            faults.point("prepare.entry")
            try:
                self._check_name(split, entry.id)
                record = _make_record(entry, self._raw, self._max_width_px)
            except DataError as error:
                self.rejects.append(Reject(split, entry.id, str(error)))
                continue
            self.tallies[split].add(entry.id, entry.label, record["keypoints"])
            yield record

    def _check_name(self, split: str, name: str) -> None:
        if not name or name.encode("utf-8", "ignore").decode() != name:
            raise DataError("its name is empty or not valid UTF-8; rename it")
        if name in self._split_of:
            split = self._split_of[name]
            raise DataError(f"its name is already listed in split {split!r}; list it once")
        self._split_of[name] = split

    def describe_rejects(self, max_rejects: int, reject_list: Path) -> str:
        count, listed = len(self.rejects), sum(each.listed for each in self._raw.splits.values())
        named = [f"{each.split} {each.id!r}: {each.reason}" for each in self.rejects]
        return (
            f"{count:,} of {listed:,} listed images cannot be used, more than --max-rejects "
            f"{max_rejects} ({name_some(named, separator='; ')}); {reject_list} lists them: "
            f"repair them, or pass --max-rejects {count}"
        )

    def refuse_untrainable(self) -> None:
        name, splits = self._raw.name, self._raw.splits
        if "train" not in splits:
            raise DataError(f"data set {name} has no split 'train', only {', '.join(splits)}")
        if not self.tallies["train"].ids:
            raise DataError(
                f"split 'train' of data set {name} has no usable image of "
                f"{splits['train'].listed:,} listed; check its list and the folder of its images"
            )

    def describe(self, shards: Mapping[str, Sequence[Shard]]) -> Manifest:
        writers = ("tensorflow-datasets", "array-record")
        versions = {name: importlib.metadata.version(name) for name in writers}
        return Manifest(
            name=self._raw.name,
            label_kind=self._raw.label_kind,
            classes=self._raw.classes,
            max_people=max(tally.max_people for tally in self.tallies.values()),
            splits={name: tally.split(shards[name]) for name, tally in self.tallies.items()},
            provenance={**self._raw.provenance, **versions, "max_width_px": self._max_width_px},
            exif=EXIF_APPLIED if self._raw.upright else EXIF_IGNORED,
        )


def _make_record(entry: Entry, raw: RawData, max_width_px: int) -> records.Record:
    """Reads, decodes and checks one image; a DataError gives the reason why it cannot be used."""
    kind, classes = raw.label_kind, len(raw.classes)
    if fault := records.find_fault(entry.label, entry.keypoints, kind, classes):
        raise DataError(fault)
    content = _read(entry.path)
    view = View(decode.decode(content, upright=raw.upright), entry.keypoints, 0.0)
    height_px, width_px, _ = view.image.shape
    if 0 < max_width_px < width_px:
        height_px = max(1, round(height_px * max_width_px / width_px))
        width_px = max_width_px
        view = resize(view, width_px, height_px, "area")
        content = simplejpeg.encode_jpeg(view.image, quality=JPEG_QUALITY)
    return {
        "id": entry.id,
        "image": content,
        "width_px": width_px,
        "height_px": height_px,
        "label": np.array(entry.label, np.int8 if kind == "multi" else np.int64),
        "keypoints": view.keypoints.astype(np.float32),
        "source_index": entry.source_index,
    }


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError("it is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"its file has {status.st_size:,} bytes, too many for an image")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("it has no file") from error
    except OSError as error:
        raise DataError(f"its file cannot be read ({error.strerror or error})") from error


def _summarise(out: Path, raw: RawData, manifest: Manifest, rejected: int) -> Iterator[str]:
    rows = [["split", "listed", "found", "on disk", "labelled", "with joints", "used"]]
    for name, split in raw.splits.items():
        held = manifest.splits[name]
        found = split.listed, split.annotated, split.on_disk
        used = held.labelled, held.with_joints, held.examples
        rows.append([name, *(f"{count:,}" for count in found + used)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        numbers = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((f"{first:<{widths[0]}}", *numbers))
    few = sum(count < FEW_IMAGES for count in manifest.splits["train"].class_counts)
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    yield (
        f"classes: {len(manifest.classes):,}, of which {few:,} have fewer than {FEW_IMAGES} "
        f"training images; people in an image: at most {manifest.max_people}"
    )
    yield from list_skipped(manifest)
    if rejected:
        yield f"rejected {rejected:,} images: {out / REJECTS} names them"
    yield f"wrote {size / 2**20:,.1f} MiB of records to {out} (fingerprint {manifest.fingerprint})"
