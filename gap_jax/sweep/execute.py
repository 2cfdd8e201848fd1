"""Runs the cells of a sweep as child processes, several at once, and stops them together."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from data_pipelines.core import files
from data_pipelines.core.errors import Diverged, InUse, Preempted
from gap_jax.process import RETRY_HINT, StopFlag
from gap_jax.runtime.reporting.progress import duration
from gap_jax.runtime.run_folder import LOCK
from gap_jax.sweep.plan import Cell, Plan

POLL_S = 0.1
RETRY_S = 5.0  # until a run that was in use is started again: a start takes some seconds of CPU
PATIENCE_S = 60.0  # from a signal to the kill of a run that does not save and end
ONLY = "--only"  # the option that makes one run
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
TAIL_BYTES = 4096
TIMINGS = "timings.jsonl"  # one line for each end of a run; no result depends on it

Slot = Mapping[str, str]  # the environment of one of the runs at a time


@runtime_checkable
class Runner(Protocol):
    """Runs cells, then `more` ones as they are asked for; yields each with its exit code."""

    def __call__(
        self, cells: Sequence[Cell], *, more: Iterable[Cell] = ()
    ) -> Iterator[tuple[Cell, int]]: ...


class Program(NamedTuple):
    """A child process, and the slot that it occupies."""

    cell: Cell
    process: subprocess.Popen[bytes]
    slot: Slot
    start: float


def execute(plan: Plan, runner: Runner, log: Callable[[str], None] = print) -> int:
    """Runs the searches, then the runs at the chosen rates; returns the first failure's code.

    Complete runs are not started again. A search whose loss is no longer finite loses.
    """
    failure = 0
    if not all(cell.is_done() for cell in plan.cells):
        failure = run_phase(plan.list_extractions(), runner, log)
        if failure:  # without maps no run can start
            return failure
    for list_cells in (lambda: plan.searches, plan.finals):
        code = run_phase([cell for cell in list_cells() if not cell.is_done()], runner, log)
        failure = failure or code
    for row in plan.runnable:
        found = plan.scores_of(row)
        if len(found) > 1 and not any(found.values()):
            log(f"{row.name}: diverged at every rate; lower --rates")
            failure = failure or Diverged.exit_code
    return failure


def run_phase(cells: Sequence[Cell], runner: Runner, log: Callable[[str], None] = print) -> int:
    """Runs cells that do not depend on each other; returns the first failure's code."""
    failure = 0
    for number, (cell, code) in enumerate(runner(cells), 1):
        settled = settle(cell, code, f"[{number}/{len(cells)}] {cell.label}", log)
        failure = failure or settled
    return failure


def settle(cell: Cell, code: int, name: str, log: Callable[[str], None]) -> int:
    """Logs how a run ended, and returns its code; 0 of a search that diverged and so loses."""
    if code == Diverged.exit_code and cell.is_search:
        cell.mark_diverged()
        log(f"{name}: diverged, this rate loses")
        return 0
    if code:
        log(f"{name}: ended with {code}: {read_last_line(cell.log)}")
    elif metrics := cell.read_metrics():
        log(f"{name}: mAP {100 * metrics['mAP']:.1f} on {cell.cfg.data.scored_split}")
    else:
        log(f"{name}: {read_last_line(cell.log)}")
    return code


