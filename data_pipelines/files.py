"""Files that are either whole or absent: atomic writes, fresh folders, locks, digests, tables."""

import contextlib
import csv
import datetime
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from data_pipelines import faults
from data_pipelines.errors import CannotWrite, InUse, Refusal

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_GONE = {errno.ENOENT, errno.ESTALE}
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # Unicode: control, surrogate, line and paragraph separator


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def reading(path: Path, refusal: type[Refusal]) -> Iterator[None]:
    """Turns an operating-system refusal while reading `path` into one line of that kind."""
    try:
        yield
    except OSError as error:
        raise refusal(
            f"cannot read {path}: {error.strerror or error}; name a path that you may read"
        ) from error


def is_file(path: Path, refusal: type[Refusal]) -> bool:
    """Whether there is such a file; raises a refusal where the system does not say."""
    with reading(path, refusal):
        return path.is_file()


@contextlib.contextmanager
def writing(target: os.PathLike[str]) -> Iterator[None]:
    """Turns an operating-system refusal while writing `target` into one line and exit code 73."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            free = shutil.disk_usage(existing_ancestor(Path(target))).free
            raise CannotWrite(
                f"no room to write {target}: {reason} ({free / 2**20:,.0f} MiB free); "
                "free some space or choose another place"
            ) from error
        raise CannotWrite(
            f"cannot write {target}: {reason}; choose a place you may write to"
        ) from error


@contextlib.contextmanager
def locked(
    target: Path,
    lock: Path | None = None,
    *,
    advice: str = "wait for it, or choose another place",
    warn: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Holds a lock on `target`, or refuses at once naming the process that does.

    The lock is a file, beside `target` if not named, that the kernel frees however its owner ends.
    It and folders that were made for it are removed at the end, where nothing else is in them.
    `warn` takes a sentence where the file system has no locks.
    """
    path = (lock or target.parent / f".{target.name}.lock").absolute()
    with writing(target):
        existing = existing_ancestor(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        file, error = _lock(path)
    with file:
        if isinstance(error, BlockingIOError):
            raise InUse(f"{target} is in use by {_read_owner(path)}; {advice}")
        if error and warn:
            warn(f"{target} has no locks ({error.strerror}); nothing stops a second process")
        try:
            with writing(target):
                file.truncate(0)
                file.write(json.dumps(describe_owner()).encode())
            yield
        finally:
            with contextlib.suppress(OSError):  # whose line would replace that of the block
                path.unlink(missing_ok=True)
                _remove_empty(path.parent, existing)


def _lock(path: Path) -> tuple[IO[bytes], OSError | None]:
    """Opens and locks a file, again where its last owner removed it between the two."""
    while True:
        file = path.open("ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, None
        except OSError as error:
            if error.errno not in _GONE:
                return file, error
        file.close()


def _remove_empty(folder: Path, existing: Path) -> None:
    """Removes `folder` and those above it, up to one that existed before or that is not empty."""
    while folder != existing:
        folder.rmdir()
        folder = folder.parent


def describe_owner() -> dict[str, str | int]:
    """This process, as the owner of a lock."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def name_owner(content: bytes) -> str:
    """The process that wrote the content of a lock."""
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']} since {owner['started']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just taken it"


def _read_owner(path: Path) -> str:
    try:
        return name_owner(path.read_bytes())
    except OSError:
        return name_owner(b"")


def existing_ancestor(path: Path) -> Path:
    """The nearest folder above `path` that exists already."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes the whole file under its final name, or leaves what was there before."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            faults.point("files.before_rename")
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` that becomes `target` when the block ends without error.

    A folder that an earlier, killed attempt left behind is swept away first.
    """
    partial = target.parent / f".{target.name}.partial"
    with writing(target):
        _bring_back(target)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        with writing(target):
            yield partial
            faults.point("files.before_rename")
            _sync_tree(partial)
            _replace_folder(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.replaced"


def _bring_back(target: Path) -> None:
    """What an attempt that was killed between its two renames had moved away."""
    if _aside(target).exists() and not target.exists():
        _aside(target).replace(target)


def _replace_folder(partial: Path, target: Path) -> None:
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.replace(aside)
    faults.point("files.between_renames")
    partial.replace(target)
    shutil.rmtree(aside, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def escape_control(text: str) -> str:
    r"""The text with each control character as its escape, such as \n or \x1b."""
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in _CONTROL else each
        for each in text
    )


def quote(name: str, longest: int = 80) -> str:
    """The name in quotes for a message: on one line, without control characters, not endless."""
    return repr(name if len(name) <= longest else f"{name[:longest]}\u2026")


def csv_table(header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> bytes:
    """A CSV table in which no text acts as a spreadsheet formula or a terminal's escape code."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_as_plain_text(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue().encode("utf-8")


def _as_plain_text(cell: str) -> str:
    """The text, quoted where its first character, also a full-width one, begins a formula."""
    first = unicodedata.normalize("NFKC", cell.strip()[:1])
    return escape_control(f"'{cell}" if first in tuple("=+-@") else cell)
