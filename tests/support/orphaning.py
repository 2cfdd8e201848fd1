"""Prints its worker's process id and a digest of its batches, then kills itself."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from data_pipelines import manifest
from data_pipelines.loader import training_batches
from tests.support.loader_data import ARGUMENTS, config, digest


def main() -> None:
    folder = Path(sys.argv[1])
    batches = training_batches(config(folder, workers=1), manifest.load(folder), **ARGUMENTS)
    found = digest([next(batches) for _ in range(3)])
    [worker] = multiprocessing.active_children()
    print(worker.pid, found, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
