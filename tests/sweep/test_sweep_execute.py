"""Child processes of a sweep: how many at once, signals, locks, exit codes, logs, estimates."""

import dataclasses
import fcntl
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from data_pipelines.core import files
from data_pipelines.core.errors import Preempted
from gap_jax import cli
from gap_jax.config import Config
from gap_jax.process import StopFlag
from gap_jax.runtime.run_folder import LOCK
from gap_jax.sweep import execute
from gap_jax.sweep.execute import choose_slots, estimate, read_last_line, run_children
from gap_jax.sweep.plan import Cell
from gap_jax.sweep.rows import Row
from tests.support.swept import SIZES, make_plan
from tests.support.tiny_data import prepare_tiny_people, quiet

ON_MAPS = (
    "data.cache=features", "model.norm=frozen", "optim.frozen=('backbone',)", "model.stage=1",
    "data.brightness=0.0", "data.feature_views=2", "data.preprocessing=reference",
)  # fmt: skip
SAVES = "import signal, sys, time; signal.signal(15, lambda *_: (print('saved'), sys.exit(75)))\n"
SLEEPS = "print('begun', flush=True); time.sleep(60)"


@dataclasses.dataclass(frozen=True)
class Stub(Cell):
    """A cell whose run is a short script."""

    script: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-S", "-E", "-c", self.script]


def stub(folder: Path, script: str, name: str = "seed-0") -> Stub:
    workdir = folder / "runs" / "row" / name
    return Stub(Row("row", "spec", None), name, Config(), workdir, script)


def run(*cells: Stub, slots: int = 1, stop_flag: StopFlag | None = None) -> list[tuple[str, int]]:
    ended = run_children(cells, [{}] * slots, stop_flag or StopFlag(), quiet)
    return [(cell.name, code) for cell, code in ended]


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("slots", [1, 2])
def test_each_slot_has_one_run_at_a_time(tmp_path: Path, slots: int) -> None:
    script = (
        "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], time.monotonic()); "
        "time.sleep(0.2); print(time.monotonic())"
    )
    cells = [stub(tmp_path, script, f"seed-{seed}") for seed in range(4)]
    given = [{"CUDA_VISIBLE_DEVICES": str(index)} for index in range(slots)]
    assert all(code == 0 for _, code in run_children(cells, given, StopFlag(), quiet))
    spans: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        gpu, start, end = cell.log.read_text().split()
        spans.setdefault(gpu, []).append((float(start), float(end)))
    assert set(spans) == {str(index) for index in range(slots)}
    for each in map(sorted, spans.values()):
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(each))


def test_exit_codes_are_those_of_shells_and_the_log_has_both_streams(tmp_path: Path) -> None:
    failing = stub(tmp_path, "import sys; print('out', flush=True); sys.exit('why')", "a")
    killed = stub(tmp_path, "import os; os.kill(os.getpid(), 9)", "b")
    assert run(failing, killed) == [("a", 1), ("b", 137)]
    assert run(failing) == [("a", 1)]
    assert failing.log.read_text() == "out\nwhy\n" * 2
    assert read_last_line(failing.log) == "why"
    assert read_last_line(killed.log) == f"see {killed.log}"


def test_a_signal_lets_runs_save_and_ends_with_75(tmp_path: Path) -> None:
    stop_flag = StopFlag()
    cells = [stub(tmp_path, SAVES + SLEEPS, name) for name in "ab"]
    rest = stub(tmp_path, "print('never')", "c")

    def stop() -> None:
        for cell in cells:
            wait_for(cell.log, "begun")
        stop_flag.take(signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Preempted, match=r"^stopped by SIGTERM; run the same command again$"):
        run(*cells, rest, slots=2, stop_flag=stop_flag)
    assert [cell.log.read_text() for cell in cells] == ["begun\nsaved\n"] * 2
    assert not rest.log.exists()


def test_a_run_that_ignores_the_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "PATIENCE_S", 0.2)
    deaf = stub(tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN)\n" + SLEEPS)
    ended = run_children([deaf], [{}], stop_flag := StopFlag(), quiet)
    threading.Thread(
        target=lambda: (wait_for(deaf.log, "begun"), stop_flag.take(signal.SIGINT))
    ).start()
    start = time.monotonic()
    with pytest.raises(Preempted):
        next(ended)
    assert time.monotonic() - start < 50


