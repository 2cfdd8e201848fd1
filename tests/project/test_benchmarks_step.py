"""The step, head and GPU benchmarks on tiny networks, and refused comparisons."""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import alternating, gpu, head, jax_side, sides, step
from benchmarks.alternating import RowFailed
from benchmarks.sides import TINY, Task
from gap_jax.models.backbones.resnet import BLOCKS

EVALUATED = Task(mode="eval", **TINY)


@contextlib.contextmanager
def serving_in_thread(serve: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    ours, theirs = Pipe()
    thread = threading.Thread(target=serve, args=(*arguments, theirs))
    thread.start()
    try:
        yield ours
    finally:
        ours.send(False)
        thread.join()


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternating, "serving", serving_in_thread)
    monkeypatch.setattr(step, "serving", serving_in_thread)
    for module in (alternating, sides):
        monkeypatch.setattr(module, "pin", lambda: None)


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    absent = ("torch", "timm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else found(n))


def run(*arguments: str) -> None:
    options = command.parse(list(arguments))
    options.run(options)


@pytest.mark.usefixtures("in_threads", "without_torch")
def test_step_without_torch_has_a_skipped_row_and_no_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "step.json"
    arguments = ("--tiny", "--pairs", "2", "--rows", "torch eager", "--json", str(file))
    run("step", "--mode", "eval", *arguments)
    printed = capsys.readouterr().out
    assert "torch eager                 skipped: torch is not installed" in printed
    assert "mean : torch eager          skipped" in printed
    assert "float64: not compared" in printed
    numbers = json.loads(file.read_text())
    assert len(numbers["rounds"]["mean"]) == 2 and min(numbers["rounds"]["mean"]) > 0
    assert numbers["skipped"] == {"torch eager": "torch is not installed"}


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads")
def test_rows_are_compared_before_they_are_measured() -> None:
    equal = dataclasses.replace(EVALUATED, one_by_one="conv", folded=False)
    result = step.measure({"mean": EVALUATED, "torch eager": equal}, turns=1)
    assert 0 < result.differences["logits"] < 1e-5
    assert "logits" in step.render(result)
    unequal = dataclasses.replace(EVALUATED, classes=7)
    with pytest.raises(RowFailed, match=r"shapes \(2, 5\) and \(2, 7\) differ"):
        step.measure({"mean": EVALUATED, "torch eager": unequal}, turns=1)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.usefixtures("in_threads")
@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0"])
def test_pytorch_takes_the_same_steps(backbone: str) -> None:
    task = Task(**{**TINY, "backbone": backbone})
    result = step.measure(step.plan(task, ["torch eager"]), turns=1)
    assert list(result.rounds) == ["mean", "torch eager"]
    assert set(result.differences) == {"logits", "losses"}
    assert max(result.differences.values()) < 1e-5


@pytest.mark.parametrize("theirs", [[1.0, 2.003], [1.0, float("nan")], [1.0, 2.0, 3.0]])
def test_unequal_answers_are_refused(theirs: list[float]) -> None:
    with pytest.raises(RowFailed, match="losses"):
        sides.compare({"losses": [1.0, 2.0]}, {"losses": theirs}, 1e-3)


def test_answers_within_the_tolerance_return_their_difference() -> None:
    shares = sides.compare({"losses": [1.0, 2.0]}, {"losses": [1.001, 2.0]}, 1e-3)
    assert shares == {"losses": pytest.approx(5e-4)}


@pytest.mark.slow
def test_losses_restart_and_equal_those_of_the_steps(tmp_path: Path) -> None:
    made: Any = jax_side.build(Task(**{**TINY, "backbone": "small"}), tmp_path)
    made.prepare()
    first = made.losses()
    made.time(2)
    assert made.losses() == first
    assert len(set(first)) == sides.LOSSES
    loss = -jax.nn.log_softmax(made.logits())[np.arange(2), sides.draw_batch(EVALUATED)[1]].mean()
    assert first[0] == pytest.approx(float(loss), rel=1e-5)


def test_weights_are_saved_under_torch_names(tmp_path: Path) -> None:
    made: Any = jax_side.build(EVALUATED, tmp_path)
    made.save_weights()
    with np.load(tmp_path / sides.WEIGHTS) as weights:
        shapes = {name: weights[name].shape for name in weights.files}
        kernel = weights["layer1.1.conv2.weight"]
    units = BLOCKS["resnet50"][0]
    assert len(shapes) == 5 * (1 + 3 * units + 1) + 2
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["bn1.running_var"] == shapes["layer1.0.bn1.bias"] == (64,)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer1.0.downsample.1.running_mean"] == (256,)
    assert shapes["fc.weight"] == (5, 256)
    ours = made.variables.params["backbone"]["stages"][0][1]["conv2"]["conv"]["kernel"]
    assert np.array_equal(np.asarray(ours[...])[0, 1, 2], kernel[:, :, 0, 1].T[2])


@pytest.mark.slow
@pytest.mark.usefixtures("in_threads", "without_torch")
def test_gpu_benchmark_prints_each_row_and_continues_after_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(EVALUATED, backbone="resnet99")
    groups = gpu.plan(gpu.Settings(is_tiny=True))
    [evaluated] = [group for group in groups if group.name.startswith("eval")]
    others = {"broken": broken, **evaluated.others}
    monkeypatch.setattr(gpu, "plan", lambda _: [evaluated._replace(others=others)])
    file = tmp_path / "gpu.json"
    run("gpu", "--tiny", "--steps", "1", "--json", str(file))
    lines = {line["row"]: line for line in map(json.loads, file.read_text().splitlines())}
    assert list(lines) == [
        "machine", "peaks", "eval b2: ours", "eval b2: broken", "eval b2: plain eager",
        "eval b2: not folded", "eval b2: 1x1 as conv",
    ]  # fmt: skip
    assert lines["peaks"]["copy_gb_s"] > 0
    assert lines["eval b2: ours"]["images_per_s"] > 0
    assert "resnet99" in lines["eval b2: broken"]["failed"]
    assert lines["eval b2: plain eager"]["skipped"] == "torch is not installed"
    assert lines["eval b2: not folded"]["differences"]["logits"] < 1e-5
    assert len(lines["eval b2: 1x1 as conv"]["times_ours"]) == gpu.TURNS
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in printed] == list(lines)


