"""A file by its https address: resumed where it broke, kept only with the digest it must have."""

import contextlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from data_pipelines import faults, files
from gap_jax import __version__
from gap_jax.errors import CheckpointError
from gap_jax.weights.formats import LARGEST

PIECE = 2**20
PATIENCE_S = 60.0  # without a byte
LOCAL = ("localhost", "127.0.0.1", "::1")  # whose plain http no network sees
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")
MIB = 2**20
TOLD_S = 0.5  # between two lines of progress
RANGE_NOT_SATISFIABLE = 416


def fetch(address: str, digest: str, folder: Path) -> Path:
    """The file in `folder`, fetched if it is not there; its name begins as its SHA-256 does.

    What has arrived lies in a .part beside it until the digest is right. A connection that breaks
    leaves it, and the next call goes on from there; a wrong digest removes it.
    """
    target = folder / f"{digest[:8]}-{name_file(address)}"
    if target.is_file() and files.sha256(target) == digest:
        return target
    with files.locked(target):
        part = target.with_name(f"{target.name}.part")
        _receive(address, part)
        found = files.sha256(part)
        if found != digest:
            part.unlink()
            raise CheckpointError(
                f"{without_query(address)} has SHA-256 {found} and not {digest}; nothing was kept, "
                "compare the digest with its maker's"
            )
        with files.writing(target):
            with part.open("rb") as file:
                os.fsync(file.fileno())
            faults.point("files.before_rename")
            part.replace(target)
    return target


def name_file(address: str) -> str:
    """The file's name at an address that may be fetched; any other is refused."""
    if is_archive(address):
        raise CheckpointError(
            f"{without_query(address)} is an archive; fetch and unpack it yourself, and name the "
            "file in it"
        )
    if not _is_safe(address):
        raise CheckpointError(
            f"{without_query(address)} is not fetched, only https:// without a password is; "
            "fetch the file yourself and name it"
        )
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise CheckpointError(f"{without_query(address)} ends in no file's name; name a file")
    return name


def is_archive(address: str) -> bool:
    """Whether a file lies in there that has to be unpacked."""
    return without_query(address).lower().endswith(ARCHIVES)


def without_query(address: str) -> str:
    """The address as it may be told: what stands behind "?" or before "@" can be a secret."""
    return re.sub("//[^/]*@", "//", re.split(r"[?#]", address)[0])


def _is_safe(address: str, before: str | None = None) -> bool:
    """https, or http of this machine that no other has led to."""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:
        return False
    if "@" in parts.netloc or not parts.hostname:
        return False
    if parts.scheme == "https":
        return True
    is_local = parts.scheme == "http" and parts.hostname in LOCAL
    return is_local and (before is None or urllib.parse.urlsplit(before).hostname in LOCAL)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to safe addresses only."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_safe(newurl, before=req.full_url):
            fp.close()
            raise CheckpointError(
                f"{without_query(req.full_url)} leads to {without_query(newurl)}, which is not "
                "https; get the file elsewhere"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(address: str, part: Path) -> None:
    """Makes `part` whole, from where it ends if the server can begin there."""
    with files.writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        held = part.stat().st_size if part.exists() else 0
    answer = _open(address, held)
    if answer is None:  # nothing lies behind what is held; the digest tells whether it is right
        return
    with answer:
        if not answer.headers.get("Content-Range", "").startswith(f"bytes {held}-"):
            held = 0
        length = answer.headers.get("Content-Length", "")
        due = held + int(length) if length.isdecimal() else None
        _bound(address, due or 0, part)
        pieces = _read(answer, address, part, held, due)
        with files.writing(part), part.open("ab" if held else "wb") as file:
            for piece in pieces:
                file.write(piece)


def _open(address: str, held: int) -> Any:
    """The server's answer; None where it has nothing from `held` on."""
    opener = urllib.request.build_opener(_Redirects())
    opener.addheaders = [("User-Agent", f"gap_jax/{__version__}")]
    if held:
        opener.addheaders.append(("Range", f"bytes={held}-"))
    told = without_query(address)
    try:
        return opener.open(address, timeout=PATIENCE_S)
    except urllib.error.HTTPError as error:
        with error:
            if held and error.code == RANGE_NOT_SATISFIABLE:
                return None
            said = " ".join(f"{error.code} {error.reason}".split())
            raise CheckpointError(
                f"{told} answers {said}; look for the file's present address"
            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CheckpointError(
            f"{told} cannot be reached ({reason}); try the same command again"
        ) from error


def _read(answer: Any, address: str, part: Path, held: int, due: int | None) -> Iterator[bytes]:
    """What arrives, until `due` bytes are there or, where none told how many, until the end."""
    with _telling(part.name.removesuffix(".part"), due) as tell:
        while True:
            try:
                piece = answer.read1(PIECE)
            except (OSError, http.client.HTTPException) as error:
                _break_off(address, part, held, due, error)
            if not piece:
                break
            held += len(piece)
            _bound(address, held, part)
            yield piece
            tell(held)
        if due is not None and held < due:
            _break_off(address, part, held, due)


def _break_off(
    address: str, part: Path, held: int, due: int | None, cause: Exception | None = None
) -> NoReturn:
    of = f" of {due / MIB:,.1f}" if due else ""
    raise CheckpointError(
        f"the connection to {without_query(address)} broke after {held / MIB:,.1f}{of} MiB, which "
        f"{part} keeps; the same command goes on from there"
    ) from cause


def _bound(address: str, size: int, part: Path) -> None:
    if size > LARGEST:
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{without_query(address)} is larger than {LARGEST / MIB:,.0f} MiB, which no file of "
            "weights here is; look for its right address"
        )


@contextlib.contextmanager
def _telling(name: str, due: int | None) -> Iterator[Callable[[int], None]]:
    """Says on a terminal, in one line, how far a file has come."""
    told_at = 0.0

    def tell(held: int) -> None:
        nonlocal told_at
        if sys.stderr.isatty() and time.monotonic() - told_at > TOLD_S:
            told_at = time.monotonic()
            of = f" of {due / MIB:,.0f}" if due else ""
            print(f"\r{name}: {held / MIB:,.0f}{of} MiB", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if told_at:
            print(file=sys.stderr)
