"""ArrayRecord files written and opened through TFDS, without TensorFlow."""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import tensorflow_datasets as tfds

from data_pipelines.errors import DataError
from data_pipelines.example import LabelKind, record_features
from data_pipelines.manifest import Manifest, Shard

Record = Mapping[str, Any]


class RecordSource(Protocol):
    """Random access to a split; a record's `image` is the file's own bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class Records(tfds.core.GeneratorBasedBuilder):
    """The one TFDS builder: it stores the records it is given, in the order given."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict[str, Any]] = {}  # else TFDS searches for checksum files

    def __init__(
        self,
        folder: Path,
        label_kind: LabelKind,
        classes: int,
        splits: Mapping[str, Iterable[Record]],
    ) -> None:
        self._record_features = record_features(label_kind, classes)
        self._splits = splits
        super().__init__(data_dir=folder, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=self._record_features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Record]]]:
        del dl_manager  # nothing is ever downloaded
        return {name: self._numbered(records) for name, records in self._splits.items()}

    def _generate_examples(self) -> Iterator[tuple[int, Record]]:
        raise NotImplementedError("splits carry their own records")

    def _numbered(self, records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
        for position, record in enumerate(records):
            yield position, {**record, "image": io.BytesIO(record["image"])}


def write(
    folder: Path, label_kind: LabelKind, classes: int, splits: Mapping[str, Iterable[Record]]
) -> dict[str, list[tuple[Path, int]]]:
    """Writes every split, none of them empty; tells each split's files, relative, and counts."""
    builder = Records(folder, label_kind, classes, splits)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces downloads that never happen
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return {
        name: [
            (Path(file).relative_to(folder), count)
            for file, count in zip(info.filepaths, info.shard_lengths, strict=True)
        ]
        for name, info in builder.info.splits.items()
    }


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
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(
            f"the records of split {split!r} in {directory} cannot be opened "
            f"({first_line(error)}); prepare the data again"
        ) from error
    if len(source) != contents.examples:
        raise DataError(
            f"split {split!r} of {directory} holds {len(source)} records and its manifest says "
            f"{contents.examples}; prepare the data again"
        )
    return source


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
