"""launch/slurm.sbatch with fake srun and scontrol: the command, and when it requeues."""

import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.stand_ins import (
    AGAIN,
    FINAL,
    LAUNCH,
    place_command,
    place_program,
    read_pids,
    run,
    start,
)

SCRIPT = LAUNCH / "slurm.sbatch"
SUBMITTED = ["bash", str(SCRIPT)]
JOB = {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "6"}

# Runs two tasks and returns the highest code, like srun.
SRUN = """
printf '%s\\n' "$@" >srun.txt
while [[ "$1" == -* ]]; do shift; done
for task in 0 1; do
  SLURM_PROCID="$task" SLURM_LOCALID="$task" SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost "$@" &
  tasks+=("$!")
done
highest=0
for task in "${tasks[@]}"; do
  code=0
  wait "$task" || code=$?
  ((code <= highest)) || highest="$code"
done
exit "$highest"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place_program(tmp_path)
    place_command(tmp_path, "srun", SRUN)
    place_command(tmp_path, "scontrol", 'echo "$@" >>scontrol.txt\n')
    return tmp_path


def read_requeues(folder: Path) -> str:
    path = folder / "scontrol.txt"
    return path.read_text("utf-8") if path.exists() else ""


def test_every_task_runs_the_program_with_unchanged_arguments(folder: Path) -> None:
    words = ["--config=a:b", "--workdir=my runs/it's", "--codes=0,0"]
    code, out, _ = run(folder, [*SUBMITTED, *words], **JOB)
    assert code == 0
    assert out.splitlines() == [f"words {' '.join(words)}"] * 2
    given = (folder / "srun.txt").read_text("utf-8").splitlines()
    program = [sys.executable, "-m", "gap_jax.main", *words]
    assert given[-len(program) :] == program
    # else srun kills the others at the first end and returns the code of the kill
    assert {"--kill-on-bad-exit=0", "--wait=60"} < set(given)
    assert "--cpus-per-task=6" in given  # srun does not inherit it from sbatch
    assert not read_requeues(folder)


@pytest.mark.parametrize("code", [0, 1, 137, 143, *FINAL, *AGAIN])
def test_job_is_requeued_if_a_restart_helps(folder: Path, code: int) -> None:
    ended, _, err = run(folder, [*SUBMITTED, f"--codes={code},{code}"], **JOB)
    assert ended == code
    assert read_requeues(folder) == ("requeue 17\n" if code in AGAIN else "")
    assert bool(err.count("slurm.sbatch: ")) == (code != 0)


@pytest.mark.parametrize(
    ("restarts", "limit", "is_again"),
    [("19", {}, True), ("20", {}, False), ("2", {"MAX_RESTARTS": "2"}, False)],
)
def test_restarts_are_counted(
    folder: Path, restarts: str, limit: dict[str, str], is_again: bool
) -> None:
    settings = {**JOB, "SLURM_RESTART_COUNT": restarts, **limit}
    code, _, err = run(folder, [*SUBMITTED, "--codes=75,75"], **settings)
    assert code == 75
    assert bool(read_requeues(folder)) == is_again
    assert ("MAX_RESTARTS" in err) != is_again


def test_job_is_requeued_after_the_time_limit(folder: Path) -> None:
    with start(folder, [*SUBMITTED, "--codes=0@50,0@50"], **JOB) as process:
        for pid in read_pids(folder, 2):
            os.kill(pid, signal.SIGTERM)
        assert process.wait(20) == 75
    assert read_requeues(folder) == "requeue 17\n"


def test_job_that_slurm_ends_is_not_requeued(folder: Path) -> None:
    with start(folder, [*SUBMITTED, "--codes=0@50,0@50"], **JOB) as process:
        pids = read_pids(folder, 2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None, "the script ended before the processes could save"
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 75
    assert not read_requeues(folder)
    assert "SLURM ends the job" in err


def test_failed_requeue_keeps_the_code(folder: Path) -> None:
    place_command(folder, "scontrol", "exit 1\n")
    code, _, err = run(folder, [*SUBMITTED, "--codes=76,76"], **JOB)
    assert code == 76
    assert "submit the same command again" in err


def test_dry_run_prints_a_shell_command(folder: Path) -> None:
    code, out, _ = run(folder, [*SUBMITTED, "--dry-run", "--workdir=it's here"])
    assert code == 0
    words = shlex.split(out)
    assert words[0] == "srun"
    assert words[-4:] == [sys.executable, "-m", "gap_jax.main", "--workdir=it's here"]
    assert not (folder / "srun.txt").exists()


def test_nothing_starts_outside_a_job(folder: Path) -> None:
    code, _, err = run(folder, [*SUBMITTED, "--config=a"])
    assert code == 64
    assert "sbatch" in err
    assert len(err.splitlines()) == 1
    assert not (folder / "srun.txt").exists()


def test_sbatch_options_precede_the_first_command() -> None:
    head, _, body = SCRIPT.read_text("utf-8").partition("\nset -euo pipefail\n")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", head, re.MULTILINE))
    assert "#SBATCH" not in body
    assert all(line.startswith("#") for line in head.splitlines())
    assert options["signal"] == "TERM@120"  # to the processes; with B: only to this script
    assert "requeue" in options
    assert options["open-mode"] == "append"  # a restart must not overwrite the log
    assert options["ntasks-per-node"] == options["gpus-per-node"]
