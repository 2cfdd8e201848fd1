"""Kills extractions of maps and sweeps at random moments; each must end as an unbroken one.

    python -m tests.campaigns.faults_sweeps --kills 10 --seed 0 --out DIR       make faults

Each case starts the real command, kills it once or twice, and starts it again until it is done. The
verdicts are kept in DIR/verdicts.jsonl: a campaign that is stopped continues with the next case. At
its end it writes its table into docs/reliability.md; the exit code is 1 if any case diverged.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.core import files
from tests.campaigns.cases import Verdict
from tests.campaigns.kept import identify, judge, make_parser
from tests.campaigns.table import render, replace_marked
from tests.support.compiling import FAST_COMPILING, keep_compiled
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tiny_training import LONGEST_S, ROOT

PROGRAM = "tests.campaigns.faults_sweeps"
MARK = "faults sweeps"
SIZES = {"train": 256, "val": 32, "test": 0}
CONFIG = "gap_pose:demo"
FIELDS = (
    "data.image_size_px=64", "data.short_side_px=70", "data.cache=features", "model.stage=3",
    "data.feature_views=6",
    "optim.frozen=('backbone',)", "model.norm=frozen", "init.weights=drawn_objects",
    "train.batch_size=8", "train.steps=4", "eval.batch_size=8", "optim.warmup_steps=1",
)  # fmt: skip
GRID = ("grid", "--over", "model.rank=1", "--rates", "0.002,0.02", "--seeds", "1", "--jobs", "2")
MAPS = "data/features/*/*"
CONSOLE = "console.txt"


class Job(NamedTuple):
    """A command in a folder, and patterns of its result.

    `begun` is the pattern of the first file that it writes.
    """

    command: Callable[[Path], list[str]]
    results: tuple[str, ...]
    begun: str


class Kill(NamedTuple):
    """A kill -9, `delay_s` after the job has begun to write, or after its start."""

    delay_s: float
    from_start: bool = False
    with_children: bool = False


class Case(NamedTuple):
    """A job that is killed once or twice."""

    name: str
    kind: str
    job: str
    kills: tuple[Kill, ...]


class Unbroken(NamedTuple):
    """The digests of a job's results without a fault, its seconds, and those before it writes."""

    results: Mapping[str, str]
    seconds: float
    begun_s: float


class Site(NamedTuple):
    """The data and folders of all cases, and the jobs and their unbroken ends by name."""

    data: Path
    runs: Path
    jobs: Mapping[str, Job]
    unbroken: Mapping[str, Unbroken]


