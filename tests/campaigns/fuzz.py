"""Gives mutated and hostile input to every reader and checks that it is refused or read right.

    python -m tests.campaigns.fuzz --seed 0 --out DIR       make fuzz

Four groups: images, shards of records, the files of data sets, and hostile archives, folders and
weights. Each case must end in time and within the limit of memory, either accepted or refused by
one line and the exit code 65 or 66; what is accepted is judged by another reader or check, named
in `fuzzing`. A worker process reads a case and is killed after LONGEST_S; of CPU time a case may
take LONGEST_CPU_S. The verdicts are stored in DIR/verdicts.jsonl, so that a stopped campaign
resumes. The table is written to docs/reliability.md; the exit code is 1 on any failure.
"""

import contextlib
import json
import os
import queue
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from data_pipelines.core.child_process import ChildProcess, Lost
from tests.campaigns.fuzzing import worker
from tests.campaigns.fuzzing.case import OUTCOMES, Verdict
from tests.campaigns.kept import identify, keep_rows, make_parser, read_rows
from tests.campaigns.table import describe, replace_marked
from tests.support.tiny_training import ROOT

PROGRAM = "tests.campaigns.fuzz"
COMMAND = [sys.executable, "-m", worker.__name__]
COUNTS = {"shards": 500, "files": 500, "hostile": 200, "images": 10_000}
COLUMNS = ("cases", "refused", "accepted", "accepted though damaged", "crashes", "slowest")
BATCH = 250  # cases between two writes of the verdicts
START_S, LONGEST_S = 600.0, 300.0  # for a worker and for one case, on a busy machine

Key = tuple[str, int]  # group and number
Judge = Callable[[Key], Verdict]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases of the campaign that are left."""
    parser = make_parser(PROGRAM, __doc__)
    for group, count in COUNTS.items():
        parser.add_argument(f"--{group}", type=int, default=count, help=f"cases; {count:,}")
    parser.add_argument("--workers", type=int, default=1, help="processes; 1")
    options = parser.parse_args(arguments)
    counts = {group: getattr(options, group) for group in COUNTS}
    keys = [(group, number) for group, count in counts.items() for number in range(count)]
    head = identify(**counts, seed=options.seed)
    verdicts = [Verdict(**row) for row in read_rows(options.out, head)]
    with (
        open_pool(options.seed, options.workers) as judge,
        ThreadPoolExecutor(options.workers) as threads,
    ):
        while left := keys[len(verdicts) : len(verdicts) + BATCH]:
            verdicts += threads.map(judge, left)
            keep_rows(options.out, head, [each._asdict() for each in verdicts])
            print(f"{len(verdicts):,} of {len(keys):,} cases", flush=True)
    words = [f"--{name} {count}" for name, count in counts.items() if count != COUNTS[name]]
    command = " ".join([f"python -m {PROGRAM} --seed {options.seed}", *words, "--out DIR"])
    replace_marked(options.page, "fuzz", render(verdicts, command))
    failed = [each for each in verdicts if each.fails]
    for each in failed:
        print(each, file=sys.stderr)
    return 1 if failed else 0


@contextlib.contextmanager
def open_pool(seed: int, count: int) -> Iterator[Judge]:
    """Starts workers when they are needed; a lost one is a crash of its case."""
    idle: queue.SimpleQueue[tuple[ChildProcess, str]] = queue.SimpleQueue()
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            scratch = opened.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            errors = opened.enter_context(tempfile.TemporaryFile())
            command = [*COMMAND, str(seed), scratch]
            environment = {**os.environ, "OPENCV_LOG_LEVEL": "SILENT", "PYTHONPATH": str(ROOT)}
            child = ChildProcess(command, errors, environment)
            opened.callback(child.stop)
            idle.put((child, scratch))

        def judge(key: Key) -> Verdict:
            child, scratch = idle.get()
            try:
                if not child.is_running:
                    child.start()
                    child.ask(b"", START_S)
                return Verdict(**child.ask(json.dumps(key).encode() + b"\n", LONGEST_S))
            except Lost as error:
                child.stop()
                return lose(key, str(error))
            finally:
                idle.put((child, scratch))

        yield judge


def lose(key: Key, reason: str) -> Verdict:
    """Returns the verdict of a case that crashed its worker or took too long."""
    return Verdict(*key, worker.find_kind(*key), "", "crash", reason, "", 0.0, 0.0)


def render(verdicts: Sequence[Verdict], command: str) -> str:
    """Renders a table for each group, a row for each kind, with the command and versions."""
    lines = [describe(command, sum(each.seconds for each in verdicts))]
    for group in COUNTS:
        found = [each for each in verdicts if each.group == group]
        if not found:
            continue
        peak_mib = max(each.peak_mib for each in found)
        rows = {
            kind: [each for each in found if each.kind == kind] for kind in worker.GROUPS[group]
        }
        lines += [
            "",
            f"| {group} | {' | '.join(COLUMNS)} |",
            "|---|---|---|---|---|---|---|",
            *(f"| {kind} | {_count(each)} |" for kind, each in rows.items() if each),
            f"| all, at most {peak_mib:,.0f} MiB in a process | {_count(found)} |",
        ]
    return "\n".join(lines)


def _count(found: Sequence[Verdict]) -> str:
    refused, accepted, crashed = (
        sum(each.outcome == outcome for each in found) for outcome in OUTCOMES
    )
    damaged = sum(bool(each.damage) for each in found)
    counts = (len(found), refused, accepted, damaged, crashed)
    slowest = f"{max(each.seconds for each in found):.1f} s"
    return " | ".join([*(f"{count:,}" for count in counts), slowest])


if __name__ == "__main__":
    sys.exit(main())
