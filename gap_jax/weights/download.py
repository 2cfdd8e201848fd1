"""Downloads a file by its https address, resumes broken downloads and verifies the SHA-256."""

import http.client
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console
from rich.progress import DownloadColumn, Progress

from data_pipelines.core import faults, files
from data_pipelines.core.errors import CheckpointError
from gap_jax import __version__
from gap_jax.weights.formats import LARGEST

MIB = 2**20
PIECE_BYTES = MIB
TIMEOUT_S = 60.0  # without a byte
LOCAL = {"localhost", "127.0.0.1", "::1"}  # plain http stays on this machine
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")


def fetch(address: str, digest: str, folder: Path) -> Path:
    """Downloads a file to `folder` if it is absent; its name starts with its SHA-256's digits.

    It is a .part file until its digest is verified. A broken connection leaves the .part file,
    which the next call resumes; a wrong digest removes it.
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
                "compare the digest with the publisher's"
            )
        with files.writing(target), part.open("rb") as file:
            os.fsync(file.fileno())
            faults.point("files.before_rename")
            part.replace(target)
    return target


def name_file(address: str) -> str:
    """Returns the file name of an address; refuses archives and unsafe addresses."""
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
        raise CheckpointError(f"{without_query(address)} has no file name; give a file's address")
    return name


def is_archive(address: str) -> bool:
    """Whether the file has to be unpacked."""
    return without_query(address).lower().endswith(ARCHIVES)


def without_query(address: str) -> str:
    """Removes the query and the user, which may hold secrets, for messages and metadata."""
    return re.sub("//[^/]*@", "//", re.split(r"[?#]", address)[0])


def _is_safe(address: str, before: str | None = None) -> bool:
    """Whether it is https, or http on this machine that was not redirected from elsewhere."""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:
        return False
    if "@" in parts.netloc or not parts.hostname:
        return False
    hosts = {parts.hostname, urllib.parse.urlsplit(before or address).hostname}
    return parts.scheme == "https" or (parts.scheme == "http" and hosts <= LOCAL)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to safe addresses only."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_safe(newurl, before=req.full_url):
            fp.close()
            raise CheckpointError(
                f"{without_query(req.full_url)} redirects to {without_query(newurl)}, which is "
                "not https; get the file elsewhere"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(address: str, part: Path) -> None:
    """Completes `part`, from its present end if the server supports it; shows the progress."""
    with files.writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        received = part.stat().st_size if part.exists() else 0
    response = _open(address, received)
    if response is None:  # the file has no more bytes; the digest is verified later
        return
    broken: Exception | None = None
    with response, _progress() as progress:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {received}-"):
            received = 0
        length = response.headers.get("Content-Length", "")
        total = received + int(length) if length.isdecimal() else None
        _check_size(address, total or 0, part)
        task = progress.add_task(part.stem, total=total)
        with files.writing(part), part.open("ab" if received else "wb") as file:
            while True:
                try:
                    piece = response.read1(PIECE_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    broken = error
                    break
                if not piece:
                    break
                received += len(piece)
                _check_size(address, received, part)
                file.write(piece)
                progress.update(task, completed=received)
    if broken or (total is not None and received < total):
        of = f" of {total / MIB:,.1f}" if total else ""
        raise CheckpointError(
            f"the connection to {without_query(address)} broke after {received / MIB:,.1f}{of} "
            f"MiB, which are kept in {part}; run the same command again to resume"
        ) from broken


def _progress() -> Progress:
    """One line of a terminal; nothing elsewhere."""
    columns = ("{task.description}", DownloadColumn(binary_units=True))
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def _open(address: str, start: int) -> Any:
    """Opens the response from byte `start` on; None if the file ends there."""
    opener = urllib.request.build_opener(_Redirects())
    opener.addheaders = [("User-Agent", f"gap_jax/{__version__}")]
    if start:
        opener.addheaders.append(("Range", f"bytes={start}-"))
    shown = without_query(address)
    try:
        return opener.open(address, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return None
            status = " ".join(f"{error.code} {error.reason}".split())
            raise CheckpointError(
                f"{shown} answers {status}; look for the file's present address"
            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CheckpointError(
            f"{shown} cannot be reached ({reason}); try the same command again"
        ) from error


def _check_size(address: str, size: int, part: Path) -> None:
    if size > LARGEST:
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{without_query(address)} is larger than {LARGEST / MIB:,.0f} MiB, the limit for a "
            "file of weights; check the address"
        )
