"""Finds a data set's image files by name, in a folder or in one pass over a tar archive."""

import gzip
import io
import os
import tarfile
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.core.files import writing

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 64 * 2**10  # of a long name or a pax header
_READ_AHEAD_BYTES = 32 * 2**10  # more than the blocks that tarfile reads


def find_images(images: Path, names: Iterable[str], spool: Path | None) -> dict[str, Path]:
    """Maps each name to its file, or leaves it out; an archive is unpacked into `spool`.

    Case and Unicode form of a name are ignored if no file matches exactly.
    """
    wanted = set(names)
    if images.is_dir():
        try:
            with os.scandir(images) as items:
                available = {item.name: images / item.name for item in items if _may_be_file(item)}
        except OSError as error:
            raise DataError(
                f"{images} cannot be listed ({error.strerror}); make it readable"
            ) from error
    elif not images.is_file():
        raise DataError(
            f"{images} is neither a folder nor an archive; pass the folder of the images"
        )
    elif spool is None:
        raise ConfigError(f"{images} is an archive and no folder to unpack it into was given")
    else:
        available = _unpack(images, {_fold(name) for name in wanted}, spool)
    return _match(wanted, available)


def _may_be_file(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_file()
    except OSError:  # a link loop, which is rejected when its image is read
        return True


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _match(wanted: set[str], available: Mapping[str, Path]) -> dict[str, Path]:
    similar: dict[str, list[Path]] = {}
    for name, path in available.items():
        similar.setdefault(_fold(name), []).append(path)
    found = {}
    for name in wanted:
        candidates = [available[name]] if name in available else similar.get(_fold(name), [])
        if len(candidates) > 1:
            files = " and ".join(sorted(path.name for path in candidates))
            raise DataError(
                f"{candidates[0].parent} holds {files}, which both match {name!r}; keep one"
            )
        if candidates:
            found[name] = candidates[0]
    return found


def _unpack(archive: Path, wanted: set[str], spool: Path) -> dict[str, Path]:
    """Unpacks the archive's wanted files into `spool` under their base names."""
    with writing(spool):
        spool.mkdir(parents=True, exist_ok=True)
    unpacked: dict[str, Path] = {}
    try:
        with _open_stream(archive) as stream:
            for count, (tar, member) in enumerate(_members(archive, stream), 1):
                _check_member(archive, member, count)
                name = PurePosixPath(member.name).name
                folded = _fold(name)
                if not member.isfile() or folded not in wanted:
                    continue
                if folded in unpacked:
                    raise DataError(f"{archive} holds {name!r} twice; unpack it and keep one")
                content = cast(IO[bytes], tar.extractfile(member)).read()
                unpacked[folded] = spool / name
                with writing(spool / name):
                    _write_if_changed(spool / name, content)
            _read_rest(archive, stream)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(
            f"{archive} is not a complete .tar or .tar.gz archive ({error}); "
            "download it again, or unpack it and pass the folder"
        ) from error
    return {path.name: path for path in unpacked.values()}


def _read_rest(archive: Path, stream: io.BufferedIOBase) -> None:
    """Reads to the end, where the CRC of a .gz is checked; refuses more than a member's bytes."""
    left = MAX_MEMBER_BYTES
    while content := stream.read(2**20):
        left -= len(content)
        if left < 0:
            raise DataError(
                f"{archive} holds more than {MAX_MEMBER_BYTES:,} bytes after its last member; "
                "unpack it yourself and pass the folder"
            )


def _write_if_changed(path: Path, content: bytes) -> None:
    """Leaves a file of the same bytes as it is, with its time of change."""
    is_kept = path.is_file() and path.stat().st_size == len(content)
    if not is_kept or path.read_bytes() != content:
        path.write_bytes(content)


def _members(
    archive: Path, stream: io.BufferedIOBase
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yields the archive's members; refuses a header that is larger than any image needs.

    tarfile reads long names, pax headers and maps of sparse files into memory, whatever their size.
    """
    bounded = _BoundedStream(archive, stream)

    class BoundedHeader(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
            header = super().frombuf(buf, encoding, errors)
            is_plain = header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
            bounded.allow(0 if is_plain else min(max(0, header.size), MAX_HEADER_BYTES))
            return header

    with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r|", tarinfo=BoundedHeader) as tar:
        for member in tar:
            bounded.allow(min(max(0, member.size), MAX_MEMBER_BYTES))
            yield tar, member


class _BoundedStream:
    """Reads an archive's bytes; refuses to read more than was allowed for a header or member."""

    def __init__(self, archive: Path, stream: io.BufferedIOBase) -> None:
        self._archive, self._stream = archive, stream
        self.allow(0)

    def allow(self, count: int) -> None:
        self._left = count + _READ_AHEAD_BYTES

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise DataError(
                f"{self._archive} holds a header of more than {MAX_HEADER_BYTES:,} bytes, too many "
                "for an image; unpack it yourself and pass the folder"
            )
        return self._stream.read(size)


def _open_stream(archive: Path) -> io.BufferedIOBase:
    with archive.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(archive) if is_gzip else archive.open("rb")


def _check_member(archive: Path, member: tarfile.TarInfo, count: int) -> None:
    parts = PurePosixPath(member.name)
    if count > MAX_MEMBERS:
        fault = f"holds more than {MAX_MEMBERS:,} members"
    elif parts.is_absolute() or ".." in parts.parts or "\0" in member.name:
        fault = f"holds the member {member.name!r}, which leads outside the archive"
    elif not (member.isfile() or member.isdir()):
        fault = f"holds the member {member.name!r}, which is a link or a device"
    elif not 0 <= member.size <= MAX_MEMBER_BYTES:
        fault = f"holds the member {member.name!r} of {member.size:,} bytes, too many for an image"
    else:
        return
    raise DataError(f"{archive} {fault}; unpack it yourself and pass the folder")
