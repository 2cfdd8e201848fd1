"""Writes and opens ArrayRecord files in TFDS's format without TensorFlow."""

import dataclasses
import errno
import io
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.core.errors import DataError, first_line
from data_pipelines.core.files import read_bounded, sha256
from data_pipelines.example import (
    JOINTS,
    LABEL_VALUES,
    UNLABELLED,
    VISIBILITIES,
    LabelKind,
    record_features,
)
from data_pipelines.manifest import Manifest, Shard

Record = Mapping[str, Any]

FOLDER = "records"
SHARD_BYTES = 256 * 2**20
METADATA, MAX_METADATA_BYTES = ("dataset_info.json", "features.json"), 64 * 2**20


def find_label_fault(label: Any, label_kind: LabelKind, classes: int) -> str | None:
    """Returns the first fault of a label, or None."""
    if label_kind == "single":
        if not isinstance(label, numbers.Integral):
            return f"its label {label!r} is no class id"
        if label != UNLABELLED and not 0 <= int(label) < classes:
            return f"its label {label} is outside 0..{classes - 1}"
        return None
    shape = np.shape(label)
    if shape != (classes,):
        return f"its label has shape {shape}, not one number for each of {classes} classes"
    if np.isin(label, LABEL_VALUES).all():
        return None
    return f"its label holds a value outside {min(LABEL_VALUES)}..{max(LABEL_VALUES)}"


def find_fault(
    label: Any, keypoints: np.ndarray, label_kind: LabelKind, classes: int, frames: int = 1
) -> str | None:
    """Returns the first fault of a record's label or keypoints, or None."""
    if fault := find_label_fault(label, label_kind, classes):
        return fault
    if keypoints.ndim != 3 or keypoints.shape[1:] != (len(JOINTS), 3):
        return f"its keypoints have shape {keypoints.shape}, not (people, {len(JOINTS)}, 3)"
    if not np.isfinite(keypoints).all():
        return "a keypoint is not finite"
    if not np.isin(keypoints[..., 2], VISIBILITIES).all():
        return "a keypoint's visibility is not 0, 1 or 2"
    if len(keypoints) % frames:
        return f"its {len(keypoints)} people cannot be divided among {frames} frames"
    return None


def write(
    folder: Path,
    label_kind: LabelKind,
    classes: int,
    splits: Mapping[str, Iterable[Record]],
    frames: int = 1,
    *,
    has_boxes: bool,
) -> dict[str, list[Shard]]:
    """Streams every split into shards and describes them.

    TFDS's own builders hold a whole split in memory, and need TensorFlow beyond 1 GB.
    """
    features = record_features(label_kind, classes, frames, has_boxes=has_boxes)
    target = folder.absolute() / FOLDER
    target.mkdir(parents=True)
    naming = tfds.core.ShardedFileTemplate(
        data_dir=cast(Any, target), dataset_name=FOLDER, filetype_suffix="array_record"
    )
    shards: dict[str, list[Shard]] = {}
    for split, records in splits.items():
        examples = (_serialize(features, each) for each in records)
        shards[split] = _write_split(target, naming.replace(split=split), examples)
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[each.examples for each in written],
            num_bytes=sum(each.bytes for each in written),
            filename_template=naming.replace(split=split),
        )
        for split, written in shards.items()
        if written
    ]
    if infos:
        tfds.folder_dataset.write_metadata(
            data_dir=target,
            features=features,
            split_infos=infos,
            filename_template=naming,
            check_data=False,
        )
    return shards


def _serialize(features: tfds.features.FeaturesDict, record: Record) -> bytes:
    """Serializes a record deterministically; by default the order of the features is random."""
    if "image" in record:
        record = {**record, "image": io.BytesIO(record["image"])}
    content = features.serialize_example(record)
    example = cast(Any, tf_example_pb2).Example.FromString(content)
    return example.SerializeToString(deterministic=True)


def _write_split(
    folder: Path, naming: tfds.core.ShardedFileTemplate, examples: Iterator[bytes]
) -> list[Shard]:
    counts: list[int] = []
    while True:
        partial = folder / f"{len(counts)}.partial"
        if not (count := _fill_shard(partial, examples)):
            break
        counts.append(count)
    partial.unlink()  # it is empty
    paths = [Path(file) for file in naming.sharded_filepaths(len(counts))]
    for index, path in enumerate(paths):  # a shard's name holds the number of shards
        (folder / f"{index}.partial").replace(path)
    return [
        Shard(f"{FOLDER}/{path.name}", path.stat().st_size, count, sha256(path))
        for path, count in zip(paths, counts, strict=True)
    ]


