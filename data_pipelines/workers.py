"""Processes that decode: how one begins and ends, and the memory their batches travel in."""

import itertools
import math
import multiprocessing
import os
import shutil
import signal
import threading
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import UInt8

from data_pipelines.errors import ConfigError, WorkerLost

BUFFERED_BATCHES = 1  # finished batches that may wait in each worker
SHARED_MEMORY = Path("/dev") / "shm"
BLOCKS_EACH = 2 * BUFFERED_BATCHES + 3  # filling, queued, fetched, queued again, copied out
_FREE, _FILLED = 0, 1
_WORKER_ENDED = "Worker process was terminated unexpectedly"

_worker = 0  # which of the workers this process is


def start_worker(index: int, count: int) -> None:
    """Lets only the parent end this process: by its order, or by ending itself."""
    global _worker
    del count
    _worker = index
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to a whole group, it means the parent
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def refuse_lost_worker(error: BaseException) -> None:
    """Raises WorkerLost if `error` is Grain's of a worker that was killed."""
    reason = str(error).partition(". ")[0]
    if isinstance(error, RuntimeError) and reason.startswith(_WORKER_ENDED):
        raise WorkerLost(
            f"a data worker was killed ({reason}), perhaps for want of memory; start the same "
            "command again, or use fewer data.workers"
        ) from error


class ImageBlocks:
    """Shared memory that workers fill with images, their parent copies out, and both use again.

    A new block for each batch, as Grain and PyTorch have it, costs more time than the copying:
    the kernel clears every page of it. A block's last byte says whether it is filled.
    """

    def __init__(self, workers: int, shape: tuple[int, ...]) -> None:
        self._shape = shape
        size = math.prod(shape) + 1
        _check_room(workers, workers * BLOCKS_EACH * size)
        self._blocks: list[list[SharedMemory]] = [[] for _ in range(workers)]
        try:
            for each in self._blocks:
                each.extend(SharedMemory(create=True, size=size) for _ in range(BLOCKS_EACH))
        except OSError as error:
            self.close()
            raise ConfigError(
                f"data.workers={workers} needs shared memory, which cannot be made in "
                f"{SHARED_MEMORY} ({error.strerror or error}); use data.workers=0 or mend it"
            ) from error

    def find_free(self) -> tuple[int, int] | None:
        """In a worker: the address of a block that nobody needs any more, if there is one."""
        for number, block in enumerate(self._blocks[_worker]):
            if _bytes(block)[-1] == _FREE:
                _bytes(block)[-1] = _FILLED
                return _worker, number
        return None

    def images(self, address: tuple[int, int]) -> UInt8[np.ndarray, "b *views h w 3"]:
        """The images in a block, in place."""
        worker, number = address
        return np.ndarray(self._shape, np.uint8, buffer=_bytes(self._blocks[worker][number]))

    def copy_out(self, address: tuple[int, int]) -> UInt8[np.ndarray, "b *views h w 3"]:
        """In the parent: a copy of the images in a block, which is free from now on."""
        worker, number = address
        images = self.images(address).copy()
        _bytes(self._blocks[worker][number])[-1] = _FREE
        return images

    def close(self) -> None:
        """Gives the memory back; the workers have ended."""
        for block in itertools.chain(*self._blocks):
            block.close()
            block.unlink()


def _bytes(block: SharedMemory) -> memoryview:
    return cast(memoryview, block.buf)  # None once it is closed


def _check_room(workers: int, needed: int) -> None:
    """Refuses what does not fit, since a worker that runs out of it is killed without a word."""
    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise ConfigError(
            f"data.workers={workers} needs {needed / 2**20:,.0f} MiB of shared memory and "
            f"{SHARED_MEMORY} has {free / 2**20:,.0f} MiB free; use data.workers=0 or enlarge it"
        )
