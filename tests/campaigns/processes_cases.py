"""Faults of one of two processes, and the end of both."""

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gap_jax.runtime.run_folder import RunFolder
from tests.campaigns.cases import Site
from tests.support.processes import begin_processes, finish_processes
from tests.support.tiny_training import STEPS, End, Program, prove

STUCK_AFTER_S = 20
FAULTS = {
    "killed": "kill9",
    "suspended": "stop",
    "raises": "raise",
    "stuck": "hang",
    "leaves with 0": "exit0",
    "coordinator killed": "kill9",
}
TERMINATED = "SIGTERM"
CODES = {"raises": {70}, "stuck": {76}}  # of the survivor
OTHER_CODES = {76, -signal.SIGABRT}  # the latter is JAX's own
LIMIT_S = {"stuck": STUCK_AFTER_S + 10}  # for the survivor's end
OTHERS_LIMIT_S = 40
POLL_S = 0.02
CAUSES = ("gap_jax: error ", "Terminating process because the JAX distributed service")


class Case(NamedTuple):
    """A fault of one process before one of its steps."""

    name: str
    kind: str
    process: int
    step: int


class Verdict(NamedTuple):
    """The result of a case; `failure` names the broken promise, if any.

    `codes` are those of the hit process and of the other one; `survived_s` is the time until the
    other one ended.
    """

    name: str
    kind: str
    codes: tuple[int, int]
    survived_s: float
    cause: str
    failure: str
    seconds: float


def draw_cases(faults: int, terminations: int, seed: int) -> Iterator[Case]:
    """Draws cases of each fault and of SIGTERM, at steps drawn from the seed."""
    rng = np.random.default_rng(seed)
    kinds = [*FAULTS] * faults + [TERMINATED] * terminations
    for index, kind in enumerate(kinds):
        process = {"coordinator killed": 0, TERMINATED: int(rng.integers(2))}.get(kind, 1)
        yield Case(f"{index:04} {kind}", kind, process, int(rng.integers(2, STEPS - 2)))


def run_case(case: Case, site: Site) -> Verdict:
    """Runs a case to its end; deletes the run's folder unless it failed."""
    start, workdir = time.monotonic(), site.runs / case.name.replace(" ", "_")
    shutil.rmtree(workdir, ignore_errors=True)
    verdict = (
        _terminate(case, site, workdir) if case.kind == TERMINATED else _hit(case, site, workdir)
    )
    if not verdict.failure:
        shutil.rmtree(workdir)
    return verdict._replace(seconds=time.monotonic() - start)


def _hit(case: Case, site: Site, workdir: Path) -> Verdict:
    stuck = [f"runtime.stuck_after_s={STUCK_AFTER_S}"] if case.kind == "stuck" else []
    processes = begin_processes(
        site.data,
        workdir,
        *stuck,
        faults={case.process: f"train.step:{FAULTS[case.kind]}@{case.step}"},
        forked=True,
    )
    other = processes[1 - case.process]
    ended: dict[int, float] = {}
    watchers = [threading.Thread(target=_note_end, args=(each, ended)) for each in processes]
    for each in watchers:
        each.start()
    limit_s = LIMIT_S.get(case.kind, OTHERS_LIMIT_S)
    watchers[1 - case.process].join(timeout=limit_s + 60)
    hangs = other.poll() is None
    watchers[case.process].join(timeout=0 if hangs or case.kind == "suspended" else limit_s)
    for each in processes:
        if each.poll() is None:
            each.kill()
    ends = finish_processes(processes)
    survivor = ends[1 - case.process]
    since = _find_last_write(RunFolder(workdir).of_process(case.process))
    survived_s = ended.get(other.pid, time.time()) - since
    cause = _find_cause(survivor)
    failure = ""
    if hangs:
        failure = "the other one hangs"
    elif survivor.code not in CODES.get(case.kind, OTHER_CODES):
        failure = f"the other one ends with {survivor.code}"
    elif case.kind == "stuck" and not any("most recent call first" in e.complained for e in ends):
        failure = "neither prints its stacks"
    elif survived_s > limit_s:
        failure = f"the other one ends after {survived_s:.0f} s"
    elif not cause:
        failure = "the other one names no cause"
    codes = (ends[case.process].code, survivor.code)
    return Verdict(case.name, case.kind, codes, survived_s, cause, failure, 0.0)


def _terminate(case: Case, site: Site, workdir: Path) -> Verdict:
    """Both must save the same step and end with 75, then resume to the unbroken run's result."""
    faults = {case.process: f"train.step:term@{case.step}"}
    start = time.monotonic()
    ends = finish_processes(begin_processes(site.data, workdir, faults=faults, forked=True))
    took_s = time.monotonic() - start
    stops = {end.complained.splitlines()[-1] if end.complained else "" for end in ends}
    failure = ""
    if [end.code for end in ends] != [75, 75] or len(stops) > 1:
        failure = f"they end with {[end.code for end in ends]}: {stops}"
    else:
        resumed = finish_processes(begin_processes(site.data, workdir, forked=True))
        if [end.code for end in resumed] != [0, 0]:
            failure = f"resumed, they end with {[end.code for end in resumed]}"
        else:
            failure = site.unbroken.differences(prove(workdir))
    codes = (ends[case.process].code, ends[1 - case.process].code)
    return Verdict(case.name, case.kind, codes, took_s, stops.pop(), failure, 0.0)


def _note_end(process: Program, ended: dict[int, float]) -> None:
    while process.poll() is None:
        time.sleep(POLL_S)
    ended[process.pid] = time.time()


def _find_last_write(run: RunFolder) -> float:
    """Returns the time of the hit process's last row or line, just before it was hit."""
    return max(path.stat().st_mtime for path in (run.step_log, run.log) if path.exists())


def _find_cause(end: End) -> str:
    for line in end.complained.splitlines():
        for known in CAUSES:
            if known in line:
                return known + line.partition(known)[2]
    return ""
