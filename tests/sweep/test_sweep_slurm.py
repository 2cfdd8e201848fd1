"""The script that submits a sweep to SLURM, with fake sbatch, srun and scontrol."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gap_jax import cli
from gap_jax.sweep.batch import pick_cell
from gap_jax.sweep.execute import execute
from tests.support.stand_ins import place_command, run
from tests.support.swept import SIZES, Recorder, make_plan, words_of
from tests.support.tiny_data import prepare_tiny_people, quiet

SBATCH = """
printf '%s\\n' "$@" >>"submitted.txt"
echo next >>jobs.txt
echo "$(wc -l <jobs.txt);cluster"
"""
SRUN = 'printf "%s\\n" "$@" >srun.txt; exit "${CODE:-0}"\n'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm") / "it's data"
    prepare_tiny_people(folder, sizes=SIZES)
    return folder


@pytest.fixture
def folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    options = ["grid", "--over", "model.rank=1,2", "--seeds", "4", "--write", "slurm"]
    given = ["--config=gap_pose:demo", *words_of(data), "--out", str(tmp_path / "my out")]
    assert cli.main(["sweep", *options, *given]) == 0
    assert f"submit the runs with: bash {tmp_path}/my out/slurm.sh" in capsys.readouterr().out
    place_command(tmp_path, "sbatch", SBATCH)
    place_command(tmp_path, "srun", SRUN)
    place_command(tmp_path, "scontrol", 'echo "$@" >>scontrol.txt\n')
    return tmp_path


def script(folder: Path) -> str:
    return str(folder / "my out" / "slurm.sh")


def test_each_phase_is_an_array_after_the_previous_one(folder: Path) -> None:
    code, _, err = run(folder, ["bash", script(folder), "--gpus=1", "--time=01:00:00"])
    assert code == 0, err
    words = (folder / "submitted.txt").read_text().splitlines()
    assert [word for word in words if word.startswith("--array")] == [
        "--array=0-5", "--array=0-7", "--array=0-0",
    ]  # fmt: skip
    assert [word for word in words if "dependency" in word] == [
        "--dependency=afterany:1", "--dependency=afterany:2",
    ]  # fmt: skip
    assert [word for word in words if word in ("search", "final", "results")] == [
        "search", "final", "results",
    ]  # fmt: skip
    assert words.count("--gpus=1") == words.count(script(folder)) == 3
    assert words.count(f"--output={folder}/my out/slurm-search-%a.log") == 1
    _, printed, _ = run(folder, ["bash", script(folder), "--dry-run", "--gpus=1"])
    assert len(printed.splitlines()) == 3
    assert shlex.split(printed.splitlines()[0])[:2] == ["sbatch", "--parsable"]


@pytest.mark.parametrize("phase", ["search", "results"])
def test_a_task_runs_its_run(folder: Path, data: Path, phase: str) -> None:
    job = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    code, _, err = run(folder, ["bash", script(folder), phase], **job)
    assert code == 0, err
    given = (folder / "srun.txt").read_text().splitlines()
    assert given[:5] == ["--ntasks=1", sys.executable, "-m", "gap_jax", "sweep"]
    assert f"--config.data.root={data}" in given
    assert "--write" not in given and "slurm" not in given
    assert given[-2:] == (["--only", "search-3"] if phase == "search" else given[-2:])
    assert ("--only" in given) == (phase == "search")


@pytest.mark.parametrize(("code", "restarts"), [(0, 0), (64, 0), (75, 0), (76, 19), (75, 20)])
def test_a_task_that_saved_is_queued_again(folder: Path, code: int, restarts: int) -> None:
    job = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restarts), "CODE": str(code)}
    ended, _, _ = run(folder, ["bash", script(folder), "search"], **job)
    assert ended == code
    requeued = (folder / "scontrol.txt").exists()
    assert requeued == (code in (75, 76) and restarts < 20)


def test_the_script_passes_shellcheck(folder: Path) -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, script(folder)], capture_output=True, text=True, check=False)
    assert not done.stdout


def test_a_task_is_the_cell_of_its_index(data: Path, tmp_path: Path) -> None:
    plan = make_plan(data, tmp_path, "grid", over=["model.rank=1,2"], rates=(0.1, 0.2), seeds=3)
    execute(
        plan, Recorder(plan.data, lambda cell: 9 * (cell.cfg.optim.learning_rate == 0.2)), quiet
    )
    found = [pick_cell(plan, f"search-{index}") for index in range(4)]
    assert found == plan.searches
    finals = [pick_cell(plan, f"final-{index}") for index in range(6)]
    assert finals == plan.finals()
    assert {cell.cfg.optim.learning_rate for cell in plan.finals()} == {0.2}
