"""The process that judges cases: `python -m tests.campaigns.fuzzing.worker SEED FOLDER`.

Each line of stdin holds the group and the number of a case as JSON and is answered by its verdict.
Cases are written into the folder; stderr is a file that is read after each of them.
"""

import json
import os
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from data_pipelines.datasets.child import set_limit
from tests.campaigns.fuzzing import data_files, hostile, images, shards, weights
from tests.campaigns.fuzzing.case import Make, Verdict, judge

MEMORY_BYTES = 4 * 2**30  # address space
GROUPS: Mapping[str, Mapping[str, Make]] = {
    "images": images.KINDS,
    "shards": shards.KINDS,
    "files": data_files.KINDS,
    "hostile": {**hostile.KINDS, **weights.KINDS},
}


def find_kind(group: str, number: int) -> str:
    """Returns the kind of a case; the kinds of a group alternate."""
    kinds = [*GROUPS[group]]
    return kinds[number % len(kinds)]


def judge_case(seed: int, group: str, number: int, scratch: Path, stderr: IO[bytes]) -> Verdict:
    """Makes and judges a case, which seed, group and number determine."""
    folder, kind = scratch / "case", find_kind(group, number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        rng = np.random.default_rng([seed, [*GROUPS].index(group), number])
        return judge(group, number, kind, GROUPS[group][kind](rng, folder), stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(seed: str, scratch: str) -> None:
    """Answers until stdin ends; what commands print to stdout is discarded."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    set_limit(resource.RLIMIT_CORE, 0)
    set_limit(resource.RLIMIT_AS, MEMORY_BYTES)
    print(json.dumps("ready"), file=answers, flush=True)
    with os.fdopen(os.dup(2), "r+b", buffering=0) as stderr:
        for line in sys.stdin.buffer:
            group, number = json.loads(line)
            verdict = judge_case(int(seed), group, number, Path(scratch), stderr)
            print(json.dumps(verdict._asdict()), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
