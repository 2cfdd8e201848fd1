"""All launchers, and launch/tpu_vm.sh with a fake gcloud."""

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.core import errors
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

pytestmark = pytest.mark.processes

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
TPU_VM = [str(LAUNCH / "tpu_vm.sh")]
POD = {"TPU": "pod", "ZONE": "zone", "CHECKOUT": "my checkout"}

# Two workers with separate homes and a login shell other than bash.
GCLOUD = """
printf '%s\\n' "$@" >gcloud.txt
for word in "$@"; do
  case "$word" in --command=*) command="${word#--command=}" ;; esac
done
code=0
for worker in 0 1; do
  (cd "worker$worker" && SLURM_PROCID="$worker" sh -c "$command") || code=$?
done
exit "$code"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place_command(tmp_path, "gcloud", GCLOUD)
    for worker in range(2):
        checkout = tmp_path / f"worker{worker}" / POD["CHECKOUT"]
        checkout.mkdir(parents=True)
        place_program(checkout)
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_pass_shellcheck(script: Path) -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    for command in (["bash", "-n"], [str(checker), "--enable=all", "--exclude=SC2250,SC2312"]):
        done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    text = script.read_text("utf-8")
    assert "\nset -euo pipefail\n" in text
    assert "shellcheck disable" not in text


def test_launchers_cover_every_exit_code() -> None:
    named = [each for each in vars(errors).values() if isinstance(each, type)]
    codes = {code for each in named if (code := getattr(each, "exit_code", None))}
    ours = {code for code in codes if isinstance(code, int)} | {errors.BUG}
    assert ours == {*FINAL, 75, 76, 69}  # 69: gap_jax doctor, which no launcher starts


def test_readme_lists_every_exit_code() -> None:
    listed = re.findall(r"^\| (\d+)", (LAUNCH / "README.md").read_text("utf-8"), re.MULTILINE)
    assert {int(code) for code in listed} >= {0, *FINAL, *AGAIN, 137}


def test_launchers_name_no_private_paths() -> None:
    for path in LAUNCH.glob("*.*"):
        ours = r"\w+\.(io|dev|com)/[\w-]+/|gs://(?!BUCKET)\w|/home/\w"
        found = re.search(ours, path.read_text("utf-8"))
        allowed = path.suffix == ".yaml" and found and found[0].startswith("jobset")
        assert not found or allowed, f"{path.name} names {found[0] if found else ''}"


def test_scripts_are_executable() -> None:
    assert (LAUNCH / "tpu_vm.sh").stat().st_mode & stat.S_IXUSR


def test_every_worker_runs_the_program_with_unchanged_arguments(folder: Path) -> None:
    words = ["--config=a:b", "--workdir=it's $HOME", "--codes=0,0"]
    code, out, err = run(folder, [*TPU_VM, *words], **POD)
    assert code == 0, err
    assert out.splitlines() == [
        line
        for _ in range(2)
        for line in (f"words --processes=auto {' '.join(words)}", "sees None")
    ]
    given = (folder / "gcloud.txt").read_text("utf-8").splitlines()
    assert given[:7] == [
        "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone", "--worker=all",
    ]  # fmt: skip


def test_exit_code_is_that_of_a_worker(folder: Path) -> None:
    code, _, _ = run(folder, [*TPU_VM, "--codes=0,65"], **POD)
    assert code == 65


def test_lost_connection_does_not_end_the_run_and_stop_does(folder: Path) -> None:
    place_command(folder, "gcloud", GCLOUD.replace("0 1", "0"))
    checkout = folder / "worker0" / POD["CHECKOUT"]
    with start(folder, ["setsid", *TPU_VM, "--codes=0@50"], **POD) as connection:
        (pid,) = read_pids(checkout, 1)
        assert os.getpgid(pid) != connection.pid
        os.killpg(connection.pid, signal.SIGKILL)
        connection.communicate()
    os.kill(pid, 0)
    second, _, err = run(folder, [*TPU_VM, "--codes=0,0"], **POD)
    assert (second, "runs here already" in err) == (77, True)
    code, _, err = run(folder, [*TPU_VM, "--stop"], **POD)
    assert code == 0, err
    until_gone = subprocess.run(
        ["timeout", "10", "tail", f"--pid={pid}", "--follow", "/dev/null"], check=False
    )
    assert until_gone.returncode == 0


def test_another_process_with_the_stored_pid_is_not_stopped(folder: Path) -> None:
    """After a reboot the pid file may name another process."""
    place_command(folder, "gcloud", GCLOUD.replace("0 1", "0"))
    with subprocess.Popen(["sleep", "60"]) as other:
        number = folder / "worker0" / POD["CHECKOUT"] / "gap_jax.pid"
        for content in (f"{other.pid}\n", "", "gone\n"):
            number.write_text(content, "utf-8")
            code, _, err = run(folder, [*TPU_VM, "--stop"], **POD)
            assert code == 0 and "nothing runs here" in err and other.poll() is None
            assert run(folder, [*TPU_VM, "--codes=0"], **POD)[0] == 0
        other.kill()


def test_dry_run_prints_a_shell_command(folder: Path) -> None:
    code, out, _ = run(folder, [*TPU_VM, "--dry-run", "--workdir=it's here"], **POD)
    assert code == 0
    assert shlex.split(out)[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert not (folder / "gcloud.txt").exists()


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [(["--config=a"], {"TPU": "pod"}, "ZONE"), ([], POD, "--config")],
    ids=["no zone", "no words"],
)
def test_mistakes_end_in_one_line_and_64(
    folder: Path, words: list[str], settings: dict[str, str], message: str
) -> None:
    code, out, err = run(folder, [*TPU_VM, *words], **settings)
    assert (code, out) == (64, "")
    assert message in err
    assert len(err.splitlines()) == 1
