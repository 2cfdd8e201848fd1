"""Writers that raise, hang, fill the disk or lose their reader do not stop a run."""

import errno
import importlib
import io
import itertools
import math
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data_pipelines.core.errors import CannotWrite
from gap_jax.runtime.reporting import writers
from gap_jax.runtime.reporting.jsonl import LineWriter
from gap_jax.runtime.reporting.logger import RunLogger
from gap_jax.runtime.reporting.progress import Progress
from gap_jax.runtime.reporting.reporter import Reporter
from gap_jax.runtime.reporting.writers import (
    LineConsole,
    TensorBoardWriter,
    TerminalConsole,
    open_console,
)
from gap_jax.runtime.run_folder import RunFolder
from tests.support.file_limit import files_no_larger_than
from tests.support.tiny_run import (
    METRICS,
    Clock,
    Recorder,
    config,
    ids_of,
    metrics_of,
    people,
    rows,
    train,
)

event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
ROOT = Path(__file__).parents[2]
NAMES = {"console": "console", "board": "TensorBoard writer"}


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("b\n ug")])
@pytest.mark.parametrize("who", ["console", "board"])
def test_raising_writer_warns_once_and_other_files_are_complete(
    tmp_path: Path, who: str, error: Exception
) -> None:
    console, board = Recorder(), Recorder()
    (console if who == "console" else board).error = error
    cfg = config(train__steps=500)
    run = train(tmp_path, last=500, console=console, board=board, cfg=cfg)
    assert len(rows(run.metrics)) == 150
    assert len(rows(run.step_log)) == 550
    log = run.log.read_text("utf-8")
    reason = str(error).replace("\n", "")
    told = f"warning: the {NAMES[who]} failed ({type(error).__name__}: {reason}); training goes on"
    assert log.count(told) == log.count("warning") == 1
    if who == "board":
        assert told in console.text
        assert console.is_closed


@pytest.mark.parametrize("who", ["console", "board"])
def test_hanging_writer_warns_once_and_is_waited_for_briefly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    gate = threading.Event()
    stuck = Recorder(gate=gate)
    monkeypatch.setattr(writers, "QUEUE_ITEMS", 20)
    monkeypatch.setattr(writers, "CLOSE_TIMEOUT_S", 0.05)
    cfg = config(train__steps=100)
    train(tmp_path / "first", last=1)  # compiles
    start = time.monotonic()
    sinks = {"console": Recorder(), "board": Recorder(), who: stuck}
    run = train(tmp_path / "run", last=100, cfg=cfg, console=sinks["console"], board=sinks["board"])
    assert time.monotonic() - start < 5
    gate.set()
    assert len(rows(run.metrics)) == 30
    told = f"the {NAMES[who]} hangs; training goes on without it"
    assert run.log.read_text("utf-8").count(told) == 1


def test_writer_that_cannot_open_warns_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.tensorboard.write_text("in the way")
    with (
        RunLogger(run, Recorder()) as logger,
        Reporter(logger, run, config(), people()) as reporter,
    ):
        reporter.step(1, metrics_of(METRICS), ids_of(1))
    assert run.log.read_text("utf-8").count("TensorBoard writer failed (FileExistsError") == 1


def test_full_disk_delays_rows_and_tears_none(tmp_path: Path) -> None:
    troubles: list[str] = []
    path = tmp_path / "rows.jsonl"
    lines = LineWriter(path, troubles.append)
    expected = "".join(f"row {i} é\n" for i in range(60))
    with files_no_larger_than(101):
        for i in range(50):
            lines.write(f"row {i} é")
            assert path.read_text("utf-8").endswith("\n")
    assert path.stat().st_size <= 101
    assert len(troubles) == 1
    assert "cannot be written (File too large); training goes on" in troubles[0]
    for i in range(50, 60):
        lines.write(f"row {i} é")
    assert path.read_text("utf-8") == expected
    with files_no_larger_than(101):
        lines.write("too late")
        lines.close()
        lines.close()
    assert path.read_text("utf-8") == expected
    assert troubles[1:] == [f"{path} lacks its last 1 lines"]
    with pytest.raises(CannotWrite, match="x/rows"):
        LineWriter(path / "x" / "rows", troubles.append)


SCRIPT = """
import sys
from pathlib import Path
from gap_jax.runtime.reporting.logger import RunLogger
from gap_jax.runtime.run_folder import RunFolder
with RunLogger(RunFolder(Path(sys.argv[1]))) as logger:
    for i in range(int(sys.argv[2])):
        logger.info(f"line {i} \\u6a21\\u578b " + "x" * 200)
sys.exit(75)
"""


