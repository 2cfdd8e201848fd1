"""The lock of a workdir: a second run is refused with the owner; kill -9 releases the lock."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, InUse
from gap_jax import cli
from gap_jax.runtime import run_folder

HOLDER = """
import sys, time
from pathlib import Path
from gap_jax.runtime import run_folder
with run_folder.acquire_lock(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the workdir."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def no_warning(text: str) -> None:
    raise AssertionError(text)


def test_second_run_is_refused_and_names_the_owner(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(InUse) as refusal, run_folder.acquire_lock(tmp_path, no_warning):
        pass
    assert time.monotonic() - began < 5
    assert refusal.value.exit_code == 77
    owner = rf"process {holder.pid} on {re.escape(socket.gethostname())} since 20\d\d-.*\+00:00"
    assert re.search(owner, str(refusal.value)) and "another --workdir" in str(refusal.value)


def test_kernel_releases_the_lock_of_a_killed_run(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    holder.kill()
    holder.wait()
    with run_folder.acquire_lock(tmp_path, no_warning):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_lock_is_released_after_an_error_and_owner_may_be_unreadable(tmp_path: Path) -> None:
    workdir = tmp_path / "new" / "run"
    with pytest.raises(ZeroDivisionError), run_folder.acquire_lock(workdir, no_warning):
        raise ZeroDivisionError
    with run_folder.acquire_lock(workdir, no_warning):
        (workdir / ".lock").write_text("")
        with (
            pytest.raises(InUse, match="has just taken it"),
            run_folder.acquire_lock(workdir, no_warning),
        ):
            pass


def test_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    with run_folder.acquire_lock(tmp_path, said.append):
        assert len(said) == 1 and "nothing stops a second process" in said[0]


OUTPUTS = {
    "data prepare": "data prepare people --train=1 --val=1 --test=0 --out {out}",
    "export": "export nowhere --out {out}",
    "weights convert": "weights convert nowhere {out}",
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_second_writer_of_an_output_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files of the first one stay unchanged."""
    out = tmp_path / "out"
    (tmp_path / ".out.partial").mkdir()
    with files.locked(out):
        assert cli.main(OUTPUTS[command].format(out=out).split()) == 77
        assert f"{out} is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]


@pytest.mark.parametrize("is_stale", [False, True], ids=["removed", "removed on another host"])
def test_lock_removed_during_acquire_is_acquired_again(
    is_stale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed between opening and locking; another process could then own a new lock."""
    real, path = fcntl.flock, tmp_path / ".out.lock"

    def remove_first(file: IO[bytes], flags: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        if is_stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        real(file, flags)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with files.locked(tmp_path / "out", warn=no_warning):
        assert json.loads(path.read_bytes())["pid"] == os.getpid()
        with pytest.raises(InUse), files.locked(tmp_path / "out"):
            pass


def test_lock_that_cannot_be_removed_keeps_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with files.locked(tmp_path / "out"):
        pass
    with pytest.raises(CannotWrite, match="no room"), files.locked(tmp_path / "out"):
        raise CannotWrite("no room")


def test_folders_made_only_for_a_lock_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    out = tmp_path / "old" / "new" / "folder" / "out"
    with pytest.raises(ZeroDivisionError), files.locked(out):
        raise ZeroDivisionError
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]
    with files.locked(out):
        out.touch()
    assert list(out.parent.iterdir()) == [out]


def test_workdir_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite), run_folder.acquire_lock(tmp_path / "file" / "run", no_warning):
        pass
