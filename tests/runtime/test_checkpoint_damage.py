"""Damaged, foreign and partly written checkpoints are reported, set aside and never used."""

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.core.errors import CannotWrite, CheckpointError
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.digests import name_leaves
from tests.support.saved_states import (
    State,
    abstract,
    assert_same,
    make_state,
    refuse_warning,
    resume,
    save_steps,
)

OWN_FILES = ("_CHECKPOINT_METADATA", "commit_success.txt")
FLIPS = int(os.environ.get("GAP_JAX_FLIPS", "20"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints 2 and 4."""
    folder = tmp_path_factory.mktemp("saved")
    save_steps(folder, 2, 4)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


def list_files(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def find_arrays(step: Path) -> Path:
    """Returns the largest file of the state."""
    return max(list_files(step / "state"), key=lambda path: path.stat().st_size)


def find_metadata(step: Path) -> Path:
    return step / "metadata" / "metadata"


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def flip_middle(path: Path) -> None:
    flip(path, path.stat().st_size * 4)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_middle, halve, Path.unlink])
@pytest.mark.parametrize("find", [find_arrays, find_metadata])
def test_damaged_checkpoint_is_set_aside_and_the_previous_one_restored(
    folder: Path, damage: Callable[[Path], None], find: Callable[[Path], Path]
) -> None:
    damage(find(folder / "4"))
    step, said = resume(folder)
    assert (
        step == 2
        and len(said) == 1
        and "checkpoint 4 is not usable" in said[0]
        and "4.corrupt" in said[0]
    )
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4.corrupt"]
    save_steps(folder, 4)  # the run goes on, and saves the step again
    assert resume(folder) == (4, [])


@pytest.mark.slow
def test_damage_to_any_file_is_detected(folder: Path) -> None:
    """Orbax's own files of a step hold nothing that is loaded: all is restored without them."""
    target = abstract(make_state(4))
    with Checkpoints(folder, warn=refuse_warning) as checkpoints:
        for path in list_files(folder / "4"):
            content = path.read_bytes()
            bits = np.random.default_rng(0).integers(8 * len(content), size=FLIPS)
            flips = [functools.partial(flip, bit=int(bit)) for bit in bits]
            for damage in (*flips, halve, Path.unlink):
                damage(path)
                if path.name in OWN_FILES and path.parent.name != "state":
                    assert_same(checkpoints.load(4, target).state, make_state(4))
                else:
                    with pytest.raises(CheckpointError):
                        checkpoints.load(4, target)
                path.write_bytes(content)
        assert_same(checkpoints.load(4, target).state, make_state(4))


def test_whole_files_with_other_numbers_are_detected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder / "4" / "state")
    shutil.copytree(folder / "2" / "state", folder / "4" / "state")
    monkeypatch.setattr("gap_jax.runtime.checkpoint_folders.verify_files", lambda *_: None)
    step, said = resume(folder)
    assert step == 2 and "another digest: counters/in_row" in said[0] and "more" in said[0]


def test_run_without_a_good_checkpoint_is_refused(folder: Path) -> None:
    for step in ("2", "4"):
        flip_middle(find_arrays(folder / step))
    said: list[str] = []
    for _ in range(2):
        with (
            pytest.raises(CheckpointError, match=r"set aside: 2\.corrupt, 4\.corrupt"),
            Checkpoints(folder, warn=said.append) as checkpoints,
        ):
            checkpoints.resume(abstract(make_state(0)))
    assert len(said) == 2


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.EMFILE, "Too many open files"), RuntimeError("no new thread")],
    ids=repr,
)
def test_unreadable_whole_files_are_not_set_aside(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("orbax.checkpoint.Checkpointer.restore", fail)
    with pytest.raises(CheckpointError, match=rf"4.state cannot be read \({type(error).__name__}"):
        resume(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]


def test_second_damaged_copy_gets_another_name(folder: Path) -> None:
    for expected in (["4.corrupt"], ["4.corrupt", "4.corrupt.2"]):
        flip_middle(find_arrays(folder / "4"))
        assert resume(folder)[0] == 2
        assert sorted(path.name for path in folder.glob("*.corrupt*")) == expected
        save_steps(folder, 4)


def test_load_restores_exactly_the_given_step(folder: Path) -> None:
    flip_middle(find_arrays(folder / "4"))
    with Checkpoints(folder, warn=refuse_warning) as checkpoints:
        with pytest.raises(CheckpointError, match=r"checkpoint 4 .* is damaged"):
            checkpoints.load(4, abstract(make_state(0)))
        with pytest.raises(CheckpointError, match=r"no good checkpoint 3 in .* one of \[2, 4\]"):
            checkpoints.load(3, abstract(make_state(0)))
        assert_same(checkpoints.load(2, abstract(make_state(0))).state, make_state(2))
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]


