"""Worker processes change no byte, ignore signals, initialise no backend and leave nothing."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import grain
import numpy as np
import pytest

from data_pipelines import loader, workers
from data_pipelines.core.errors import ConfigError, DataError, WorkerLost
from data_pipelines.example import HostBatch
from data_pipelines.loader import Batches, training_batches
from data_pipelines.rows import Rows, RowSpec
from data_pipelines.workers import BLOCKS_PER_WORKER, SHARED_MEMORY, ImageBlocks
from tests.support.loader_data import (
    ARGUMENTS,
    WatchedRows,
    assert_same,
    config,
    digest,
    photo,
    store,
    take,
)

pytestmark = pytest.mark.processes


def shared_memory() -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob("psm_*")}


def wait_until(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def test_three_workers_change_no_byte_ignore_signals_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = store(tmp_path, 30)
    alone = take(training_batches(config(tmp_path), stated, **ARGUMENTS), 20)
    before = shared_memory()
    monkeypatch.setattr(loader, "Rows", WatchedRows)
    with training_batches(config(tmp_path, workers=3), stated, **ARGUMENTS) as batches:
        seen = [next(batches) for _ in range(8)]
        children = multiprocessing.active_children()
        assert len(children) == 3
        for child in children:  # as a terminal or a scheduler signals a process group
            assert child.pid is not None
            os.kill(child.pid, signal.SIGTERM)
            os.kill(child.pid, signal.SIGINT)
            os.kill(child.pid, signal.SIGHUP)
        seen.extend(next(batches) for _ in range(12))
    assert_same(seen, alone)
    assert list(batches) == []
    assert not multiprocessing.active_children()
    assert shared_memory() <= before


def test_two_workers_give_the_same_batches_until_a_bad_record(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    fine = take(training_batches(config(good), store(good, 30), **ARGUMENTS), 5)
    last = int(fine[-1].id[1])  # seen in the fifth batch for the first time
    stated = store(bad, 30, images={last: photo(last)[:-40]})
    message = (
        rf"^record {last} \('é {last}.jpg'\) of split 'train' in {bad}: it is damaged or cut off"
    )
    for count in (0, 2):
        seen: list[HostBatch] = []
        batches = training_batches(config(bad, workers=count), stated, **ARGUMENTS)
        with pytest.raises(DataError, match=message) as refusal:
            seen.extend(batches)
        assert len(str(refusal.value).splitlines()) == 1
        assert list(batches) == []
        assert not multiprocessing.active_children()
        assert_same(seen, fine[:-1])


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux: reads /proc")
def test_one_worker_changes_no_byte_and_ends_with_a_killed_parent(tmp_path: Path) -> None:
    stated = store(tmp_path, 30)
    before = shared_memory()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.orphaning", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    worker, found = done.stdout.split()
    assert found == digest(take(training_batches(config(tmp_path), stated, **ARGUMENTS), 3))
    assert wait_until(lambda: not is_running(int(worker)), seconds=5)
    assert wait_until(lambda: shared_memory() <= before, seconds=5)


SHAPE = (4, 12, 12, 3)


def test_blocks_are_reused_after_they_were_copied_out() -> None:
    before = shared_memory()
    blocks = ImageBlocks(2, SHAPE)
    numbers = [blocks.find_free() for _ in range(BLOCKS_PER_WORKER)]
    assert numbers == list(range(BLOCKS_PER_WORKER))
    assert blocks.find_free() is None
    for number in (3, 1):
        blocks.images(number)[:] = number
        np.testing.assert_array_equal(blocks.copy_out(number), np.full(SHAPE, number))
    assert [blocks.find_free() for _ in range(3)] == [1, 3, None]
    blocks.close()
    assert shared_memory() <= before


def test_images_without_a_free_block_are_sent_with_their_batch(tmp_path: Path) -> None:
    stated = store(tmp_path, 9)
    rows = Rows(config(tmp_path), stated, "train")
    specs = [RowSpec(index, index) for index in range(4)]
    blocks = ImageBlocks(1, SHAPE)
    elements = [loader.fill_batch(rows, blocks, specs) for _ in range(BLOCKS_PER_WORKER + 1)]
    assert [block for block, _ in elements] == [*range(BLOCKS_PER_WORKER), None]
    assert elements[0][1].image.nbytes == 0
    source = grain.MapDataset.source([elements[0], elements[-1]])
    shared, sent = take(Batches(source.to_iter_dataset(), blocks), 2)
    assert_same([shared], [sent])


@pytest.mark.timeout(60)
def test_a_killed_worker_ends_the_batches_in_one_line(tmp_path: Path) -> None:
    stated = store(tmp_path, 30)
    before = shared_memory()
    batches = training_batches(config(tmp_path, workers=2), stated, **ARGUMENTS)
    next(batches)
    victim = multiprocessing.active_children()[0].pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(
        WorkerLost, match=r"^a data worker was killed \(.* exit code -9\), .*"
    ) as lost:
        take(batches, 20)
    assert (lost.value.exit_code, len(str(lost.value).splitlines())) == (76, 1)
    assert not multiprocessing.active_children()
    assert shared_memory() <= before


def test_shared_memory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SharedMemory] = []

    def make(*, create: bool, size: int) -> SharedMemory:
        if len(made) == 3:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        made.append(SharedMemory(create=create, size=size))
        return made[-1]

    stated, before = store(tmp_path, 9), shared_memory()
    monkeypatch.setattr(workers, "SharedMemory", make)
    message = (
        r"^data.workers=2 needs shared memory, .* \(Read-only file system\); use data.workers=0"
    )
    with pytest.raises(ConfigError, match=message):
        training_batches(config(tmp_path, workers=2), stated, **ARGUMENTS)
    assert shared_memory() <= before


def test_too_little_shared_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 2**20

    stated = store(tmp_path, 9)
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: Usage)
    data = config(tmp_path, workers=2, image_size_px=224, short_side_px=256)
    message = (
        r"data.workers=2 needs 23 MiB of shared memory and .* has 1 MiB free; use data.workers=0"
    )
    with pytest.raises(ConfigError, match=message):
        training_batches(data, stated, seed=0, batch_size=16)
    assert tmp_path == workers.SHARED_MEMORY


def test_cores_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert loader.available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
