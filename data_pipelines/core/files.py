"""Writes files and folders atomically, locks them, digests files and writes CSV tables."""

import contextlib
import csv
import datetime
import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import shutil
import socket
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from data_pipelines.core import faults
from data_pipelines.core.errors import CannotWrite, DataError, InUse, Refusal

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_GONE = {errno.ENOENT, errno.ESTALE}
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # Unicode: control, surrogate, line and paragraph separator


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def reading(path: Path, refusal: type[Refusal]) -> Iterator[None]:
    """Turns an OSError while reading `path` into a one-line refusal of the given class."""
    try:
        yield
    except OSError as error:
        raise refusal(
            f"cannot read {path}: {error.strerror or error}; name a path that you may read"
        ) from error


def is_file(path: Path, refusal: type[Refusal]) -> bool:
    """Tells whether `path` is a file; refuses a path that cannot be looked up."""
    with reading(path, refusal):
        return path.is_file()


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Reads a regular file; a DataError gives the reason why it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError("it is not a regular file")
        if status.st_size > most_bytes:
            raise DataError(f"its file has {status.st_size:,} bytes, more than {most_bytes:,}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("it has no file") from error
    except OSError as error:
        raise DataError(f"its file cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError("its name holds a zero byte") from error


@contextlib.contextmanager
def writing(target: os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError while writing `target` into a one-line refusal with exit code 73."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"cannot write {target}: {reason}; choose a path that you may write to"
        if error.errno in _DISK_FULL:
            free = shutil.disk_usage(existing_ancestor(Path(target))).free / 2**20
            message = f"no room to write {target}: {reason} ({free:,.0f} MiB free); "
            message += "free some space or choose another path"
        raise CannotWrite(message) from error


@contextlib.contextmanager
def locked(
    target: Path,
    lock: Path | None = None,
    *,
    advice: str = "wait until it ends, or choose another path",
    warn: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Locks `target`, or refuses at once and names the process that holds the lock.

    The lock is a file, beside `target` by default; the kernel releases it when its owner ends.
    At the end the file and the empty folders that were made for it are removed. `warn` receives a
    message if the file system has no locks.
    """
    path = (lock or target.parent / f".{target.name}.lock").absolute()
    with writing(target):
        existing = existing_ancestor(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        file, error = _lock(path)
    with file:
        if isinstance(error, BlockingIOError):
            file.seek(0)
            raise InUse(f"{target} is in use by {name_owner(file.read())}; {advice}")
        if error and warn:
            warn(f"{target} has no locks ({error.strerror}); nothing stops a second process")
        try:
            with writing(target):
                file.truncate(0)
                file.write(json.dumps(describe_owner()).encode())
            yield
        finally:
            with contextlib.suppress(OSError):  # it would replace an error of the block
                path.unlink(missing_ok=True)
                for folder in itertools.takewhile(lambda each: each != existing, path.parents):
                    folder.rmdir()


def _lock(path: Path) -> tuple[IO[bytes], OSError | None]:
    """Opens and locks a file; tries again if its last owner removed it between the two steps."""
    while True:
        file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, None
        except OSError as error:
            if error.errno not in _GONE:
                return file, error
        file.close()


def describe_owner() -> dict[str, str | int]:
    """Describes this process as the owner of a lock."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def name_owner(content: bytes) -> str:
    """Names the process that wrote the content of a lock."""
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']} since {owner['started']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just taken it"


def existing_ancestor(path: Path) -> Path:
    """Returns the nearest existing path at or above `path`."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes the whole file, or leaves the previous file unchanged."""
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
    """Yields a hidden folder that is renamed to `target` if the block ends without an error.

    The folder of an earlier attempt that was killed is removed first.
    """
    partial = target.parent / f".{target.name}.partial"
    replaced = target.parent / f".{target.name}.replaced"
    with writing(target):
        if replaced.exists() and not target.exists():
            replaced.replace(target)  # the earlier attempt was killed between its two renames
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        with writing(target):
            yield partial
            faults.point("files.before_rename")
            for path in filter(Path.is_file, partial.rglob("*")):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            shutil.rmtree(replaced, ignore_errors=True)
            if target.exists():
                target.replace(replaced)
            faults.point("files.between_renames")
            partial.replace(target)
            shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def escape_control(text: str) -> str:
    r"""Replaces each control character by its escape, such as \n or \x1b."""
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in _CONTROL else each
        for each in text
    )


def quote(name: str, longest: int = 80) -> str:
    """Quotes a name for a message: one line, control characters escaped, cut to `longest`."""
    return repr(name if len(name) <= longest else f"{name[:longest]}\u2026")


def csv_table(header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> bytes:
    """Formats a CSV table; its text cannot act as a spreadsheet formula or terminal escape code."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [_as_plain_text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    return text.getvalue().encode("utf-8")


def _as_plain_text(cell: str) -> str:
    first = unicodedata.normalize("NFKC", cell.strip()[:1])  # an equals sign may be full-width
    return escape_control(f"'{cell}" if first in tuple("=+-@") else cell)
