"""Runs whose workdir is an address: uploads and downloads, the lock, failures."""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from data_pipelines.core.errors import CannotWrite, InUse
from gap_jax.runtime.bucket import heartbeat_lock as locks
from gap_jax.runtime.bucket import store as stores
from gap_jax.runtime.bucket import workdir as workdirs
from gap_jax.runtime.bucket.store import Store
from gap_jax.runtime.processes.group import ALONE, Processes
from gap_jax.runtime.run_folder import ADDRESS as ADDRESS_FILE
from gap_jax.runtime.run_folder import LOCK

ADDRESS = "memory://bucket/run"
STEP = "checkpoints/3"


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An empty file system in memory, and no pauses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(stores, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(locks, "STALE_AFTER_S", 0.6)
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def open_folder(
    folder: Path, store: Store | None = None, processes: Processes = ALONE
) -> workdirs.TemporaryWorkdir:
    put(folder, ADDRESS_FILE)
    return workdirs.TemporaryWorkdir(folder, store or Store(ADDRESS), processes, lambda: None)


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_small_files_are_fetched_and_uploaded_and_checkpoints_are_not(tmp_path: Path) -> None:
    first = open_folder(tmp_path / "one")
    put(first.folder, "config.json", "eval/val/a.json", ".lock")
    first.upload()
    for name in (f"{STEP}/metadata/metadata", LOCK, "../up"):
        Store(ADDRESS).write(name, b"")
    second = open_folder(tmp_path / "two")
    second.fetch()
    found = {
        path.relative_to(second.folder).as_posix()
        for path in second.folder.rglob("*")
        if path.is_file()
    }
    assert found == {ADDRESS_FILE, "config.json", "eval/val/a.json"}
    Store(ADDRESS).write("eval/val/b.json", b"of an evaluation at the same time")
    (second.folder / "eval/val/a.json").unlink()
    second.upload()
    names = Store(ADDRESS).list()
    assert "eval/val/b.json" in names and "eval/val/a.json" not in names
    assert f"{STEP}/metadata/metadata" in names


def test_each_process_uploads_its_own_folder(tmp_path: Path) -> None:
    put(tmp_path, "config.json", "processes/1/log.txt", "processes/2/log.txt")
    open_folder(tmp_path, processes=Processes(index=1, count=3)).upload()
    assert Store(ADDRESS).list() == ["processes/1/log.txt"]
    open_folder(tmp_path / "next").fetch()  # of a run that was killed so early
    open_folder(tmp_path, processes=Processes(index=0, count=3)).upload()
    assert Store(ADDRESS).list() == ["config.json", "processes/1/log.txt"]


@pytest.mark.parametrize("index", [0, 1])
def test_process_leaves_the_files_of_others_in_the_bucket(tmp_path: Path, index: int) -> None:
    names = ["config.json", "eval/a.json", "processes/1/log.txt", "processes/2/log.txt"]
    for name in names:
        Store(ADDRESS).write(name, b"earlier")
    resumed = open_folder(tmp_path, processes=Processes(index=index, count=3))
    resumed.fetch()
    resumed.upload()
    assert Store(ADDRESS).list() == names


def test_growing_file_is_uploaded_without_a_torn_line(tmp_path: Path) -> None:
    place, over = open_folder(tmp_path), threading.Event()
    put(tmp_path, "config.json")
    (tmp_path / "steps.jsonl").touch()

    def grow() -> None:
        with (tmp_path / "steps.jsonl").open("ab", buffering=0) as file:
            while not over.is_set():
                file.write(b'{"step": 1}\n')

    writer = threading.Thread(target=grow)
    writer.start()
    sizes = set()
    for _ in range(20):
        place.upload()
        content = Store(ADDRESS).read("steps.jsonl") or b""
        assert (tmp_path / "steps.jsonl").read_bytes().startswith(content)
        sizes.add(len(content))
        time.sleep(0.005)
    over.set()
    writer.join()
    place.upload()
    assert Store(ADDRESS).read("steps.jsonl") == (tmp_path / "steps.jsonl").read_bytes()
    assert len(sizes) > 2


def test_lock_with_a_heartbeat_refuses_a_second_run(tmp_path: Path) -> None:
    del tmp_path
    with workdirs.open_for_writing(ADDRESS):
        with pytest.raises(InUse, match=rf"{ADDRESS} is in use by process \d+ on "):
            locks.HeartbeatLock(Store(ADDRESS), print).acquire()
        assert b'"owner_id"' in (Store(ADDRESS).read(LOCK) or b"")
    assert Store(ADDRESS).list() == []


def test_lock_without_a_heartbeat_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Store(ADDRESS).write(LOCK, b'{"host": "gone", "pid": 7, "started": "then", "owner_id": "x"}')
    with workdirs.open_for_writing(ADDRESS):
        assert b'"owner_id": "x"' not in (Store(ADDRESS).read(LOCK) or b'"owner_id": "x"')
    assert "process 7 on gone since then shows no heartbeat" in capsys.readouterr().out


def test_run_that_lost_its_lock_writes_no_more() -> None:
    other = b'{"host": "other", "pid": 7, "started": "now", "owner_id": "x"}'
    with (
        pytest.raises(InUse, match="was taken by process 7 on other since now"),
        workdirs.open_for_writing(ADDRESS) as place,
    ):
        Store(ADDRESS).write(LOCK, other)
        time.sleep(3 * locks.HEARTBEAT_S)
        put(place.folder, "config.json")
    assert Store(ADDRESS).list() == [LOCK] and Store(ADDRESS).read(LOCK) == other


def test_empty_lock_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local disk shows an empty file between its truncation and its content."""
    store = Store(f"file://{tmp_path}/run")
    contents = [b"", b'{"owner_id": "me"}']
    monkeypatch.setattr(store, "read", lambda _: contents.pop(0))
    lock = locks.HeartbeatLock(store, print)
    lock.owner["owner_id"] = "me"
    lock.refuse_if_lost(is_strict=True)
    assert not contents


@pytest.mark.parametrize(("failures", "is_refused"), [(2, False), (3, True)])
def test_write_is_tried_three_times(
    failures: int, is_refused: bool, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, pipe = [failures], memory.pipe_file

    def fail(path: str, *words: Any, **options: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise ConnectionError("the line is down")
        pipe(path, *words, **options)

    put(tmp_path, "config.json")
    monkeypatch.setattr(type(memory), "pipe_file", staticmethod(fail))
    if is_refused:
        with pytest.raises(CannotWrite, match=f"cannot write {ADDRESS}/config.json: the line is "):
            open_folder(tmp_path).upload()
    else:
        open_folder(tmp_path).upload()
    assert left == [0]


def test_files_that_were_not_uploaded_stay_and_are_named(
    memory: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, *_words: Any, **_options: Any) -> None:
        raise PermissionError(13, "Permission denied", path)

    with pytest.raises(KeyError), workdirs.open_for_writing(ADDRESS) as place:
        put(place.folder, "config.json")
        monkeypatch.setattr(type(memory), "pipe_file", staticmethod(fail))
        raise KeyError("another error")
    said = capsys.readouterr().out
    assert f"warning: cannot write {ADDRESS}/config.json: Permission denied" in said
    assert f"what was not uploaded lies in {place.folder}" in said and place.folder.exists()


def test_address_that_cannot_be_written_is_refused(memory: Any) -> None:
    with pytest.raises(CannotWrite, match=r"cannot write file:///proc/none/run/\.lock: "):
        workdirs.open_for_writing("file:///proc/none/run").__enter__()
    memory.pipe_file("/bucket/run/holiday.jpg", b"")
    with pytest.raises(CannotWrite, match="holds files that are no run"):
        workdirs.open_for_writing(ADDRESS).__enter__()
    assert Store(ADDRESS).list() == ["holiday.jpg"]


def test_deleted_temporary_folder_deletes_nothing_in_the_bucket() -> None:
    with workdirs.open_for_writing(ADDRESS) as place:
        put(place.folder, "config.json")
    with (
        pytest.raises(CannotWrite, match="was deleted during the run; set TMPDIR"),
        workdirs.open_for_writing(ADDRESS) as place,
    ):
        shutil.rmtree(place.folder)
    assert Store(ADDRESS).list() == ["config.json"]


def test_bucket_that_cannot_be_opened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_words: Any, **_options: Any) -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(CannotWrite, match=f"cannot open {ADDRESS}: no credentials; see that"):
        Store(ADDRESS)
