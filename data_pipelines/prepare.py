"""Prepares verified records from a data set's own files, and names every image it rejects."""

import functools
import importlib.metadata
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from data_pipelines import decode, records
from data_pipelines.core import faults, files
from data_pipelines.core.boxes import clip
from data_pipelines.core.errors import CannotWrite, DataError, name_some
from data_pipelines.core.progress import Log, count_items
from data_pipelines.example import RawData, Reject
from data_pipelines.manifest import (
    EXIF_APPLIED,
    EXIF_IGNORED,
    MANIFEST,
    Manifest,
    Tally,
    list_skipped,
    load,
    save,
)
from data_pipelines.photographs.crops import cut_boxes
from data_pipelines.photographs.duplicates import describe_groups
from data_pipelines.photographs.examine import read_file
from data_pipelines.photographs.intake import (
    Accepted,
    accept,
    boxes_of,
    group_duplicates,
    list_members,
    person_labels_of,
)
from data_pipelines.photographs.journal import open_journal
from data_pipelines.photographs.split import derive_val
from data_pipelines.transforms import View, resize

REJECTS = "rejects.csv"
CROPS = "crops"  # folder of temporary files
FEW_IMAGES = 5  # of a class: fewer give a warning
REJECTED_SHARE = 0.1  # of the listed images, rounded up: allowed if max_rejects is None
JPEG_QUALITY = 95


def build(
    out: Path,
    source: Callable[[Path], RawData],
    *,
    max_rejects: int | None = 0,
    max_width_px: int = 0,
    overwrite: bool = False,
    log: Log = print,
) -> Manifest:
    """Builds records and a manifest under `out`, or leaves nothing there.

    `source` may write raw files into the folder it is given. Images wider than `max_width_px` are
    shrunk to it; 0 shrinks none. More than `max_rejects` unusable images are an error and listed
    beside `out`; None allows a tenth of those listed.
    """
    with files.writing(out):
        out = Path(os.path.realpath(out))
    with files.locked(out):
        _refuse_existing(out, overwrite)
        reject_list = out.with_name(f"{out.name}.{REJECTS}")
        left = out.with_name(f".{out.name}.examined")
        with open_journal(left) as journal, files.fresh_folder(out) as partial:
            if journal:
                log(f"{len(journal):,} images were decoded by a command that was killed")
            raw = cut_boxes(_read_source(source, partial), partial / CROPS, log)
            accepted, rejects = accept(raw, log, journal)
            table = files.csv_table(Reject._fields, rejects)
            if fault := _find_excess(raw, rejects, max_rejects, reject_list):
                files.write_atomically(reject_list, table)
                raise DataError(fault)
            groups = group_duplicates(accepted)
            raw, accepted = derive_val(raw, accepted, groups)
            _refuse_unusable(raw, accepted)
            manifest = _write(partial, raw, accepted, max_width_px, log)
            shutil.rmtree(partial / CROPS, ignore_errors=True)  # there are none without boxes
            if rejects:
                files.write_atomically(partial / REJECTS, table)
            save(manifest, partial)
        reject_list.unlink(missing_ok=True)
    notes = [*raw.notes, *describe_groups([list_members(accepted, group) for group in groups])]
    for line in _summarise(out, raw, manifest, rejects, notes):
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


def _find_excess(
    raw: RawData, rejects: Sequence[Reject], max_rejects: int | None, reject_list: Path
) -> str:
    """Returns a message if too many images are rejected, else nothing."""
    count, listed = len(rejects), sum(each.listed for each in raw.splits.values())
    most = math.ceil(REJECTED_SHARE * listed) if max_rejects is None else max_rejects
    if count <= most:
        return ""
    return (
        f"{count:,} of {listed:,} listed images cannot be used, more than --max-rejects {most} "
        f"({_name_rejects(rejects)}); {reject_list} lists them: repair them, or pass "
        f"--max-rejects {count}"
    )


def _name_rejects(rejects: Sequence[Reject]) -> str:
    named = [f"{each.split} {files.quote(each.id)}: {each.reason}" for each in rejects]
    return name_some(named, separator="; ")


def _main_split(splits: Iterable[str]) -> str:
    """Returns `train`, or of data for scoring alone the first split."""
    return "train" if "train" in splits else next(iter(splits))


def _refuse_unusable(raw: RawData, accepted: Sequence[Accepted]) -> None:
    """Refuses `train`, or where there is none the split to score, without a usable image."""
    split = _main_split(raw.splits)
    if not any(each.split == split for each in accepted):
        raise DataError(
            f"split {split!r} of data set {raw.name} has no usable image of "
            f"{raw.splits[split].listed:,} listed; check its list and the folder of its images"
        )


