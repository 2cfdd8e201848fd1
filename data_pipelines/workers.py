"""Starts and ends the worker processes that decode, and shares memory with them."""

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

from data_pipelines.core.errors import ConfigError, WorkerLost

BUFFERED_BATCHES = 1  # finished batches that wait in each worker, at most
SHARED_MEMORY = Path("/dev") / "shm"
BLOCKS_PER_WORKER = 2 * BUFFERED_BATCHES + 3  # filling, queued, fetched, queued again, copied out
_FREE, _FILLED = 0, 1
_WORKER_ENDED = "Worker process was terminated unexpectedly"

_worker = 0  # index of this worker process


def start_worker(index: int, count: int) -> None:
    """Sets up a worker process that ends only by its parent's order or with its parent."""
    global _worker
    del count
    _worker = index
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal to the process group is for the parent
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def refuse_lost_worker(error: BaseException) -> None:
    """Raises WorkerLost if `error` is Grain's error for a killed worker."""
    reason = str(error).partition(". ")[0]
    if isinstance(error, RuntimeError) and reason.startswith(_WORKER_ENDED):
        raise WorkerLost(
            f"a data worker was killed ({reason}), perhaps for lack of memory; start the same "
            "command again, or use fewer data.workers"
        ) from error


class ImageBlocks:
    """Holds blocks of shared memory that workers fill with images and the parent copies out.

    Blocks are reused: a new block for each batch, as in Grain and PyTorch, costs more time than the
    copying, as the kernel clears its pages. A block's last byte tells whether it is filled.
    """

    def __init__(self, workers: int, shape: tuple[int, ...]) -> None:
        self._shape = shape
        size = math.prod(shape) + 1
        _check_room(workers, workers * BLOCKS_PER_WORKER * size)
        self._blocks: list[list[SharedMemory]] = [[] for _ in range(workers)]
        try:
            for each in self._blocks:
                each.extend(SharedMemory(create=True, size=size) for _ in range(BLOCKS_PER_WORKER))
        except OSError as error:
            self.close()
            raise ConfigError(
                f"data.workers={workers} needs shared memory, which cannot be created in "
                f"{SHARED_MEMORY} ({error.strerror or error}); use data.workers=0 or repair it"
            ) from error

    def find_free(self) -> tuple[int, int] | None:
        """In a worker: returns the address of a free block, marked as filled, or None."""
        for number, block in enumerate(self._blocks[_worker]):
            if _bytes(block)[-1] == _FREE:
                _bytes(block)[-1] = _FILLED
                return _worker, number
        return None

    def images(self, address: tuple[int, int]) -> UInt8[np.ndarray, "b *views h w 3"]:
        """Returns the images in a block without a copy."""
        worker, number = address
        return np.ndarray(self._shape, np.uint8, buffer=_bytes(self._blocks[worker][number]))

    def copy_out(self, address: tuple[int, int]) -> UInt8[np.ndarray, "b *views h w 3"]:
        """In the parent: copies the images out of a block and marks it free."""
        worker, number = address
        images = self.images(address).copy()
        _bytes(self._blocks[worker][number])[-1] = _FREE
        return images

    def close(self) -> None:
        """Frees the memory; call it when the workers have ended."""
        for block in itertools.chain(*self._blocks):
            block.close()
            block.unlink()


def _bytes(block: SharedMemory) -> memoryview:
    return cast(memoryview, block.buf)  # None once it is closed


def _check_room(workers: int, needed: int) -> None:
    """Refuses more than fits: a worker that runs out of it is killed without a message."""
    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise ConfigError(
            f"data.workers={workers} needs {needed / 2**20:,.0f} MiB of shared memory and "
            f"{SHARED_MEMORY} has {free / 2**20:,.0f} MiB free; use data.workers=0 or enlarge it"
        )
