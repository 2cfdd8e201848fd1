"""Prepared data are written whole or not at all, and never over other files."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import manifest, prepare
from data_pipelines.core import files, progress
from data_pipelines.core.errors import CannotWrite, DataError
from data_pipelines.example import Entry, RawData
from tests.support.file_limit import files_no_larger_than
from tests.support.tiny_data import (
    SIZES,
    build,
    names_in,
    prepare_tiny_people,
    standing_people,
    tiny_data,
    with_entries,
)

ROOT = Path(__file__).parents[2]


def test_an_existing_data_set_is_refused(tmp_path: Path) -> None:
    out, raw = tmp_path / "out", tiny_data(tmp_path / "in")
    out.mkdir()
    made = build(out, raw)
    with pytest.raises(CannotWrite) as refusal:
        build(out, raw)
    assert str(refusal.value) == (
        f"{out} already holds data set people ({made.fingerprint}); "
        "pass --overwrite or another --out"
    )
    fewer = dataclasses.replace(raw, splits={"train": raw.splits["train"]})
    assert build(out, fewer, overwrite=True) == manifest.load(out) != made
    (out / "manifest.json").write_text("{")
    with pytest.raises(CannotWrite, match="already holds a damaged data set"):
        build(out, raw)
    assert build(out, raw, overwrite=True) == made
    assert names_in(tmp_path) == ["in", "out"]


def test_a_linked_output_folder_is_followed(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in")
    (tmp_path / "large disk" / "people").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "large disk" / "people")
    made = build(tmp_path / "out", raw)
    assert (tmp_path / "out").is_symlink()
    assert manifest.load(tmp_path / "large disk" / "people") == made
    assert names_in(tmp_path / "large disk") == ["people"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_not_changed(tmp_path: Path, overwrite: bool) -> None:
    raw = tiny_data(tmp_path / "in")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("words")
    with pytest.raises(CannotWrite, match="is not changed; pass another --out"):
        build(tmp_path / "thesis", raw, overwrite=overwrite)
    with pytest.raises(CannotWrite, match="is a file"):
        build(tmp_path / "thesis" / "chapter.tex", raw, overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "words"
    assert names_in(tmp_path) == ["in", "thesis"]


def test_a_failed_replacement_leaves_the_old_data_whole(tmp_path: Path) -> None:
    out, raw = tmp_path / "out", tiny_data(tmp_path / "in")
    made = build(out, raw)
    absent = Entry("absent", tmp_path / "absent", 0, standing_people(1, 60, 44))
    with pytest.raises(DataError, match="1 of 14 listed"):
        build(out, with_entries(raw, "val", absent), overwrite=True)
    assert manifest.load(out) == made


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / ("n" * 250), Path("/proc/none/out")):
        with pytest.raises(CannotWrite, match="cannot write"):
            build(out, raw)
    assert names_in(tmp_path) == ["file", "in"]


def test_an_unreadable_source_ends_with_65_and_a_failed_write_with_73(
    tmp_path: Path,
) -> None:
    def read_absent(folder: Path) -> RawData:
        del folder
        return RawData("x", "single", ((tmp_path / "absent.txt").read_text(),), {}, [], {})

    def write_nowhere(folder: Path) -> RawData:
        (folder / "none" / "x").write_text("")
        raise AssertionError

    with pytest.raises(DataError, match=r"cannot read .*absent.txt: No such file"):
        prepare.build(tmp_path / "out", read_absent)
    with pytest.raises(CannotWrite, match="cannot write"):
        prepare.build(tmp_path / "out", write_nowhere)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("room", [1, 70_000, 200_000])
def test_a_full_disk_leaves_nothing(tmp_path: Path, room: int) -> None:
    raw = tiny_data(tmp_path / "in", sizes={"train": 2, "val": 1})
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    for entry in raw.splits["train"].entries:
        files.write_atomically(entry.path, prepare.simplejpeg.encode_jpeg(noise, quality=95))
    with files_no_larger_than(room), pytest.raises(CannotWrite) as refusal:
        build(tmp_path / "out", raw)
    assert str(refusal.value).startswith(f"no room to write {tmp_path / 'out'}: File too large")
    assert names_in(tmp_path) == ["in"]
    assert build(tmp_path / "out", raw).splits["train"].examples == 2


@pytest.mark.parametrize(
    "plan",
    ["prepare.entry:enospc@5", "files.before_rename:enospc@1", "files.before_rename:enospc@2"],
)
def test_a_disk_that_fills_up_at_any_point_leaves_nothing(
    tmp_path: Path, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipelines.core import faults

    raw = tiny_data(tmp_path / "in")
    monkeypatch.setenv("GAP_JAX_FAULTS", plan)
    faults._passages.clear()
    with pytest.raises(CannotWrite, match=r"no room to write .*out.*: No space left"):
        build(tmp_path / "out", raw)
    assert names_in(tmp_path) == ["in"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in")

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(progress, "INTERVAL_S", -1.0)
        build(tmp_path / "out", raw, log=interrupt)
    assert names_in(tmp_path) == ["in"]


KILLED = """
import sys
from pathlib import Path
from tests.support.tiny_data import prepare_tiny_people
prepare_tiny_people(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["prepare.entry:kill9@8", "files.before_rename:kill9@2"])
def test_the_next_run_removes_the_folder_of_a_killed_run(tmp_path: Path, plan: str) -> None:
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "GAP_JAX_FAULTS": plan},
        timeout=60,
        check=False,
    )
    assert killed.returncode == -9
    assert names_in(tmp_path) == [".out.examined", ".out.lock", ".out.partial"]
    assert prepare_tiny_people(out).splits["train"].examples == SIZES["train"]
    assert names_in(tmp_path) == ["out"]


def test_a_folder_that_was_moved_aside_before_a_kill_is_restored(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    script = (
        "import sys, pathlib, data_pipelines.core.files as f\n"
        "with f.fresh_folder(pathlib.Path(sys.argv[1])) as p: (p / 'new').touch()"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GAP_JAX_FAULTS": "files.between_renames:kill9",
        },
        timeout=60,
        check=False,
    )
    assert killed.returncode == -9 and not (tmp_path / "out").exists()
    with pytest.raises(RuntimeError), files.fresh_folder(tmp_path / "out"):
        raise RuntimeError("the next attempt fails too")
    assert names_in(tmp_path) == ["out"] and names_in(tmp_path / "out") == ["old"]