@contextmanager
def logging_process(
    folder: Path, lines: int, shell: str = "exec"
) -> Iterator[subprocess.Popen[str]]:
    """Runs a process that logs lines in a locale without Unicode; stderr goes to a file."""
    folder.mkdir()
    command = ["/bin/sh", "-c", f'{shell} "$0" "$@"', sys.executable, "-c", SCRIPT]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with (
        (folder / "stderr").open("w") as complaints,
        subprocess.Popen(
            [*command, str(folder), str(lines)],
            env={"PYTHONPATH": str(ROOT), **locale},
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as process,
    ):
        yield process


@pytest.mark.slow
def test_broken_outputs_change_neither_exit_code_nor_log(
    tmp_path: Path,
) -> None:
    with (
        logging_process(tmp_path / "lost", 900) as lost,
        logging_process(tmp_path / "stalled", 900) as stalled,
        logging_process(tmp_path / "absent", 9, "exec >&-;") as absent,
        logging_process(tmp_path / "ascii", 9) as ascii_only,
    ):
        assert lost.stdout
        assert ascii_only.stdout
        assert lost.stdout.readline().startswith("line 0 ")
        lost.stdout.close()
        assert [each.wait(60) for each in (lost, stalled, absent, ascii_only)] == [75] * 4
        last = ascii_only.stdout.read().splitlines()[-1]
    assert last.startswith(r"line 8 \u6a21\u578b x")
    for name, lines in (("lost", 901), ("stalled", 901), ("absent", 9), ("ascii", 9)):
        log = (tmp_path / name / "log.txt").read_text("utf-8").splitlines()
        assert len(log) == lines, name
        assert log[0].startswith("line 0 模型 x")
        assert (tmp_path / name / "stderr").read_text() == ""


def events_in(folder: Path) -> list[Any]:
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(event_pb2.Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def test_tensorboard_gets_every_row_and_drops_undone_steps(tmp_path: Path) -> None:
    board = TensorBoardWriter(tmp_path / "tb", 0)
    board.write({"step": 5, "steps": 5, "train/loss": 1.5, "perf/x": math.nan})
    started, row = events_in(tmp_path / "tb")  # a row can be seen at once
    assert started.file_version == "brain.Event:2"
    assert row.step == 5
    assert {each.tag: str(each.simple_value) for each in row.summary.value} == {
        "train/loss": "1.5", "perf/x": "nan",
    }  # fmt: skip
    board.close()
    again = TensorBoardWriter(tmp_path / "again", 7)
    again.close()
    _, purge = events_in(tmp_path / "again")
    assert (purge.step, purge.session_log.status) == (8, event_pb2.SessionLog.START)


def progress(step: int, *, is_due: bool = False) -> Progress:
    return Progress(step, 10, {"train/loss": 1.5}, 60.0, is_due)


def test_terminal_keeps_one_line_of_progress_below_the_text() -> None:
    stream, clock = io.StringIO(), Clock()
    terminal = TerminalConsole(draw_on(stream, 50), clock)
    terminal.write("[bold]a [1/2] text")
    terminal.write(progress(1))
    terminal.write(progress(2))  # at the same moment
    clock.now += 1
    terminal.write(progress(5))
    terminal.write("模型")
    terminal.write(progress(6, is_due=True))
    terminal.close()
    shown = [strip(each) for each in stream.getvalue().replace("\r", "\n").split("\n")]
    assert [each for each, _ in itertools.groupby(filter(None, shown))] == [
        "[bold]a [1/2] text",
        " 1/10 ━          eta 0:01:00  loss 1.5",
        " 5/10 ━━━━━      eta 0:01:00  loss 1.5",
        "模型",
        " 5/10 ━━━━━      eta 0:01:00  loss 1.5",
        " 6/10 ━━━━━━     eta 0:01:00  loss 1.5",
    ]
    hidden, visible = "\x1b[?25l", "\x1b[?25h"
    assert stream.getvalue().count(hidden) == 1, "a killed process leaves no hidden cursor"
    assert stream.getvalue().index(visible) < stream.getvalue().index("模型")
    narrow = io.StringIO()
    TerminalConsole(draw_on(narrow, 30), clock).write(progress(1))
    assert strip(narrow.getvalue()) == " 1/10 ━          eta 0:01:00 \u2026"


def draw_on(stream: io.StringIO, width: int) -> Console:
    return Console(file=stream, force_terminal=True, width=width, color_system=None)


def strip(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_line_console_prints_plain_lines() -> None:
    stream = io.StringIO()
    lines = LineConsole(stream)
    for each in ("a", progress(1), progress(2, is_due=True), "b"):
        lines.write(each)
    lines.close()
    assert stream.getvalue() == "a\nstep=2/10 loss=1.5 eta=0:01:00\nb\n"


def test_console_depends_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb", 0) as screen:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("TERM", "xterm")
        sink = open_console()
        assert isinstance(sink, TerminalConsole)
        sink.write("said")
        assert screen.read(4) == b"said"
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(open_console(), LineConsole)
    notebook = io.StringIO()
    monkeypatch.setattr(sys, "stdout", notebook)
    open_console().write("said")
    assert notebook.getvalue() == "said\n"
    monkeypatch.setattr(sys, "stdout", None)
    open_console().write("said")
