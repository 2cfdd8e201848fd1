"""Signals end a command with one line and 75, at any time."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from data_pipelines.core import errors
from gap_jax import cli, process

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LINE = "gap_jax: error 75: stopped by {}; run the same command again\n"
PRELUDE = """
import ctypes, gc, os, signal, subprocess, sys, time
from pathlib import Path
from gap_jax import process
def send(number=signal.SIGTERM): signal.raise_signal(number)
"""


@contextlib.contextmanager
def begin(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts Python and waits until its program handles SIGTERM."""
    started = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 60
        while not _catches(started.pid, signal.SIGTERM):
            assert started.poll() is None and time.monotonic() < until
            time.sleep(0.001)
        yield started
    finally:
        started.kill()
        started.communicate()


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    caught = int(status.partition("SigCgt:\t")[2].split()[0], 16)
    return bool(caught >> number - 1 & 1)


def run(program: str, folder: Path) -> tuple[int, str, str]:
    """Runs a program with `process.run`; returns its exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program], cwd=folder, capture_output=True, text=True,
        timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("number", "command"),
    [
        (signal.SIGTERM, ["-m", "gap_jax", "data", "check", "nowhere"]),
        (signal.SIGINT, ["-m", "gap_jax.main", "--config=configs/gap_pose.py"]),
        (signal.SIGHUP, ["-m", "gap_jax", "report", "nowhere"]),
    ],
    ids=str,
)
def test_signal_during_imports_ends_a_command_with_one_line(
    number: signal.Signals, command: list[str], tmp_path: Path
) -> None:
    with begin(command, tmp_path) as started:
        started.send_signal(number)
        out, err = started.communicate(timeout=30)
    assert (started.returncode, out, err) == (75, "", LINE.format(number.name))


def test_signal_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    """Modules in C++ abort the process if an exception is raised while they are initialised."""
    body = "import signal\nsignal.raise_signal(signal.SIGTERM)\nprint('imported', flush=True)\n"
    (tmp_path / "slow.py").write_text(body)
    program = (
        "sys.path.insert(0, '')\n"
        "def command():\n"
        "    import slow\n"
        "    time.sleep(30)\n"
        "sys.exit(process.run(command))"
    )
    assert run(program, tmp_path) == (75, "imported\n", LINE.format("SIGTERM"))


def test_signal_removes_partial_output(tmp_path: Path) -> None:
    """The real command is stopped during its work, with a child process."""
    words = ["data", "prepare", "people", "--out", "new/people", "--train=4000"]
    with begin(["-m", "gap_jax", *words], tmp_path) as started:
        until = time.monotonic() + 120
        while not list(tmp_path.rglob("*.jpg")):
            assert started.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (75, LINE.format("SIGTERM"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "swallow",
    [
        "gc.callbacks.append(lambda *_: (gc.callbacks.clear(), send(), len(''))); gc.collect()",
        "ctypes.pythonapi.PyRun_SimpleString(b'send(); len(str())')",
    ],
    ids=["ignored", "printed"],
)
def test_signal_whose_exception_c_code_drops_is_sent_again(swallow: str, tmp_path: Path) -> None:
    """jax's gc callback drops exceptions; some C++ modules print them."""
    program = (
        "process.RESEND_DELAY_S = 1\n"
        "def command():\n"
        f"    {swallow}\n"
        "    os.write(1, b'swallowed\\n')\n"
        "    try: time.sleep(30)\n"
        "    finally: time.sleep(0.5)  # long enough to be ended by a second signal\n"
        "sys.exit(process.run(command))"
    )
    assert run(program, tmp_path) == (75, "swallowed\n", LINE.format("SIGTERM"))


def test_replaced_exception_of_a_signal_is_no_bug(
    tmp_path: Path,
) -> None:
    program = (
        "def command():\n"
        "    try: send(); time.sleep(1)\n"
        "    except BaseException as error: raise ImportError('numpy failed') from error\n"
        "sys.exit(process.run(command))"
    )
    assert run(program, tmp_path) == (75, "", LINE.format("SIGTERM"))


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_second_signal_ends_a_process_that_hangs_in_c_code(
    second: signal.Signals, tmp_path: Path
) -> None:
    """The main thread waits in C code that never returns to Python."""
    program = (
        "import ctypes, threading\n"
        "process.DUPLICATE_SIGNAL_S = 0\n"
        "def command():\n"
        "    threading.Timer(0.3, send).start()\n"
        f"    threading.Timer(0.6, send, [{int(second)}]).start()\n"
        "    for number in process.list_signals(): signal.siginterrupt(number, False)\n"
        "    ctypes.CDLL(None).sem_wait(ctypes.create_string_buffer(64))\n"
        "sys.exit(process.run(command))"
    )
    code, _, err = run(program, tmp_path)
    assert code == 75 and err.count("\n") == 1 and "at once by a second signal" in err