def _fill_shard(path: Path, examples: Iterator[bytes]) -> int:
    """Writes examples to one shard until it is full or none is left; returns their number."""
    count = size = 0
    try:
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for example in examples:
            writer.write(example)
            count += 1
            size += len(example)
            if size >= SHARD_BYTES:
                break
        writer.close()
    except RuntimeError as error:  # the writer's name the OSError that caused them
        for code in errno.errorcode:
            if f": {os.strerror(code)}; " in str(error):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise
    return count


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """Reads the records of a split by index; a record's `image` is the bytes of the image file.

    TFDS's lists are turned into arrays, and its errors into refusals. In records that hold no boxes
    everybody's box is absent and label unknown. A record of a video has all
    its `frames`, and `frame_keypoints` of each; its `image` is the middle frame, with its people as
    `keypoints`. Of an image both hold one.
    """

    source: Any
    name: str
    frames: int = 1

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        try:
            record = self.source[index]
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"record {index} of {self.name} cannot be read ({first_line(error)}); "
                "prepare the data again"
            ) from error
        keypoints = np.asarray(record["keypoints"], np.float32).reshape(-1, len(JOINTS), 3)
        frames = record["frames"] if self.frames > 1 else [record["image"]]
        if len(frames) != self.frames or len(keypoints) % self.frames:
            raise DataError(
                f"record {index} of {self.name} holds {len(frames)} frames with {len(keypoints)} "
                f"people, and its manifest says {self.frames} frames; prepare the data again"
            )
        of_frame = keypoints.reshape(self.frames, -1, len(JOINTS), 3)
        people = of_frame[self.frames // 2]
        boxes = record.get("boxes", np.zeros((len(people), 4)))
        labels = record.get("person_labels", np.full(len(people), UNLABELLED))
        return {
            **record,
            "id": record["id"].decode(),
            "image": frames[self.frames // 2],
            "keypoints": people,
            "boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
            "person_labels": np.asarray(labels, np.int64).reshape(-1),
            "frames": frames,
            "frame_keypoints": of_frame,
        }


@dataclasses.dataclass(frozen=True)
class _Joined:
    """Reads several sources as one, in their order."""

    sources: tuple[Any, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> Any:
        for source in self.sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)


def open_split(directory: Path, split: str, manifest: Manifest) -> RecordSource:
    """Opens a split after checking that its shards exist with the sizes of the manifest."""
    parts = manifest.list_parts(split)
    if not parts:
        known = ", ".join(name for name, each in manifest.splits.items() if each.examples)
        raise DataError(f"{directory} has no split {split!r}; it has {known}")
    opened = [_open_stored(directory, part, manifest) for part in parts]
    if len(opened) == 1:
        return opened[0]
    joined = _Joined(tuple(each.source for each in opened))
    return RecordSource(joined, f"split {split!r} in {directory}", manifest.frames)


def _open_stored(directory: Path, split: str, manifest: Manifest) -> RecordSource:
    contents = manifest.splits[split]
    if not contents.examples:
        raise DataError(f"split {split!r} of {directory} is empty; choose another split")
    for shard in contents.shards:
        check_shard_size(directory, shard)
    features = record_features(
        manifest.label_kind,
        len(manifest.classes),
        manifest.frames,
        has_boxes=manifest.has_boxes,
    )
    stored_bytes = {"image": tfds.decode.SkipDecoding()} if manifest.frames == 1 else {}
    try:
        folder = (directory / contents.shards[0].file).parent
        for name in METADATA:  # TFDS would read a pipe or device for ever
            read_bounded(folder / name, MAX_METADATA_BYTES)
        builder = cast(Any, tfds.builder_from_directory(folder))
        source = builder.as_data_source(split, decoders=stored_bytes)
        stored = builder.info.splits[split]
        matches = (
            [Path(file).name for file in stored.filepaths]
            == [Path(each.file).name for each in contents.shards]
            and list(stored.shard_lengths) == [each.examples for each in contents.shards]
            and builder.info.features.get_serialized_info() == features.get_serialized_info()
        )
    except Exception as error:  # the parsers of TFDS and protobuf raise many types
        raise DataError(
            f"the records of split {split!r} in {directory} cannot be opened "
            f"({first_line(error)}); prepare the data again"
        ) from error
    if not matches:
        raise DataError(
            f"the metadata in {folder} and the manifest of {directory} differ for split {split!r}; "
            "prepare the data again"
        )
    return RecordSource(source, f"split {split!r} in {directory}", manifest.frames)


def check_shard_size(directory: Path, shard: Shard) -> None:
    """Refuses a shard that is absent or has another size than in the manifest."""
    path = directory / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"shard {path} is missing; prepare the data again") from error
    if size != shard.bytes:
        raise DataError(
            f"shard {path} has {size:,} bytes and the manifest says {shard.bytes:,}; "
            "prepare the data again"
        )
