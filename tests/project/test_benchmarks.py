"""The input benchmark: rows, skipped rows, and the size of its photos."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import input as input_pipeline
from benchmarks import photos, rows
from benchmarks.__main__ import parse
from data_pipelines import manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.decode import decode
from data_pipelines.transforms import View


@pytest.mark.parametrize(("kilobytes", "size"), [(200, (720, 1280)), (500, (1080, 1920))])
def test_photos_have_the_wanted_size(kilobytes: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    data = photos.encode(photos.draw(rng, size[1], size[0]), kilobytes)
    assert abs(len(data) - kilobytes * 1000) < 0.1 * kilobytes * 1000
    assert decode(data).shape == (*size, 3)


def test_same_seed_prepares_the_same_photos(tmp_path: Path) -> None:
    images = []
    for name in ("first", "second"):
        stated = photos.prepare(tmp_path / name, 100, 2, copies=3)
        assert stated == manifest.load(tmp_path / name)
        source = records.open_split(tmp_path / name, "train", stated)
        images.append([source[index]["image"] for index in range(6)])
    assert images[0] == images[1]
    assert images[0][:2] == images[0][2:4]
    assert images[0][0] != images[0][1]


def test_missing_torch_is_listed_as_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows.importlib.util, "find_spec", lambda _: None)
    skipped = {row: rows.reason_to_skip(row) for row in input_pipeline.EVERY}
    assert skipped["torch/0"] == skipped["torch/2"] == "torch is not installed"
    assert not skipped["decode"]
    reasons = {row: reason for row, reason in skipped.items() if reason}
    rounds = {"decode + crop": [4.0, 5.0, 3.0], "loader/0": [4.4, 5.0, 3.6]}
    table = input_pipeline.render([input_pipeline.Result(200, rounds, reasons)]).splitlines()
    assert "  torch/0                     skipped: torch is not installed" in table
    assert "  loader/0 : torch/0          skipped" in table
    assert "  loader/0                     4.400 (3.600 .. 5.000)" in table
    assert "  loader/0 : decode + crop     1.100 (1.000 .. 1.200) <= 1.15" in table


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux's CPU clocks")
def test_cpu_time_includes_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "IDLE_SECONDS", 0.05)
    before = rows.cpu_when_idle()
    child = multiprocessing.get_context("spawn").Process(target=sum, args=(range(10**12),))
    child.start()
    try:
        while rows.cpu_seconds() - before < 0.3:
            time.sleep(0.01)
        assert time.process_time() - before < 0.2
    finally:
        child.kill()
        child.join()
    assert rows.cpu_when_idle() - before < 0.2


@pytest.mark.slow
def test_row_is_measured_in_every_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "STORED", 2)
    file = tmp_path / "numbers.json"
    words = "input --images 16 --pairs 2 --kilobytes 100 --rows loader/0 --json"
    command = parse([*words.split(), str(file)])
    command.run(command)
    [numbers] = json.loads(file.read_text())
    assert numbers["kilobytes"] == 100
    assert [len(values) for values in numbers["rounds"].values()] == [2]
    assert all(0.1 < value < 1000 for value in numbers["rounds"]["loader/0"])


def test_parts_read_decode_and_crop(tmp_path: Path) -> None:
    source = records.open_split(tmp_path, "train", photos.prepare(tmp_path, 100, 2, copies=2))
    crop = rows.part("crop", source, DataConfig())(0)
    assert isinstance(crop, View)
    assert crop.image.shape == (450, 450, 3)
    for row in rows.PARTS:
        assert rows.loop(rows.part(row, source, DataConfig()), 2) > 0
    decoded = rows.part("decode", source, DataConfig())(1)
    np.testing.assert_array_equal(decoded, decode(source[1]["image"]))
