"""The benchmark of stored maps on tiny networks: rows, comparisons, and the times worked out."""

import contextlib
import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import alternating, photos, sides
from benchmarks.alternating import RowFailed
from benchmarks.features import extraction, heads, jax_rows, page
from benchmarks.features.heads import ON_IMAGES, ON_MAPS, TORCH
from benchmarks.features.tasks import HEADS, HeadTask
from benchmarks.sides import TINY, Task
from tests.project.test_benchmarks_step import serving_in_thread

EXTRACTED = Task(mode="eval", batch=8, **TINY)
STEP = HeadTask(backbone="resnet50", stage=1, px=32, batch=8)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


@pytest.fixture(autouse=True)
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternating, "serving", serving_in_thread)
    for module in (alternating, sides, jax_rows):
        monkeypatch.setattr(module, "pin", lambda: None)


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "torch" else found(n))


@pytest.mark.slow
@pytest.mark.usefixtures("without_torch")
def test_command_measures_each_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "DRAWN", 2)
    file = tmp_path / "features.json"
    words = "features --tiny --heads attention --batch 8 --head-batch 8 --records 8 --pairs 1"
    options = command.parse([*words.split(), "--parts", "extraction,heads", "--json", str(file)])
    options.run(options)
    printed = capsys.readouterr().out
    assert "torch eager                 skipped: torch is not installed" in printed
    assert "torch on maps               skipped: torch is not installed" in printed
    assert "extraction : evaluation " in printed
    assert printed.count("maps of 24 images stored in") == 1
    assert "a map of (8, 8, 256) has 32,768 bytes in float16" in printed
    numbers = json.loads(file.read_text())
    assert list(numbers) == ["machine", "extraction resnet50", "head attention"]
    rounds = numbers["head attention"]["rounds"]
    assert set(rounds) == {ON_MAPS, ON_IMAGES}
    assert rounds[ON_MAPS][0] > 0


def test_extracted_maps_are_those_of_the_network(tmp_path: Path) -> None:
    row = jax_rows.build_extraction(EXTRACTED, tmp_path)
    setup = row.setup
    images, _ = sides.draw_batch(EXTRACTED)
    expected = np.asarray(setup.model.extract(row.variables, jax.numpy.asarray(images)))
    assert row.maps().dtype == np.float16
    sides.compare({"maps": expected}, {"maps": row.maps()}, extraction.TOLERANCE)


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_configured_as_named(head: str) -> None:
    cfg = jax_rows.configure(dataclasses.replace(STEP, head=head))
    assert cfg.model.dropout == (0.0 if "without dropout" in head else 0.8)
    assert cfg.model.pooling == head.split()[0]
    assert cfg.optim.freezes_backbone and cfg.data.cache == "features"
    images = jax_rows.configure(dataclasses.replace(STEP, head=head, on_maps=False))
    assert images.model == cfg.model and images.data.cache == "none"


def test_backbones_of_all_heads_are_equal(tmp_path: Path) -> None:
    """Otherwise each head would compute maps of its own."""
    found = []
    for head in ("mean", "attention"):
        task: Any = dataclasses.replace(EXTRACTED, head=head)
        variables = jax_rows.build_extraction(task, tmp_path).variables
        found.append(jax.tree.leaves((variables.params["backbone"], variables.stats)))
    assert all(map(np.array_equal, *found))


def test_times_of_mpii_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our rows alone are measured, at 450 px."""

    def extract(rows: dict[str, Task], turns: int) -> extraction.Result:
        assert list(rows) == [extraction.EXTRACTION] and turns == 3
        task = dataclasses.asdict(rows[extraction.EXTRACTION])
        rounds = {extraction.EXTRACTION: [900.0, 1000.0, 1100.0]}
        return extraction.Result(task, (15, 15, 2048), rounds, {}, {}, {})

    def step(base: HeadTask, names: list[str], *rest: Any) -> list[heads.Result]:
        assert base.px == 450 and rest == (page.MPII_RECORDS, 3, (ON_MAPS,))
        task = dataclasses.asdict(base) | {"head": names[0]}
        return [heads.Result(task, 0, 2, 0, 0, 0, {ON_MAPS: [160.0]}, {}, {})]

    monkeypatch.setattr(extraction, "measure", extract)
    monkeypatch.setattr(heads, "measure_all", step)
    settings = page.Settings(parts=["mpii"], heads=["gap"], turns=3)
    [_, (_, printed, _)] = page.measure(settings)
    assert printed.startswith("MPII with resnet101 at 450 px")
    assert "23,426 maps (8,219 x 2 + 6,988 images) in 6.5 h at 1000 CPU ms" in printed
    assert "21.6 GB" in printed
    assert "gap, 20 epochs: 27 min at 10.00 CPU ms an image" in printed
    assert "every step would add 46 h" in printed
    assert "gap, the paper's 187 epochs: 256 min" in printed


@needs_torch
@pytest.mark.parametrize(
    ("backbone", "stage"), [("resnet50", 1), ("vgg16", 0), ("efficientnet_lite0", 2)]
)
def test_pytorch_computes_the_same_maps(backbone: str, stage: int) -> None:
    base = dataclasses.replace(EXTRACTED, backbone=backbone, stage=stage)
    rows = extraction.plan(base)
    result = extraction.measure({name: rows[name] for name in ("extraction", "torch eager")}, 1)
    assert result.differences["torch eager"] < extraction.TOLERANCE


@needs_torch
@pytest.mark.parametrize("head", ["attention without dropout", "gap 256-128 without dropout"])
def test_pytorch_takes_the_same_steps_on_maps(head: str, tmp_path: Path) -> None:
    photos.prepare(tmp_path / "data", 100, 8, classes=heads.CLASSES)
    task = dataclasses.replace(STEP, head=head, data=tmp_path / "data")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(serving_in_thread(sides.serve, heads.build, task, tmp_path))
        stored = sides.ask(ours, "store")
        sides.ask(ours, "save_head")
        theirs = stack.enter_context(
            serving_in_thread(sides.serve, heads.build_torch, task, tmp_path, stored)
        )
        for row in (ours, theirs):
            sides.ask(row, "prepare")
        losses = [np.asarray(sides.ask(row, "losses", 4)) for row in (ours, theirs)]
        for row in (ours, theirs):
            sides.ask(row, "close")
    assert np.abs(np.diff(losses[0])).min() > 1e-3
    np.testing.assert_allclose(*map(np.diff, losses), rtol=1e-3)


def test_unequal_maps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of another image size stands for a network that differs."""
    other = dataclasses.replace(EXTRACTED, side="plain", px=48)
    monkeypatch.setattr(sides, "reason_to_skip", lambda _: "")
    monkeypatch.setattr(
        extraction, "build", lambda task, folder: jax_rows.build_extraction(task, folder)
    )
    with pytest.raises(RowFailed, match="maps: shapes"):
        extraction.measure({"extraction": EXTRACTED, TORCH: other}, 1)