def test_foreign_files_stay_unchanged(folder: Path) -> None:
    (folder / "7").mkdir()
    (folder / "8").write_text("a file")
    (folder / "9").mkdir()
    (folder / "9" / "precious").write_text("somebody's")
    shutil.copytree(folder / "4", folder / "11")
    strangers = {"007", ".12.partial", "notes", ".keep"}
    for name in strangers:
        (folder / name).mkdir()
    for name in ("5.orbax-checkpoint-tmp", ".pruned/1"):
        (folder / name / "state").mkdir(parents=True)
    step, said = resume(folder)
    assert step == 4
    assert len(said) == 1 and "11 is not usable (it is a copy of checkpoint 4)" in said[0]
    names = {path.name for path in folder.iterdir()}
    assert names == {"2", "4", "7", "8", "9", "11.corrupt"} | strangers
    with Checkpoints(folder, warn=said.append, keep=1) as checkpoints:
        for number in (5, 9):
            checkpoints.save(number, make_state(number), {})
            checkpoints.finish(number)
    assert "9.corrupt" in said[-1]
    assert (folder / "9.corrupt" / "precious").read_text() == "somebody's"
    assert (folder / "7").is_dir() and (folder / "8").is_file()
    assert resume(folder)[0] == 9


def test_checkpoint_of_another_format_is_refused_and_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gap_jax.runtime.checkpoint_folders.FORMAT_VERSION", 3)
    with pytest.raises(CheckpointError, match="2 has format 2 and this gap_jax reads 3"):
        resume(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]


def test_checkpoint_of_format_1_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "3" / "arrays").mkdir(parents=True)
    (tmp_path / "3" / "facts.json").write_text("{}")
    (tmp_path / "9").mkdir()
    with pytest.raises(CheckpointError, match="3 has format 1 and this gap_jax reads 2; use the"):
        resume(tmp_path)
    shutil.rmtree(tmp_path / "3")
    assert resume(tmp_path) == (0, [])  # a numbered folder without a checkpoint is no obstacle


def test_last_checkpoint_is_verified_by_reading(folder: Path) -> None:
    with Checkpoints(folder, warn=refuse_warning) as checkpoints:
        checkpoints.finish(4)
        flip_middle(find_arrays(folder / "4"))
        with pytest.raises(
            CheckpointError, match=r"the final checkpoint 4 .* is absent or damaged"
        ):
            checkpoints.finish(4)
        with pytest.raises(CheckpointError, match=r"the final checkpoint 6 .* is absent"):
            checkpoints.finish(6)


def test_state_that_does_not_read_back_is_never_committed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store_badly(state: State) -> dict[str, jax.Array]:
        return {**name_leaves(state), "step": state.step + 1}

    monkeypatch.setattr("gap_jax.runtime.checkpoint.name_leaves", store_badly)
    with (
        pytest.raises(CannotWrite, match=r"/6 does not read back .*\(another digest: step\)"),
        Checkpoints(folder, warn=refuse_warning, keep=1) as checkpoints,
    ):
        checkpoints.save(6, make_state(6), {})
    assert resume(folder) == (4, [])


PARENT = """
import os, resource, sys
from pathlib import Path
from gap_jax.process import exit_code
from gap_jax.runtime.checkpoint import Checkpoints
from tests.support.saved_states import abstract, make_state

def run(folder: Path) -> None:
    with Checkpoints(folder, warn=print, keep=1) as checkpoints:
        checkpoints.resume(abstract(make_state(0)))
        if folder.name == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        for step in (6, 8):
            checkpoints.save(step, make_state(step), {"metrics": {"mAP": step}})
            checkpoints.wait()
        checkpoints.finish(8)

for folder in map(Path, sys.argv[1:]):
    child = os.fork()
    if not child:
        point, _, passage = folder.name.partition("@")
        os.environ["GAP_JAX_FAULTS"] = f"{point}:kill9@{passage}"
        code = exit_code(lambda: run(folder))
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

KILLED_AT = {
    "none@1": 8,
    "restore.before@1": 4,
    "checkpoint.begin@2": 6,
    "files.before_rename@2": 6,
    "checkpoint.before_commit@2": 6,
    "checkpoint.after_commit@2": 8,
    "checkpoint.prune@2": 8,
}


@pytest.mark.slow
def test_run_killed_at_any_point_resumes_from_its_last_save(saved: Path, tmp_path: Path) -> None:
    """One process forks all children: most of their time would be spent on imports."""
    folders = [shutil.copytree(saved, tmp_path / name) for name in (*KILLED_AT, "limit")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore:os.fork:RuntimeWarning", "-c", PARENT, *map(str, folders)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    killed = [-signal.SIGKILL] * (len(KILLED_AT) - 1)
    assert list(map(int, done.stdout.split())) == [0, *killed, 73], done.stderr
    for folder, newest in zip(folders, [*KILLED_AT.values(), 4], strict=True):
        assert resume(folder) == (newest, []), folder
        assert all(path.name.isdecimal() for path in folder.iterdir()), folder
    assert done.stderr.startswith("gap_jax: error 73: no room to write")
    assert "File too large" in done.stderr and done.stderr.count("\n") == 1