def _write(
    folder: Path, raw: RawData, accepted: Sequence[Accepted], max_width_px: int, log: Log
) -> Manifest:
    """Writes the records, and describes them."""
    tallies = {name: Tally(len(raw.classes), raw.frames) for name in raw.splits}

    def make_records(split: str) -> Iterator[records.Record]:
        chosen = [each for each in accepted if each.split == split]
        for position in count_items(split, len(chosen), log, "images written"):
            faults.point("prepare.entry")
            record = _make_record(chosen[position], raw, max_width_px)
            entry = chosen[position].entry
            tallies[split].add(entry.id, entry.label, entry.keypoints)
            yield record

    written = {name: make_records(name) for name in raw.splits}
    shards = records.write(
        folder,
        raw.label_kind,
        len(raw.classes),
        written,
        raw.frames,
        has_boxes=raw.frames == 1,
    )
    writers = ("tensorflow-datasets", "array-record")
    versions = {name: importlib.metadata.version(name) for name in writers}
    return Manifest(
        name=raw.name,
        label_kind=raw.label_kind,
        classes=raw.classes,
        max_people=max(tally.max_people for tally in tallies.values()),
        splits={name: tally.split(shards[name]) for name, tally in tallies.items()},
        provenance={**raw.provenance, **versions, "max_width_px": max_width_px},
        exif=EXIF_APPLIED if raw.upright else EXIF_IGNORED,
        frames=raw.frames,
    )


def _make_record(accepted: Accepted, raw: RawData, max_width_px: int) -> records.Record:
    """Reads the files of a record again, and shrinks an image that is too wide."""
    _, entry, image = accepted
    changed = f"{entry.path} was changed while it was prepared; run the command again"
    try:
        frames = [read_file(path) for path in entry.files]
    except DataError as error:
        raise DataError(f"{changed} ({error})") from error
    if functools.reduce(lambda crc32, each: zlib.crc32(each, crc32), frames, 0) != image.crc32:
        raise DataError(changed)
    content = frames[0]
    width_px, height_px, keypoints = image.width_px, image.height_px, entry.keypoints
    boxes = clip(boxes_of(entry), width_px, height_px)
    if 0 < max_width_px < width_px and raw.frames == 1:
        height_px = max(1, round(height_px * max_width_px / width_px))
        width_px = max_width_px
        view = View(decode.decode(content, upright=raw.upright), keypoints, 0.0, boxes)
        view = resize(view, width_px, height_px, "area")
        content = simplejpeg.encode_jpeg(view.image, quality=JPEG_QUALITY)
        keypoints, boxes = view.keypoints, view.boxes
    stored: dict[str, Any] = {"image": content}
    if raw.frames > 1:
        stored = {"frames": frames, "source_frames": entry.source_frames}
    else:
        stored |= {"boxes": boxes.astype(np.float32), "person_labels": person_labels_of(entry)}
    return {
        "id": entry.id,
        **stored,
        "width_px": width_px,
        "height_px": height_px,
        "label": np.array(entry.label, np.int8 if raw.label_kind == "multi" else np.int64),
        "keypoints": keypoints.astype(np.float32),
        "source_index": entry.source_index,
    }


def _summarise(
    out: Path, raw: RawData, manifest: Manifest, rejects: Sequence[Reject], notes: Sequence[str]
) -> Iterator[str]:
    rows = [["split", "listed", "found", "on disk", "used", "labelled", "with joints"]]
    for name, split in raw.splits.items():
        held = manifest.splits[name]
        found = split.listed, split.annotated, split.on_disk
        used = held.examples, held.labelled, held.with_joints
        rows.append([name, *(f"{count:,}" for count in found + used)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        numbers = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((f"{first:<{widths[0]}}", *numbers))
    most = _main_split(manifest.splits)
    few = sum(count < FEW_IMAGES for count in manifest.splits[most].class_counts)
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    yield (
        f"classes: {len(manifest.classes):,}, of which {few:,} have fewer than {FEW_IMAGES} "
        f"images in {most}; people in an image: at most {manifest.max_people}"
    )
    yield from (*notes, *list_skipped(manifest))
    if rejects:
        named = _name_rejects(rejects)
        yield f"rejected {len(rejects):,} images ({named}): {out / REJECTS} names them"
    yield f"wrote {size / 2**20:,.1f} MiB of records to {out} (fingerprint {manifest.fingerprint})"