def run_children(
    cells: Sequence[Cell],
    slots: Sequence[Slot],
    stop_flag: StopFlag,
    log: Callable[[str], None] = print,
    *,
    more: Iterable[Cell] = (),
) -> Generator[tuple[Cell, int], None, None]:
    """Runs cells as processes, one in each slot; on a signal they save and this raises.

    A run that another process still writes, such as a child of a sweep that was killed, is started
    when that process has ended. `more` is asked for a cell when a slot is free and none waits.
    """
    waiting, free, source = list(cells), list(slots), iter(more)
    running: list[Program] = []
    awaited: dict[str, float] = {}  # when those are started again that were in use
    try:
        while True:
            if stop_flag.is_stopping():
                raise Preempted(f"stopped by {stop_flag.cause}; {RETRY_HINT}")
            for cell in list(waiting):
                if not free:
                    break
                due = awaited.get(cell.label, 0)
                if time.monotonic() >= due and not _is_locked(cell.workdir):
                    waiting.remove(cell)
                    running.append(_start(cell, free.pop(0)))
            while len(free) > len(waiting) and (cell := next(source, None)):
                waiting.append(cell)
            if not waiting and not running:
                return
            for program in list(running):
                code = program.process.poll()
                if code is None:
                    continue
                running.remove(program)
                free.append(program.slot)
                if code == InUse.exit_code:
                    if program.cell.label not in awaited:
                        log(f"{program.cell.label} is in use; waiting for it")
                    awaited[program.cell.label] = time.monotonic() + RETRY_S
                    waiting.append(program.cell)
                else:
                    _record(program, code)
                    yield program.cell, code if code >= 0 else 128 - code
            time.sleep(POLL_S)
    finally:
        _stop([program.process for program in running])


def _start(cell: Cell, slot: Slot) -> Program:
    with files.writing(cell.log):
        cell.log.parent.mkdir(parents=True, exist_ok=True)
        with cell.log.open("ab") as log:
            process = subprocess.Popen(
                cell.command,
                env={**os.environ, **slot},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # else Ctrl-C is sent twice
            )
    return Program(cell, process, slot, time.monotonic())


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks processes to save and end; kills those that do not."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_locked(workdir: Path) -> bool:
    """Tells whether a process writes this run."""
    try:
        with (workdir / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such run, or no locks: the run itself decides
        return False
    return False


def _record(program: Program, code: int) -> None:
    """Appends how long a run took, for the estimate of --dry-run."""
    cell, seconds = program.cell, time.monotonic() - program.start
    line = {"run": cell.label, "code": code, "seconds": round(seconds, 1)}
    with contextlib.suppress(OSError), timings_path(cell).open("a") as file:
        file.write(json.dumps(line) + "\n")


def timings_path(cell: Cell) -> Path:
    return cell.workdir.parents[2] / TIMINGS


def estimate(cells: Sequence[Cell], slots: int) -> str:
    """Estimates the time of the cells that are left from those that are complete."""
    if not cells:
        return ""
    taken: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for line in timings_path(cells[0]).read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row: dict[str, Any] = json.loads(line)
                taken[row["run"]] = taken.get(row["run"], 0.0) + float(row["seconds"])
    done = [cell for cell in cells if cell.label in taken and cell.is_done()]
    left = sum(cell.cfg.train.steps for cell in cells if not cell.is_done())
    steps = sum(cell.cfg.train.steps for cell in done)
    if not steps:
        first = f"{ONLY} {'search' if cells[0].is_search else 'final'}-0"
        return (
            f"time: no estimate yet, as no run is complete; the same command with {first} instead "
            "of --dry-run makes the first one, then --dry-run estimates the others"
        )
    seconds = left * sum(taken[cell.label] for cell in done) / steps / slots
    return (
        f"time: about {duration(seconds)} for the runs that are left, {slots} at once, from "
        f"{len(done):,} complete ones by their steps"
    )


def choose_slots(jobs: int | None) -> list[Slot]:
    """Returns the environments of `jobs` runs at once; by default one for each GPU, or one."""
    gpus = list_gpus()
    count = jobs or max(1, len(gpus))
    if not gpus:
        return [{}] * count
    return [{VISIBLE_GPUS: gpus[index % len(gpus)]} for index in range(count)]


def list_gpus() -> list[str]:
    """Lists the GPUs that a child process may use, without initialising any."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    seen = os.environ.get(VISIBLE_GPUS)
    if seen is not None:
        return [each for each in seen.split(",") if each]
    return [str(index) for index in range(len([*Path("/dev").glob("nvidia[0-9]*")]))]


def read_last_line(path: Path) -> str:
    """Returns the last line of a log."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return files.escape_control(lines[-1]) if lines else f"see {path}"
    return f"see {path}"
