"""Downloads: complete and verified under their name, or absent; refusals."""

import hashlib
import io
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.core import faults
from data_pipelines.core.errors import CheckpointError, Refusal
from gap_jax.weights import download
from tests.support.file_server import Served, serve

CONTENT = np.random.default_rng(0).bytes(3 * 2**20 + 17)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"{DIGEST[:8]}-w"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "*")
    with serve(CONTENT) as server:
        yield server


def refuse(address: str, folder: Path, digest: str = DIGEST, *, code: int = 66) -> str:
    """Returns the one line of a refusal; checks that there is no file."""
    with pytest.raises(Refusal) as refusal:
        download.fetch(address, digest, folder)
    line = str(refusal.value)
    assert refusal.value.exit_code == code and "\n" not in line
    assert not (folder / NAME).exists()
    return line


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("manner", ["whole", "unranged", "uncounted", "moved", "elsewhere"])
def test_file_is_downloaded_completely(served: Served, tmp_path: Path, manner: str) -> None:
    folder = tmp_path / "new"
    path = download.fetch(f"{served.address}/{manner}/w", DIGEST, folder)
    assert path == folder / NAME and path.read_bytes() == CONTENT and held(folder) == [NAME]
    before = len(served.requests)
    assert download.fetch(f"{served.address}/{manner}/w", DIGEST, folder) == path
    assert len(served.requests) == before  # the file is kept


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["cut", "reset", "stalled"])
@pytest.mark.parametrize("then", ["whole", "unranged", "elsewhere"])
def test_broken_download_resumes(
    served: Served, tmp_path: Path, manner: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 1.0)
    message = refuse(f"{served.address}/{manner}/w", tmp_path)
    assert "of 3.0 MiB" in message and message.endswith("run the same command again to resume")
    part = (tmp_path / f"{NAME}.part").read_bytes()
    assert 0 < len(part) < len(CONTENT) and CONTENT.startswith(part)
    monkeypatch.setattr(download, "TIMEOUT_S", 60)
    path = download.fetch(f"{served.address}/{then}/w", DIGEST, tmp_path)
    assert path.read_bytes() == CONTENT and held(tmp_path) == [NAME]
    assert served.requests[-1] == (f"/{then}/w", f"bytes={len(part)}-")


def test_complete_part_file_is_renamed(served: Served, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert download.fetch(f"{served.address}/whole/w", DIGEST, tmp_path).read_bytes() == CONTENT
    (tmp_path / NAME).write_bytes(CONTENT[:-1])  # damaged since
    assert download.fetch(f"{served.address}/whole/w", DIGEST, tmp_path).read_bytes() == CONTENT


def test_wrong_content_is_removed(served: Served, tmp_path: Path) -> None:
    wrong = "0" * 64
    message = refuse(f"{served.address}/whole/w?token=secret", tmp_path, wrong)
    assert DIGEST in message and wrong in message and "secret" not in message and not held(tmp_path)
    (tmp_path / f"{NAME}.part").write_bytes(b"another file's beginning")
    refuse(f"{served.address}/whole/w", tmp_path)
    assert not held(tmp_path)
    download.fetch(f"{served.address}/whole/w", DIGEST, tmp_path)
    assert held(tmp_path) == [NAME]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent/w", "answers 404 Not Found"),
        ("to-file/w", "Redirection to url 'file:///etc/hostname' is not allowed"),
        ("to-http/w", "redirects to http://weights.invalid/w, which is not https"),
        ("to-password/w", "which is not https"),
        ("to-itself/w", "answers 302"),
        ("huge/w", "is larger than 4,096 MiB"),
    ],
)
def test_bad_responses_are_refused(served: Served, tmp_path: Path, path: str, message: str) -> None:
    line = refuse(f"{served.address}/{path}", tmp_path)
    assert message in line and "word@" not in line and not held(tmp_path)


def test_file_without_length_stops_at_limit(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST", len(CONTENT) - 1)
    assert "is larger than 3 MiB" in refuse(f"{served.address}/uncounted/w", tmp_path)
    assert not held(tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://weights.invalid/w", "only https:// without a password is"),
        ("http://127.0.0.1.weights.invalid/w", "only https:// without"),
        ("http://localhost@weights.invalid/w", "only https:// without"),
        ("https://name:word@weights.invalid/w", "only https:// without"),
        ("ftp://weights.invalid/w", "only https:// without"),
        ("file:///etc/hostname", "only https:// without"),
        ("https://[weights/w", "only https:// without"),
        ("https:///w", "only https:// without"),
        ("https://weights.invalid/", "has no file name"),
        ("https://weights.invalid/a/..", "has no file name"),
        ("https://weights.invalid/%2e%2e%2f.w", "has no file name"),
        ("https://weights.invalid/a%0ab", "has no file name"),
        ("https://weights.invalid/w.tar.gz?x=1", "is an archive"),
    ],
)
def test_unsafe_addresses_are_refused(tmp_path: Path, address: str, message: str) -> None:
    line = refuse(address, tmp_path)
    assert message in line and "word@" not in line and not held(tmp_path)


def test_unreachable_address_is_refused(served: Served, tmp_path: Path) -> None:
    with serve(b"") as gone:
        pass
    assert "cannot be reached" in refuse(f"{gone.address}/whole/w", tmp_path)
    assert "cannot be reached" in refuse(f"{served.address}/a b/w", tmp_path)


def test_https_redirect_to_this_machine_is_refused() -> None:
    answer = io.BytesIO()
    request = urllib.request.Request("https://weights.invalid/w")
    redirect = download._Redirects().redirect_request
    for target in ("http://127.0.0.1/w", "http://localhost/w"):
        with pytest.raises(CheckpointError, match="which is not https"):
            redirect(request, answer, 302, "Found", {}, target)
    onward = redirect(request, answer, 302, "Found", {}, "https://other.invalid/w")
    assert onward and onward.full_url == "https://other.invalid/w"


def test_full_disk_keeps_part_file(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults._passages.clear()
    monkeypatch.setenv("GAP_JAX_FAULTS", "files.before_rename:enospc")
    assert "no room to write" in refuse(f"{served.address}/whole/w", tmp_path, code=73)
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT
    full = Path("/dev/full")
    if full.exists():
        (tmp_path / f"{NAME}.part").unlink()
        (tmp_path / f"{NAME}.part").symlink_to(full)
        assert "no room to write" in refuse(f"{served.address}/whole/w", tmp_path, code=73)


def test_terminal_shows_progress(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    for stream, lines in ((Terminal(), 1), (io.StringIO(), 0)):
        monkeypatch.setattr(sys, "stderr", stream)
        download.fetch(f"{served.address}/whole/w", DIGEST, tmp_path / str(lines))
        assert stream.getvalue().count("\n") == lines
        assert (NAME in stream.getvalue()) == ("3.0/3.0 MiB" in stream.getvalue()) == bool(lines)