def test_command_that_ignores_a_signal_is_ended(tmp_path: Path) -> None:
    program = (
        "process.END_TIMEOUT_S = 0.5\n"
        "def command():\n"
        "    process.limit_start(60, lambda: False)\n"
        "    try: send(); time.sleep(1)\n"
        "    except BaseException: time.sleep(30)\n"
        "sys.exit(process.run(command))"
    )
    code, _, err = run(program, tmp_path)
    assert code == 75 and err.count("\n") == 1 and "still running 0.5 s after a signal" in err


def test_start_without_progress_ends_with_its_stacks(tmp_path: Path) -> None:
    """Under ulimit -v a thread may fail to start, and C code waits for it forever."""
    program = (
        "import ctypes\n"
        "def wait_for_ever(): ctypes.CDLL(None).sem_wait(ctypes.create_string_buffer(64))\n"
        "def command():\n"
        "    process.limit_start(0.3, lambda: False)\n"
        "    wait_for_ever()\n"
        "sys.exit(process.run(command))"
    )
    code, _, err = run(program, tmp_path)
    assert code == 76 and err.count("gap_jax: error 76: no first step within") == 1
    assert "in wait_for_ever" in err.partition("gap_jax: error")[0]


def test_start_in_time_continues(tmp_path: Path) -> None:
    program = (
        "def command():\n"
        "    process.limit_start(0.2, lambda: True)\n"
        "    time.sleep(0.6)\n"
        "sys.exit(process.run(command))"
    )
    assert run(program, tmp_path) == (0, "", "")


def test_training_limits_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(process, "limit_start", lambda seconds, _: limits.append(seconds))
    fields = [f"--config.data.root={tmp_path}", "--config.runtime.start_within_s=7"]
    assert cli.main(["train", "--config=gap_pose:demo", *fields]) == 65
    assert limits == [7] and "no prepared data" in capsys.readouterr().err
    assert cli.main(["train", "--config=gap_pose:demo", "--mode=evaluate", *fields]) == 65
    assert limits == [7], "an evaluation may take longer"


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda each: each.name)
def test_ignored_signal_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    """nohup ignores SIGHUP, and a script's `&` ignores SIGINT."""
    program = (
        f"signal.signal({int(number)}, signal.SIG_IGN)\n"
        f"sys.exit(process.run(lambda: send({int(number)}) or print('went on')))"
    )
    assert run(program, tmp_path) == (0, "went on\n", "")


def test_dropped_signal_is_sent_again_if_sigint_is_ignored(tmp_path: Path) -> None:
    program = (
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "def command():\n"
        "    gc.callbacks.append(lambda *_: (gc.callbacks.clear(), send(), len('')))\n"
        "    gc.collect(); time.sleep(30)\n"
        "sys.exit(process.run(command))"
    )
    assert run(program, tmp_path) == (75, "", LINE.format("SIGTERM"))


def test_signal_while_a_refusal_is_printed_keeps_its_line(tmp_path: Path) -> None:
    program = (
        "print_error = process.print_error\n"
        "process.print_error = lambda *line: (send(), print_error(*line))\n"
        "def command(): raise process.CannotWrite('full')\n"
        "sys.exit(process.run(command))"
    )
    assert run(program, tmp_path) == (73, "", "gap_jax: error 73: full\n")


def test_signal_at_the_return_of_a_command_keeps_its_code(tmp_path: Path) -> None:
    program = (
        "def profile(frame, event, _):\n"
        "    if event == 'return' and frame.f_code is process.exit_code.__code__: send()\n"
        "sys.setprofile(profile)\n"
        "sys.exit(process.run(lambda: 3))"
    )
    assert run(program, tmp_path) == (3, "", "")


def test_exit_with_a_text_is_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    """A config may call sys.exit('...')."""
    assert process.exit_code(lambda: sys.exit("no GPU here")) == 64
    assert capsys.readouterr().err == "gap_jax: error 64: no GPU here\n"


def test_closed_stdout_has_code_0() -> None:
    """The same holds if another process of the run gets the exception."""
    assert errors.describe(process.StdoutClosed()) == (0, "")


def test_signal_after_the_command_keeps_its_code(tmp_path: Path) -> None:
    program = "import atexit; atexit.register(send); sys.exit(process.run(lambda: 3))"
    assert run(program, tmp_path) == (3, "", "")


def test_signal_while_python_ends_keeps_the_code(tmp_path: Path) -> None:
    """Python resets signal handlers before it deletes remaining objects."""
    program = (
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid()): kill(pid, 15)\n"
        "def command(): sys.modules['late'] = Late(); return 3\n"
        "late = Late()\n"
        "sys.exit(process.run(command))"
    )
    assert run(program, tmp_path) == (3, "", "")


def test_child_process_has_default_handlers(tmp_path: Path) -> None:
    child = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    program = f"sys.exit(process.run(lambda: -subprocess.call([sys.executable, '-c', {child!r}])))"
    assert run(program, tmp_path) == (15, "", "")
