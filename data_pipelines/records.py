"""ArrayRecord files in TFDS's form, written and opened without TensorFlow."""

import contextlib
import dataclasses
import errno
import io
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import DataError
from data_pipelines.example import (
    HIDDEN,
    JOINTS,
    NOT_ANNOTATED,
    UNLABELLED,
    VISIBLE,
    LabelKind,
    record_features,
)
from data_pipelines.manifest import Manifest, Shard, Split

Record = Mapping[str, Any]

FOLDER = "records"
SHARD_BYTES = 256 * 2**20


@runtime_checkable
class RecordSource(Protocol):
    """Random access to a split; a record's `image` is the file's own bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def label_fault(label: Any, label_kind: LabelKind, classes: int) -> str | None:
    """What is wrong with a label, if anything is."""
    if label_kind == "single":
        if not isinstance(label, numbers.Integral):
            return f"its label {label!r} is no class id"
        if label != UNLABELLED and not 0 <= int(label) < classes:
            return f"its label {label} is outside 0..{classes - 1}"
        return None
    values = np.asarray(label)
    if values.shape != (classes,):
        return f"its label has shape {values.shape}, not one number for each of {classes} classes"
    if not np.isin(values, (0, 1)).all():
        return "its label holds something other than 0 and 1"
    return None


def keypoints_fault(keypoints: np.ndarray) -> str | None:
    """What is wrong with the keypoints of an image's people, if anything is."""
    if keypoints.ndim != 3 or keypoints.shape[1:] != (len(JOINTS), 3):
        return f"its keypoints have shape {keypoints.shape}, not (people, {len(JOINTS)}, 3)"
    if not np.isfinite(keypoints).all():
        return "a keypoint is not finite"
    if not np.isin(keypoints[..., 2], (NOT_ANNOTATED, HIDDEN, VISIBLE)).all():
        return "a keypoint's visibility is not 0, 1 or 2"
    return None


def write(
    folder: Path, label_kind: LabelKind, classes: int, splits: Mapping[str, Iterable[Record]]
) -> dict[str, list[tuple[Path, int]]]:
    """Streams every split into shards; tells each split's files, relative, and their counts.

    TFDS's own builders hold a whole split in memory, and need TensorFlow beyond 1 GB of it.
    """
    features = record_features(label_kind, classes)
    home = folder.absolute() / FOLDER
    home.mkdir(parents=True)
    naming = tfds.core.ShardedFileTemplate(
        data_dir=cast(Any, home), dataset_name=FOLDER, filetype_suffix="array_record"
    )
    infos = [
        _write_split(split, naming.replace(split=split), features, records)
        for split, records in splits.items()
    ]
    filled = [info for info in infos if info.shard_lengths]
    if filled:
        tfds.folder_dataset.write_metadata(
            data_dir=home,
            features=features,
            split_infos=filled,
            filename_template=naming,
            check_data=False,
        )
    return {
        info.name: [
            (Path(FOLDER) / Path(file).name, count)
            for file, count in zip(info.filepaths, info.shard_lengths, strict=True)
        ]
        for info in infos
    }


def _serialize(features: tfds.features.FeaturesDict, record: Record) -> bytes:
    """The record in bytes that are always the same; by itself the order of features is chance."""
    content = features.serialize_example({**record, "image": io.BytesIO(record["image"])})
    return (
        cast(Any, tf_example_pb2).Example.FromString(content).SerializeToString(deterministic=True)
    )


def _write_split(
    split: str,
    naming: tfds.core.ShardedFileTemplate,
    features: tfds.features.FeaturesDict,
    records: Iterable[Record],
) -> tfds.core.SplitInfo:
    examples = (_serialize(features, record) for record in records)
    partial: list[Path] = []
    lengths: list[int] = []
    while True:
        path = Path(naming.data_dir) / f"{split}-{len(partial)}.partial"
        count = _fill_shard(path, examples)
        if not count:
            path.unlink()
            break
        partial.append(path)
        lengths.append(count)
    for index, path in enumerate(partial):  # a shard's name tells how many there are
        path.replace(naming.sharded_filepath(shard_index=index, num_shards=len(partial)))
    size = sum(Path(file).stat().st_size for file in naming.sharded_filepaths(len(partial)))
    return tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=size, filename_template=naming
    )


def _fill_shard(path: Path, examples: Iterator[bytes]) -> int:
    """Moves examples into one shard until it is full or none is left; tells how many."""
    count = size = 0
    with _array_record(path) as writer:
        for example in examples:
            writer.write(example)
            count += 1
            size += len(example)
            if size >= SHARD_BYTES:
                break
    return count


@contextlib.contextmanager
def _array_record(path: Path) -> Iterator[ArrayRecordWriter]:
    """A writer whose failures, bare RuntimeErrors, come as the OSErrors that caused them."""
    try:
        writer = ArrayRecordWriter(str(path), "group_size:1")
        yield writer
        writer.close()
    except RuntimeError as error:
        for code in errno.errorcode:
            if f": {os.strerror(code)}; " in str(error):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise


@dataclasses.dataclass(frozen=True)
class _Split:
    """A split as TFDS reads it, with arrays where TFDS gives lists and refusals by name."""

    source: Any
    name: str

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
        return {**record, "id": record["id"].decode(), "keypoints": keypoints}


def open_split(directory: Path, split: str, manifest: Manifest) -> RecordSource:
    """Opens a split whose shards are all there, with the sizes the manifest gives."""
    if split not in manifest.splits:
        known = ", ".join(name for name, each in manifest.splits.items() if each.examples)
        raise DataError(f"{directory} has no split {split!r}; it has {known}")
    contents = manifest.splits[split]
    if not contents.examples:
        raise DataError(f"split {split!r} of {directory} is empty; choose another split")
    for shard in contents.shards:
        check_shard_size(directory, shard)
    try:
        folder = (directory / contents.shards[0].file).parent
        builder = cast(Any, tfds.builder_from_directory(folder))
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        matches = _described_alike(builder.info, split, manifest)
    except Exception as error:  # whatever TFDS's and protobuf's parsers say of a damaged file
        raise DataError(
            f"the records of split {split!r} in {directory} cannot be opened "
            f"({first_line(error)}); prepare the data again"
        ) from error
    if not matches or len(source) != contents.examples:
        raise DataError(
            f"{folder} describes the records of split {split!r} otherwise than the manifest of "
            f"{directory}; prepare the data again"
        )
    return _Split(source, f"split {split!r} in {directory}")


def _described_alike(info: Any, split: str, manifest: Manifest) -> bool:
    """Whether TFDS's own description names the manifest's shards, counts and features."""
    theirs = info.splits[split]
    ours: Split = manifest.splits[split]
    features = record_features(manifest.label_kind, len(manifest.classes))
    return (
        [Path(file).name for file in theirs.filepaths] == [Path(s.file).name for s in ours.shards]
        and list(theirs.shard_lengths) == [shard.examples for shard in ours.shards]
        and info.features.get_serialized_info() == features.get_serialized_info()
    )


def check_shard_size(directory: Path, shard: Shard) -> None:
    """Refuses a shard that is absent or of another size than the manifest's."""
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


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
