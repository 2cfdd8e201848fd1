"""Checkpoints that Orbax writes to a bucket: in place, with a file that is written last."""

from pathlib import Path

import pytest

from gap_jax.runtime import checkpoint_folders as folders
from tests.support.saved_states import fail_to_save, resume, save_steps


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats each folder as one in a bucket."""
    monkeypatch.setattr(folders, "is_bucket", lambda _: True)


def list_steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_steps_are_written_in_place_and_deleted_at_once(tmp_path: Path) -> None:
    save_steps(tmp_path, 2, 4, 6, keep=1)
    assert list_steps(tmp_path) == ["2", "6"]
    assert resume(tmp_path) == (6, [])


def test_step_without_its_commit_file_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 2)
    fail_to_save(tmp_path, 4, monkeypatch)
    assert (tmp_path / "4" / "metadata" / "metadata").exists()
    (tmp_path / "9").mkdir()  # somebody's
    assert list(folders.survey(tmp_path).good) == [2] and not folders.survey(tmp_path).unusable
    assert resume(tmp_path) == (2, [])
    assert list_steps(tmp_path) == ["2", "9"]


def test_damaged_step_is_set_aside(tmp_path: Path) -> None:
    save_steps(tmp_path, 2, 4)
    largest = max((tmp_path / "4/state").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"\0")
    step, said = resume(tmp_path)
    assert step == 2 and "4.corrupt" in said[0]
    save_steps(tmp_path, 4)
    assert resume(tmp_path) == (4, [])
