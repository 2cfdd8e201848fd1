"""Starts and ends the processes that decode and share memory with them."""

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


def start_worker(index: int, _count: int) -> None:
    """Sets up a worker process that ends only by its parent's order or with its parent."""
    global _worker
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
        self._blocks: list[SharedMemory] = []
        count, size = workers * BLOCKS_PER_WORKER, math.prod(shape) + 1
        needed = count * size
        free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
        if needed > free:  # a worker that runs out of it is killed without a message
            raise ConfigError(
                f"data.workers={workers} needs {needed / 2**20:,.0f} MiB of shared memory and "
                f"{SHARED_MEMORY} has {free / 2**20:,.0f} MiB free; use data.workers=0 or enlarge "
                "it"
            )
        try:
            self._blocks.extend(SharedMemory(create=True, size=size) for _ in range(count))
        except OSError as error:
            self.close()
            raise ConfigError(
                f"data.workers={workers} needs shared memory, which cannot be created in "
                f"{SHARED_MEMORY} ({error.strerror or error}); use data.workers=0 or repair it"
            ) from error

    def find_free(self) -> int | None:
        """In a worker: returns the number of a free block of its own, marked as filled, or None."""
        for number in range(_worker * BLOCKS_PER_WORKER, (_worker + 1) * BLOCKS_PER_WORKER):
            if self._bytes(number)[-1] == _FREE:
                self._bytes(number)[-1] = _FILLED
                return number
        return None

    def images(self, number: int) -> UInt8[np.ndarray, "b *views h w 3"]:
        """Returns the images in a block without a copy."""
        return np.ndarray(self._shape, np.uint8, buffer=self._bytes(number))

    def copy_out(self, number: int) -> UInt8[np.ndarray, "b *views h w 3"]:
        """In the parent: copies the images out of a block and marks it free."""
        images = self.images(number).copy()
        self._bytes(number)[-1] = _FREE
        return images

    def close(self) -> None:
        """Frees the memory; call it when the workers have ended."""
        for block in self._blocks:
            block.close()
            block.unlink()

    def _bytes(self, number: int) -> memoryview:
        return cast(memoryview, self._blocks[number].buf)  # None once it is closed
