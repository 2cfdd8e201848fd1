"""A killed `data prepare` leaves its decoded images and unpacked files to the next one."""

import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import manifest
from data_pipelines.core.errors import DataError
from data_pipelines.datasets import people
from data_pipelines.decode import decode
from data_pipelines.photographs import examine
from data_pipelines.photographs.duplicates import sketch
from data_pipelines.photographs.journal import Examined, make_key, open_journal
from gap_jax import cli
from tests.support.forking import Forked
from tests.support.tiny_data import build, names_in, tiny_data, write_photo

SIZES = {"train": 8, "val": 4, "test": 2}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments that prepare drawn people as MPII, with their images in an archive."""
    raw = tmp_path_factory.mktemp("drawn") / "raw"
    people.draw(raw, sizes=SIZES)
    with tarfile.open(raw / "images.tar", "w") as tar:
        tar.add(raw / "images", "images")
    given = {"annotations": "annotations.mat", "images": "images.tar", "splits": "splits"}
    return ["data", "prepare", "mpii", *(f"--{key}={raw / name}" for key, name in given.items())]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lists the lengths of the images that are decoded to be examined."""
    lengths: list[int] = []

    def decode_and_count(content: bytes, *, upright: bool) -> np.ndarray:
        lengths.append(len(content))
        return decode(content, upright=upright)

    monkeypatch.setattr(examine, "decode", decode_and_count)
    return lengths


@pytest.mark.slow
def test_killed_command_goes_on(words: list[str], tmp_path: Path, decoded: list[int]) -> None:
    """It is killed at the eleventh of fourteen records, and decodes no image again."""
    command = [*words, f"--out={tmp_path / 'out'}"]
    killed = Forked(
        [sys.executable, "-m", "gap_jax", *command],
        {**os.environ, "GAP_JAX_FAULTS": "prepare.entry:kill9@11"},
    )
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    left = {".out.examined", ".out.lock", ".out.partial", ".out.unpacked", "..out.unpacked.lock"}
    assert set(names_in(tmp_path)) == left
    unpacked = tmp_path / ".out.unpacked"
    files = list(unpacked.iterdir())
    assert len(files) == sum(SIZES.values())
    assert cli.main(command) == 0
    assert not decoded
    assert names_in(tmp_path) == ["out"]
    resumed = manifest.load(tmp_path / "out")
    assert cli.main([*words, f"--out={tmp_path / 'whole'}"]) == 0 and len(decoded) == len(files)
    assert manifest.load(tmp_path / "whole") == resumed


def remember(path: Path, image: Path) -> Examined:
    """Writes the journal that a killed command leaves of an image."""
    content = decode(image.read_bytes(), upright=False)
    found = Examined(60, 44, 123, sketch(content))
    with open_journal(path) as journal:
        key = make_key([image], upright=False)
        assert key
        journal.add(key, found)
        kept = path.read_bytes()
    assert not path.exists()
    path.write_bytes(kept)
    return found


def test_journal_gives_back_what_it_was_given(tmp_path: Path) -> None:
    image, path = tmp_path / "a.jpg", tmp_path / "journal"
    write_photo(image, 1)
    found = remember(path, image)
    whole, key = path.read_bytes(), make_key([image], upright=False)
    assert key
    with open_journal(path) as journal:
        held = journal.find(key)
    assert held and held[:3] == found[:3] and held.sketch.hash == found.sketch.hash
    np.testing.assert_array_equal(held.sketch.thumbnail, found.sketch.thumbnail)
    for damaged in (whole[:-1], whole[:100], b"\x00" * 50, whole[:70] + b"9" + whole[71:]):
        path.write_bytes(damaged)
        with open_journal(path) as journal:
            assert (journal.find(key) is None) == (damaged != whole[:-1])
            journal.add(key, found)
            assert path.read_bytes().endswith(b"\n" + whole)
    assert make_key([image], upright=True) != key
    os.utime(image, ns=(0, 0))
    assert make_key([image], upright=False) != key
    assert make_key([tmp_path / "absent.jpg"], upright=False) is None


def test_file_that_is_not_what_the_journal_says_is_refused_once(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in")
    remember(tmp_path / ".out.examined", raw.splits["train"].entries[0].path)
    with pytest.raises(DataError, match="was changed while it was prepared; run the command"):
        build(tmp_path / "out", raw)
    assert build(tmp_path / "out", raw) == manifest.load(tmp_path / "out")
    assert names_in(tmp_path) == ["in", "out"]
