"""Files of stored maps: stops, damage, foreign files, a full disk, and refused settings."""

import dataclasses
import errno
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_pipelines import feature_maps
from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, CheckpointError, ConfigError, InUse, Preempted
from data_pipelines.feature_maps import FeatureMaps
from gap_jax import cli
from gap_jax.learning.setup import assemble
from gap_jax.runtime.digests import Leaves, copy_to_host
from gap_jax.runtime.extraction import StoredMaps, describe_maps, store_maps
from gap_jax.runtime.extractor import Extractor
from gap_jax.runtime.processes.group import Processes
from tests.support.compiling import FAST_COMPILING
from tests.support.forking import Forked
from tests.support.stored_maps import SPEC, Made, configure, make_maps, store, words_of
from tests.support.tiny_data import quiet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_maps(tmp_path_factory.mktemp("maps") / "data")


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """A copy of the data and their maps that a test may damage."""
    return shutil.copytree(made.data, tmp_path / "data")


def contents(maps: StoredMaps) -> dict[str, bytes]:
    return {
        f"{folder.name}/{path.name}": path.read_bytes()
        for folder in (each.folder for each in maps)
        for path in folder.iterdir()
    }


def test_a_stopped_extraction_goes_on_to_the_same_bytes(
    made: Made, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_maps, "BATCH_IMAGES", 6)
    whole = contents(store(made, copied, "data.feature_views=3"))
    assert sum("train" in name for name in whole) == 5 + 1
    for folder in (copied / "features").iterdir():
        shutil.rmtree(folder)
    for kept in (2, 3):
        asked = iter([False] * (kept - 1) + [True])
        with pytest.raises(Preempted, match=rf"stopped after {kept} of 5 files"):
            store(made, copied, "data.feature_views=3", is_stopping=asked.__next__)
    sha256, hashed, exchanged = files.sha256, list[Path](), list[int]()
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or sha256(path))

    class Exchanging(Processes):
        def gather(self, name: str, value: Any) -> list[Any]:
            exchanged.append(len(hashed))
            return super().gather(name, value)

    processes = Exchanging()
    assert contents(store(made, copied, "data.feature_views=3", processes=processes)) == whole
    # no other process waits while one reads more than a file
    assert exchanged[:5] == [1, 2, 3, 4, 5] and len(hashed) == len(exchanged)
    # so that reading files and compiling the first step have runtime.start_within_s
    assert processes.last_heartbeat is not None and processes.is_starting