def _make_command(*words: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        out = ["--out", str(folder / "out")] if words[0] == "sweep" else []
        fields = [f"--config.{each}" for each in (*FIELDS, f"data.root={folder / 'data'}")]
        return [sys.executable, "-m", "gap_jax", *words, f"--config={CONFIG}", *fields, *out]

    return make


JOBS = {
    "extraction": Job(_make_command("features"), (MAPS,), f"{MAPS}.npy"),
    "sweep": Job(_make_command("sweep", *GRID), (MAPS, "out/*.csv", "out/*.svg"), "out/sweep.json"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign, or the rest of it."""
    parser = make_parser(PROGRAM, __doc__)
    parser.add_argument("--kills", type=int, default=10, help="cases of each job")
    asked = parser.parse_args(arguments)
    out = asked.out.absolute()
    keep_compiled(out / "compiled")
    unbroken = {name: run_unbroken(name, job, out) for name, job in JOBS.items()}
    site = Site(out / "data", out / "runs", JOBS, unbroken)
    cases = draw_cases(asked.kills, asked.seed, unbroken)
    head = identify(kills=asked.kills, seed=asked.seed)
    verdicts = judge(out, head, cases, Verdict, lambda case: run_case(case, site))
    command = f"python -m {PROGRAM} --kills {asked.kills} --seed {asked.seed} --out DIR"
    replace_marked(asked.page, MARK, render(verdicts, command))
    failed = [each for each in verdicts if each.divergence]
    for each in failed:
        print(f"{each.name}: {each.kind}: {each.divergence}", file=sys.stderr)
    return 1 if failed else 0


def run_unbroken(name: str, job: Job, out: Path) -> Unbroken:
    """Runs a job twice, the second time with compiled programs, which must not change a bit."""
    path = out / f"{name}.json"
    if not path.exists():
        if not (out / "data").exists():
            prepare_tiny_people(out / "data", sizes=SIZES)
        found: list[Unbroken] = []
        for index in range(2):
            folder = _make_folder(out / f"{name}-{index}", out / "data")
            start = time.monotonic()
            process = _start(job, folder)
            _wait_for(job, folder, process)
            begun_s = time.monotonic() - start
            if code := process.wait(LONGEST_S):
                raise SystemExit(f"the unbroken {name} ended with {code}: {_read_end(folder)}")
            seconds = time.monotonic() - start
            found.append(Unbroken(digest_results(job, folder), seconds, begun_s))
        if differing := _list_differences(found[0].results, found[1].results):
            raise SystemExit(f"two unbroken jobs, {name}, differ in {differing}")
        files.write_atomically(path, json.dumps(found[1]._asdict()))
    return Unbroken(**json.loads(path.read_text("utf-8")))


def draw_cases(kills: int, seed: int, unbroken: Mapping[str, Unbroken]) -> list[Case]:
    """Draws `kills` cases of each job.

    Two of three are killed while the job writes, one of three at any time from its start on; every
    fourth twice. Of every second sweep the runs are killed with it; those of the others go on.
    """
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for job, end in unbroken.items():
        for index in range(kills):
            from_start, with_children = index % 3 == 2, job == "sweep" and index % 2 == 1
            span = end.seconds if from_start else end.seconds - end.begun_s
            drawn = [
                Kill(rng.uniform(0, span), from_start, with_children)
                for _ in range(2 if index % 4 == 3 else 1)
            ]
            runs = ", with its runs" if with_children else ", whose runs go on"
            kind = f"kill -9 of {job}" + (runs if job == "sweep" else "")
            cases.append(Case(f"{job}-{index:02}", kind, job, tuple(drawn)))
    return cases


def run_case(case: Case, site: Site) -> Verdict:
    """Kills the job, runs it to its end, and compares its results with the unbroken ones."""
    start, job = time.monotonic(), site.jobs[case.job]
    folder = _make_folder(site.runs / case.name, site.data)
    codes = [_start_and_kill(job, folder, each) for each in case.kills]
    broken = [f"killed, it ended with {code}" for code in codes if code not in (-signal.SIGKILL, 0)]
    if code := _start(job, folder).wait(LONGEST_S):
        broken.append(f"undisturbed it ended with {code}: {_read_end(folder)}")
    else:
        expected = site.unbroken[case.job].results
        broken.append(_list_differences(expected, digest_results(job, folder)))
    divergence = "; ".join(filter(None, broken))
    if not divergence:
        shutil.rmtree(folder)
    seconds = round(time.monotonic() - start, 1)
    hit = any(codes)
    return Verdict(case.name, case.kind, hit, divergence, False, (*codes, code), seconds)


def _make_folder(folder: Path, data: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(data, folder / "data")
    return folder


def _start(job: Job, folder: Path) -> subprocess.Popen[str]:
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILING}
    with (folder / CONSOLE).open("a") as console:
        return subprocess.Popen(
            job.command(folder),
            cwd=ROOT,
            env={**os.environ, **flags},
            text=True,
            stdout=console,
            stderr=subprocess.STDOUT,
        )


def _read_end(folder: Path) -> str:
    return (folder / CONSOLE).read_text("utf-8").strip().rpartition("\n")[2]


def _start_and_kill(job: Job, folder: Path, kill: Kill) -> int:
    """Starts the job and kills it, unless it ends first; returns its exit code."""
    process = _start(job, folder)
    if not kill.from_start:
        _wait_for(job, folder, process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(kill.delay_s)
    children = list_children(process.pid) if kill.with_children else []
    process.kill()
    for each in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return process.wait()


def list_children(pid: int) -> list[int]:
    """Lists the child processes of a process."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_for(job: Job, folder: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not any(folder.glob(job.begun)):
        time.sleep(0.01)


def digest_results(job: Job, folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of the results by their paths."""
    found = sorted(path for pattern in job.results for path in folder.glob(pattern))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file() and not path.name.startswith(".")
    }


def _list_differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    names = sorted({*one, *other})
    return ", ".join([name for name in names if one.get(name) != other.get(name)][:5])


if __name__ == "__main__":
    sys.exit(main())