def test_gpu_benchmark_stops_at_its_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.run(gpu.Settings(is_tiny=True, budget_s=0))
    _, peaks, *groups = capsys.readouterr().out.splitlines()
    assert "failed: the budget of 0 s is spent" in peaks
    assert len(groups) == len(gpu.plan(gpu.Settings(is_tiny=True)))
    assert all(line.endswith("skipped: no time is left") for line in groups)


def test_plan_covers_every_choice_and_each_can_be_built() -> None:
    groups = gpu.plan(gpu.Settings())
    assert [group.name for group in groups] == [
        "train b64", "choices b64", "flags b64", "train b16", "eval b64", "train b128",
    ]  # fmt: skip
    for task in (task for group in groups for task in (group.base, *group.others.values())):
        cfg = jax_side.configure(task)
        assert cfg.train.micro_batch_size == task.batch
        assert cfg.model.dtype == "bfloat16" and cfg.model.norm == task.norm
        assert (task.mode, task.norm if task.mode == "train" else "folded") in gpu.TRAFFIC_GB


@pytest.mark.parametrize("recomputed", ["nothing", "norms"])
def test_norms_are_recomputed_in_the_backward_pass_if_chosen(
    recomputed: Any, tmp_path: Path
) -> None:
    task = dataclasses.replace(EVALUATED, mode="train", recomputed=recomputed)
    made: Any = jax_side.build(task, tmp_path)
    text = made.setup.train_step.lower(made.setup.start(made.variables), made.batch).as_text()
    assert ("optimization_barrier" in text) == (recomputed == "norms")


@pytest.mark.parametrize(("one_by_one", "convolutions"), [("dot", 1 + 3), ("conv", 1 + 3 * 3 + 1)])
def test_1x1_convolutions_are_products_or_convolutions(
    one_by_one: Any, convolutions: int, tmp_path: Path
) -> None:
    task = dataclasses.replace(EVALUATED, one_by_one=one_by_one)
    made: Any = jax_side.build(task, tmp_path)
    text = made.eval_step.lower(made.evaluated, made.batch).as_text()
    assert text.count("stablehlo.convolution(") == convolutions


@pytest.mark.usefixtures("in_threads")
def test_head_is_measured_in_both_orders(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "LEAST_S", 1e-9)
    run("head", "--batch", "2", "--side", "3", "--features", "8", "--pairs", "1")
    printed = capsys.readouterr().out
    for order in head.ORDERS:
        assert f"  {order} forward+backward" in printed
    assert "maps forward : pooled forward" in printed


def test_row_that_hangs_or_dies_is_reported_and_ended() -> None:
    start = time.monotonic()
    with (
        pytest.raises(RowFailed, match=r"sleep: no answer within 0 s"),
        alternating.serving(sides.serve, importlib.import_module, "time") as row,
    ):
        sides.ask(row, "sleep", 100, timeout_s=0.2)
    with (
        pytest.raises(RowFailed, match="_exit: its process died"),
        alternating.serving(sides.serve, importlib.import_module, "os") as row,
    ):
        assert sides.ask(row, "getpid") != os.getpid()
        sides.ask(row, "_exit", 1)
    assert time.monotonic() - start < 60
