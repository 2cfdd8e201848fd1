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

from data_pipelines.errors import ConfigError, DataError
from data_pipelines.files import writing

MEMBER_LIMIT = 200_000
MEMBER_BYTES = 64 * 2**20
HEADER_BYTES = 64 * 2**10  # of a long name or a pax header
_READ_AHEAD_BYTES = 32 * 2**10  # more than the blocks that tarfile reads


def find_images(images: Path, names: Iterable[str], spool: Path | None) -> dict[str, Path]:
    """Where each name lies; a name without a file is absent. Archives unpack into `spool`.

    A name that differs from its file only in case or in Unicode form is that file's.
    """
    wanted = set(names)
    if images.is_dir():
        available = _list_folder(images)
    elif not images.is_file():
        raise DataError(f"{images} is neither a folder nor an archive; pass where the images lie")
    elif spool is None:
        raise ConfigError(f"{images} is an archive and no folder to unpack it into was given")
    else:
        available = _unpack(images, {_folded(name) for name in wanted}, spool)
    return _match(wanted, available)


def _list_folder(folder: Path) -> dict[str, Path]:
    try:
        with os.scandir(folder) as items:
            return {item.name: folder / item.name for item in items if _may_be_file(item)}
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}); make it readable"
        ) from error


def _may_be_file(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_file()
    except OSError:  # a loop of links, which is a reject once its image is read
        return True


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _match(wanted: set[str], available: Mapping[str, Path]) -> dict[str, Path]:
    alike: dict[str, list[Path]] = {}
    for name, path in available.items():
        alike.setdefault(_folded(name), []).append(path)
    found = {}
    for name in wanted:
        candidates = [available[name]] if name in available else alike.get(_folded(name), [])
        if len(candidates) > 1:
            files = " and ".join(sorted(path.name for path in candidates))
            raise DataError(
                f"{candidates[0].parent} holds {files}, and both could be {name!r}; keep one"
            )
        if candidates:
            found[name] = candidates[0]
    return found


def _unpack(archive: Path, wanted: set[str], spool: Path) -> dict[str, Path]:
    """Writes the archive's wanted files into `spool` under their base names."""
    with writing(spool):
        spool.mkdir(parents=True, exist_ok=True)
    taken: dict[str, Path] = {}
    try:
        with _open_stream(archive) as stream:
            for count, (tar, member) in enumerate(_members(archive, stream), 1):
                _check_member(archive, member, count)
                name = PurePosixPath(member.name).name
                if not member.isfile() or _folded(name) not in wanted:
                    continue
                if _folded(name) in taken:
                    raise DataError(f"{archive} holds {name!r} twice; unpack it and keep one")
                content = cast(IO[bytes], tar.extractfile(member)).read()
                taken[_folded(name)] = spool / name
                with writing(spool / name):
                    (spool / name).write_bytes(content)
            while stream.read(2**20):  # the digest of a .gz is checked at its very end
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(
            f"{archive} is not a whole .tar or .tar.gz archive ({error}); "
            "download it again, or unpack it and pass the folder"
        ) from error
    return {path.name: path for path in taken.values()}


def _members(
    archive: Path, stream: io.BufferedIOBase
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The archive's members; refuses a header with more behind it than any image's has.

    tarfile keeps long names, pax headers and the maps of sparse files in memory, of any size.
    """
    bounded = _BoundedStream(archive, stream)

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
            header = super().frombuf(buf, encoding, errors)
            is_plain = header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
            bounded.allow(0 if is_plain else min(max(0, header.size), HEADER_BYTES))
            return header

    with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r|", tarinfo=Header) as tar:
        for member in tar:
            bounded.allow(min(max(0, member.size), MEMBER_BYTES))
            yield tar, member


class _BoundedStream:
    """An archive's bytes, refused where more are read than a header or member may have."""

    def __init__(self, archive: Path, stream: io.BufferedIOBase) -> None:
        self._archive = archive
        self._stream = stream
        self.allow(0)

    def allow(self, count: int) -> None:
        """Lets so many bytes be read before the next header."""
        self._left = count + _READ_AHEAD_BYTES

    def read(self, size: int) -> bytes:
        """The next bytes."""
        self._left -= size
        if self._left < 0:
            raise DataError(
                f"{self._archive} holds a header of more than {HEADER_BYTES:,} bytes, more than "
                "any image's; unpack it yourself and pass the folder"
            )
        return self._stream.read(size)


def _open_stream(archive: Path) -> io.BufferedIOBase:
    with archive.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.GzipFile(archive) if is_gzip else archive.open("rb")


def _check_member(archive: Path, member: tarfile.TarInfo, count: int) -> None:
    parts = PurePosixPath(member.name)
    if count > MEMBER_LIMIT:
        fault = f"holds more than {MEMBER_LIMIT:,} members"
    elif parts.is_absolute() or ".." in parts.parts or "\0" in member.name:
        fault = f"holds the member {member.name!r}, which leads outside the archive"
    elif not (member.isfile() or member.isdir()):
        fault = f"holds the member {member.name!r}, which is a link or a device"
    elif not 0 <= member.size <= MEMBER_BYTES:
        fault = f"holds the member {member.name!r} of {member.size:,} bytes, more than any image"
    else:
        return
    raise DataError(f"{archive} {fault}; unpack it yourself and pass the folder")
