"""launch/local.py: arguments, output, signals and exit codes of several processes."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.stand_ins import LAUNCH, place_program, read_pids, run, start

pytestmark = pytest.mark.processes

LOCAL = [sys.executable, str(LAUNCH / "local.py")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place_program(tmp_path)
    return tmp_path


def test_each_process_gets_the_arguments_its_index_and_one_coordinator(folder: Path) -> None:
    words = ["--config=a:b", "--workdir=my runs/it's", "--codes=0,0"]
    code, out, _ = run(folder, [*LOCAL, "--processes=2", *words])
    assert code == 0
    lines = sorted(line for line in out.splitlines() if " words " in line)
    (coordinator,) = {word for line in lines for word in line.split() if "coordinator" in word}
    assert coordinator.startswith("--coordinator=127.0.0.1:")
    assert lines == [
        f"[{index}] words {' '.join(words)} {coordinator} --processes=2 --process={index}"
        for index in range(2)
    ]


@pytest.mark.parametrize(
    ("setting", "option", "seen"),
    [
        ({}, [], {"[0] sees None", "[1] sees None"}),
        ({}, ["--one-gpu-each"], {"[0] sees 0", "[1] sees 1"}),
        (
            {"CUDA_VISIBLE_DEVICES": "5,3,1"},
            ["--one-gpu-each"],
            {"[0] sees 5", "[1] sees 3"},
        ),
    ],
    ids=["as it is", "one each", "one each of some"],
)
def test_gpus_are_assigned_only_with_one_gpu_each(
    folder: Path, setting: dict[str, str], option: list[str], seen: set[str]
) -> None:
    _, _, err = run(folder, [*LOCAL, "--processes=2", *option, "--codes=0,0"], **setting)
    assert set(err.splitlines()) == seen


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ("0,0@.2", 0),
        ("65@.2,0", 65),
        ("76,65@.3", 65),  # the cause ends last
        ("134,76@.2", 134),
        ("71,65@.3", 71),
    ],
)
def test_exit_code_is_that_of_the_first_cause(folder: Path, codes: str, expected: int) -> None:
    code, _, _ = run(folder, [*LOCAL, "--processes=2", f"--codes={codes}"])
    assert code == expected


def test_processes_that_do_not_end_after_a_failure_are_killed(folder: Path) -> None:
    began = time.monotonic()
    command = [*LOCAL, "--processes=2", "--patience=.3", "--codes=76,0@50", "--deaf=1"]
    code, _, err = run(folder, command)
    assert code == 76
    assert "killing process 1, which did not end within 0.3 s" in err
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(read_pids(folder, 2)[1], 0)


def test_other_processes_have_time_to_end_after_a_failure(folder: Path) -> None:
    command = [*LOCAL, "--processes=2", "--patience=20", "--codes=76,66@.5"]
    code, _, err = run(folder, command)
    assert code == 66
    assert "killing" not in err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_signals_reach_every_process(folder: Path, number: signal.Signals, code: int) -> None:
    process = start(folder, [*LOCAL, "--processes=2", "--codes=0@50,0@50"])
    read_pids(folder, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert all(f"process {index} ended" in err for index in range(2))


def test_closed_stdout_does_not_stop_the_run(folder: Path) -> None:
    command = [*LOCAL, "--processes=1", "--lines=10000"]  # more than a pipe holds
    with start(folder, command) as process:
        assert process.stdout
        process.stdout.close()
        assert process.wait(20) == 0


def test_dry_run_prints_shell_commands(folder: Path) -> None:
    command = [*LOCAL, "--processes=2", "--one-gpu-each", "--dry-run", "--workdir=it's here"]
    code, out, _ = run(folder, command)
    assert code == 0
    for index, line in enumerate(out.splitlines()):
        setting, *words = shlex.split(line)
        assert setting == f"CUDA_VISIBLE_DEVICES={index}"
        assert words[:4] == [sys.executable, "-m", "gap_jax.main", "--workdir=it's here"]
        assert words[-1] == f"--process={index}"
    assert not list(folder.glob("pid*"))


@pytest.mark.parametrize(
    ("words", "setting", "message"),
    [
        ([], {}, "required: --processes"),
        (["--processes=0"], {}, "--processes=0"),
        (["--processes=two"], {}, "'two'"),
        (
            ["--processes=2", "--one-gpu-each"],
            {"CUDA_VISIBLE_DEVICES": "1"},
            "CUDA_VISIBLE_DEVICES=1",
        ),
    ],
)
def test_mistakes_end_in_one_line_and_64(
    folder: Path, words: list[str], setting: dict[str, str], message: str
) -> None:
    code, out, err = run(folder, [*LOCAL, *words], **setting)
    assert (code, out) == (64, "")
    assert message in err
    assert len(err.splitlines()) == 1