@pytest.mark.processes
def test_a_killed_extraction_goes_on_to_the_same_bytes(made: Made, copied: Path) -> None:
    """One moment of one device's; `make faults` tries random ones."""
    folder = copied / "features" / made.maps.training.folder.name
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(copied / "features")
    words = ["features", f"--config={SPEC}", *words_of(copied)]
    environment = {**os.environ, "XLA_FLAGS": FAST_COMPILING}
    killed = Forked(
        [sys.executable, "-m", "gap_jax", *words],
        {**environment, "GAP_JAX_FAULTS": "files.before_rename:kill9@2"},
    )
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.suffix for path in folder.iterdir()) == [".npy", ".partial"]
    assert cli.main(words) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_the_files_are_the_same_bytes_on_any_number_of_devices(
    made: Made, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each device computes whole batches: of smaller ones XLA may sum in another order."""
    monkeypatch.setattr(feature_maps, "BATCH_IMAGES", 4)
    extract, computed = Extractor.extract, set[int]()

    def note_size(extractor: Extractor, images: np.ndarray) -> jax.Array:
        maps = extract(extractor, images)
        computed.update(each.data.shape[0] for each in maps.addressable_shards)
        return maps

    monkeypatch.setattr(Extractor, "extract", note_size)
    stored = []
    for devices in (1, 2, 4):
        shutil.rmtree(copied / "features")
        setup = assemble(made.setup.cfg, made.setup.data, jax.devices()[:devices])
        setup = dataclasses.replace(setup, cfg=configure(copied))
        stored.append(contents(store_maps(setup, made.variables, log=quiet)))
    assert stored[0] == stored[1] == stored[2]
    assert sum(name.endswith(".npy") for name in stored[0]) == 9 + 1
    assert computed == {4}


def shard_of(maps: FeatureMaps, data: Path) -> Path:
    folder = data / "features" / maps.folder.name
    return next(folder.glob("*.npy"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_file_is_named_and_computed_again_only_if_asked(
    made: Made, copied: Path, damage: Any
) -> None:
    shard = shard_of(made.maps.training, copied)
    whole = shard.read_bytes()
    damage(shard)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"{shard.name} is .*features --repair"):
            store(made, copied)
    store(made, copied, repair=True)
    assert shard.read_bytes() == whole


def test_each_origin_has_a_folder_and_a_foreign_one_is_refused_by_name(
    made: Made, copied: Path
) -> None:
    host = copy_to_host(made.variables)
    name = next(each for each in host if "/backbone/" in each)
    others = {**host, name: host[name] + 1}

    def describe(*fields: str, leaves: Leaves = host) -> StoredMaps:
        return describe_maps(assemble(configure(copied, *fields), made.setup.data), leaves)

    mine, foreign = describe().training, describe(leaves=others).training
    found = [
        *(each for leaves in (host, others) for each in describe(leaves=leaves)),
        *describe("data.feature_views=5"),
        *describe("data.brightness=0.3"),
        *describe("data.resize=antialias"),
        *describe("data.feature_dtype=float16"),
    ]
    # an evaluation view knows neither the number of training views nor their colours
    assert len({each.folder.name for each in found}) == 6 + 4
    own = mine.folder
    manifest = (own / "manifest.json").read_text("utf-8").replace(mine.key, foreign.key)
    one, another = (str(each.origin["weights"]) for each in (mine, foreign))
    (own / "manifest.json").write_text(manifest.replace(one, another), "utf-8")
    for path in own.glob("*.npy"):
        path.rename(own / path.name.replace(mine.key, foreign.key))
    with pytest.raises(CheckpointError, match="it holds other maps: weights"):
        store(made, copied)
    (own / "notes.npy").write_bytes(b"of somebody")
    repaired = store(made, copied, repair=True).training
    assert {path.name.partition("-")[0] for path in own.glob("*.npy")} == {repaired.key}
    assert np.array_equal(
        np.concatenate(repaired.open()), np.concatenate(made.maps.training.open())
    )


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"origin": [], "shards": []}', '{"origin": {}, "shards": [{"file": 1}]}'],
)
def test_a_manifest_that_is_none_is_refused(made: Made, copied: Path, content: str) -> None:
    folder = copied / "features" / made.maps.training.folder.name
    (folder / "manifest.json").write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=r"manifest\.json is not readable|other maps"):
        store(made, copied)


def test_maps_that_another_process_computes_are_in_use(made: Made, copied: Path) -> None:
    shutil.rmtree(copied / "features")
    folder = copied / "features" / made.maps.training.folder.name
    with files.locked(folder), pytest.raises(InUse, match="has computed these maps"):
        store(made, copied)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (("optim.frozen=()",), "optim.frozen=.*set optim.frozen=.'backbone',."),
        (("model.norm=train",), "model.norm=train"),
        (("train.mixup=0.2", "pose.weight=0.0"), "train.mixup=0.2"),
        (("data.workers=1",), "data.workers=1"),
        (("data.feature_views=2", "data.brightness=0.2"), "data.brightness=0.2.*feature_views=6"),
        (("data.feature_views=2", "data.brightness=0.0", "data.preprocessing=modern"), "modern"),
        (("data.feature_views=1", "data.flip=false", "data.erasing=0.5"), "erasing|brightness"),
    ],
)
def test_what_would_change_the_maps_is_refused(
    made: Made, fields: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        configure(made.data, *fields)


def test_maps_that_do_not_fit_are_refused_before_anything_is_written(
    made: Made, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "features")
    needed = sum(each.rows * each.row_type.itemsize for each in made.maps)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, needed - 1))
    with pytest.raises(CannotWrite, match=r"data\.cache=features needs"):
        store(made, copied)
    assert not (copied / "features").exists()


def test_a_full_disk_keeps_the_finished_files(
    made: Made, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_maps, "BATCH_IMAGES", 16)
    shutil.rmtree(copied / "features")
    synced = os.fsync

    def fill_disk(handle: int) -> None:
        if len(list((copied / "features").rglob("*.npy"))) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(handle)

    monkeypatch.setattr(os, "fsync", fill_disk)
    with pytest.raises(CannotWrite, match="no room"):
        store(made, copied)
    kept = {path.name: path.stat().st_mtime_ns for path in (copied / "features").rglob("*.npy")}
    assert len(kept) == 2
    monkeypatch.undo()
    monkeypatch.setattr(feature_maps, "BATCH_IMAGES", 16)
    store(made, copied)
    times = {path.name: path.stat().st_mtime_ns for path in (copied / "features").rglob("*.npy")}
    assert kept.items() <= times.items()