def test_leaving_the_loop_ends_the_other_runs(tmp_path: Path) -> None:
    cells = [stub(tmp_path, "", "a"), stub(tmp_path, SAVES + SLEEPS, "b")]
    ended = run_children(cells, [{}] * 2, StopFlag(), quiet)
    assert next(ended)[1] == 0
    wait_for(cells[1].log, "begun")
    ended.close()
    assert cells[1].log.read_text() == "begun\nsaved\n"


def test_a_run_of_a_killed_sweep_is_waited_for(tmp_path: Path) -> None:
    held, free = stub(tmp_path, "", "held"), stub(tmp_path, "", "free")
    held.workdir.mkdir(parents=True)
    with (held.workdir / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = run_children([held, free], [{}], StopFlag(), quiet)
        assert next(ended) == (free, 0)
        assert not held.log.exists()
    assert list(ended) == [(held, 0)]


def test_a_run_that_is_in_use_is_started_again(tmp_path: Path) -> None:
    script = (
        f"import pathlib, sys; it = pathlib.Path({str(tmp_path / 'once')!r})\n"
        "if not it.exists(): it.touch(); sys.exit(77)"
    )
    assert run(stub(tmp_path, script)) == [("seed-0", 0)]


class Called:
    """A command of gap_jax that runs in this process, with what `run_children` uses of Popen."""

    def __init__(self, command: list[str], **_: object) -> None:
        self._code = cli.main(command[3:])

    def poll(self) -> int:
        return self._code


def test_maps_that_a_child_of_a_killed_sweep_computes_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_tiny_people(tmp_path / "data", sizes=SIZES)
    plan = make_plan(tmp_path / "data", tmp_path / "out", "ranks", *ON_MAPS, seeds=1)
    (extraction,) = plan.list_extractions()
    assert cli.main(extraction.command[3:]) == 0
    (folder, *_) = (tmp_path / "data" / "features").iterdir()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "manifest.json").unlink()
    next(folder.glob("*.npy")).unlink()
    orphan = ExitStack()
    orphan.enter_context(files.locked(folder))
    starts, lines = list[list[str]](), list[str]()
    begins, ends = list[float](), list[float]()

    def start(command: list[str], **_: object) -> Called:
        starts.append(command)
        begins.append(time.monotonic())
        if len(starts) == 3:
            orphan.close()
        called = Called(command)
        ends.append(time.monotonic())
        return called

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(execute, "RETRY_S", 0.3)
    assert list(run_children([extraction], [{}], StopFlag(), lines.append)) == [(extraction, 0)]
    assert starts == [extraction.command] * 3
    assert all(begin - end > 0.3 for begin, end in zip(begins[1:], ends[:-1], strict=True))
    assert lines == ["P=1/features-seed-0 is in use; waiting for it"]
    assert capsys.readouterr().err.count("error 77: ") == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


@pytest.mark.parametrize(
    ("environment", "jobs", "expected"),
    [
        ({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0"}, None, [{}]),
        ({"JAX_PLATFORMS": "cpu"}, 2, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, None, ["3", "5"]),
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, 3, ["3", "5", "3"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, None, [{}]),
    ],
)
def test_each_gpu_gets_a_run(
    environment: dict[str, str],
    jobs: int | None,
    expected: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    wanted = [
        {"CUDA_VISIBLE_DEVICES": each} if isinstance(each, str) else each for each in expected
    ]
    assert choose_slots(jobs) == wanted


def test_the_time_left_follows_the_steps_of_complete_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = Config()
    cfg.train.steps = 100
    cells = [dataclasses.replace(stub(tmp_path, "", f"seed-{seed}"), cfg=cfg) for seed in range(5)]
    assert estimate(cells, 1) == (
        "time: no estimate yet, as no run is complete; the same command with --only final-0 "
        "instead of --dry-run makes the first one, then --dry-run estimates the others"
    )
    assert run(*cells[:2]) == [("seed-0", 0), ("seed-1", 0)]
    path = tmp_path / execute.TIMINGS
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["run"], row["code"]) for row in rows] == [("row/seed-0", 0), ("row/seed-1", 0)]
    lines = [("row/seed-0", 30), ("row/seed-1", 10), ("row/seed-0", 20), ("row/seed-9", 999)]
    path.write_text(
        "".join(json.dumps({"run": run, "seconds": s}) + "\n" for run, s in lines) + "{\n"
    )
    monkeypatch.setattr(Stub, "is_done", lambda cell: cell.name in ("seed-0", "seed-1"))
    # 60 s for 200 steps, 300 steps left, two at once
    assert estimate(cells, 2) == (
        "time: about 0:00:45 for the runs that are left, 2 at once, from 2 complete ones by their "
        "steps"
    )
