"""States are saved in the background, restored to the bit on any mesh, and the best is kept."""

import dataclasses
import gc
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.core.errors import CannotWrite, CheckpointError
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.checkpoint_folders import find_best, survey
from gap_jax.runtime.digests import copy_to_host, name_leaves
from tests.support.saved_states import (
    SlowDisk,
    State,
    abstract,
    assert_same,
    fail_to_save,
    make_state,
    plan_fault,
    refuse_warning,
    resume,
    save_steps,
    spread,
)

ROOT = Path(__file__).parents[2]
METADATA = {
    "config": {"model": {"T": 3, "widths": [8, 4]}},
    "classes": ["пляж", "golf"],
    "preprocessing": "v1",
    "metrics": {"mAP": 0.25},
}


def make_mesh(*shape: int) -> jax.sharding.Mesh:
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return jax.sharding.Mesh(devices, ("data", "fsdp")[: len(shape)])


def test_state_and_metadata_are_restored_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = make_state(4)
    with Checkpoints(Path("runs/x"), warn=refuse_warning) as checkpoints:
        assert checkpoints.resume(abstract(state)) is None
        checkpoints.save(4, state, METADATA)
        checkpoints.finish(4)
        assert list(checkpoints.survey().good) == [4]
    with Checkpoints(tmp_path / "runs/x", warn=refuse_warning) as checkpoints:
        assert checkpoints.find(4).run == METADATA
        restored = checkpoints.resume(abstract(state))
        assert restored and restored.step == 4 and restored.metadata == METADATA
        assert_same(restored.state, state)
        checkpoints.save(4, state, METADATA)  # already there: a run stopped before its first step
        checkpoints.finish(4)
        learned = {
            **METADATA,
            "metrics": {"mAP": 0.75},
        }  # by an evaluation that a stop had prevented
        checkpoints.save(4, state, learned)
        checkpoints.finish(4)
        assert checkpoints.find(4).run == learned and find_best(checkpoints.survey().good) == 4
        assert_same(checkpoints.load(4, abstract(state)).state, state)
    assert sorted(path.name for path in (tmp_path / "runs/x").iterdir()) == ["4"]


def test_plain_orbax_opens_a_checkpoint_as_documented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_steps(tmp_path, 2, 4)
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    (block,) = re.findall(r"^```text\n(import orbax.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert block.count("\n") == 5
    program = tmp_path / "open.py"
    program.write_text(block.replace("/path/to/RUN/checkpoints", str(tmp_path)), "utf-8")
    names = runpy.run_path(str(program))
    expected = name_leaves(make_state(4))
    assert names["restored"].state.keys() == expected.keys()
    for name, leaf in expected.items():
        assert_same(names["restored"].state[name], leaf)
    assert "{'mAP': 0.25}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("saved", [(), (8,), (4, 2)], ids=str)
def test_state_moves_between_meshes(tmp_path: Path, saved: tuple[int, ...]) -> None:
    state = make_state(3)
    save_steps(tmp_path, 1)
    with Checkpoints(tmp_path, warn=refuse_warning) as checkpoints:
        checkpoints.save(3, spread(state, make_mesh(*saved)) if saved else state, {})
        checkpoints.finish(3)
        for mesh in (make_mesh(8), make_mesh(1), make_mesh(4, 2)):
            target = spread(make_state(0), mesh)
            found = checkpoints.load(3, abstract(target)).state
            assert_same(found, state)
            shardings = jax.tree.map(lambda leaf: leaf.sharding, (found, target))
            assert jax.tree.leaves(shardings[0]) == jax.tree.leaves(shardings[1])


def test_save_in_the_background_ignores_later_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    update = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    said: list[str] = []
    with Checkpoints(tmp_path, warn=said.append) as checkpoints:
        state = make_state(1)
        checkpoints.save(1, state, {})
        assert disk.began.wait(30)
        checkpoints.check()
        assert list(checkpoints.survey().good) == []
        state = jax.block_until_ready(update(state))
        disk.release()
        checkpoints.save(2, state, {})
        assert list(checkpoints.survey().good) == [1]  # never two in flight
        checkpoints.finish(2)
        assert_same(checkpoints.load(1, abstract(make_state(0))).state, make_state(1))
        assert_same(checkpoints.load(2, abstract(make_state(0))).state, state)
    assert said == ["checkpoint 1 is still being written, and training waits for it"]


def test_host_copy_does_not_share_device_memory() -> None:
    state = make_state(1)
    copies = copy_to_host(state)
    for name, leaf in name_leaves(state).items():
        assert not np.shares_memory(copies[name], np.asarray(leaf)), name


def test_closing_waits_for_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    with (
        pytest.raises(KeyboardInterrupt),
        Checkpoints(tmp_path, warn=refuse_warning) as checkpoints,
    ):
        checkpoints.save(1, make_state(1), {})
        assert disk.began.wait(30)
        disk.release()
        raise KeyboardInterrupt
    assert resume(tmp_path) == (1, [])


@pytest.mark.slow
def test_saves_leave_nothing_in_memory(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, keep=1)
    gc.collect()
    before = len(gc.get_objects())
    save_steps(tmp_path, *range(2, 12), keep=1)
    gc.collect()
    leaked = len(gc.get_objects()) - before
    assert leaked < 500, "TensorStore keeps 24 small lists of each save, whatever its size"


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    scores = {1: (0.9, 0.6), 2: (0.5, 0.9), 4: (0.9, 0.7), 6: (0.9, 0.7), 8: None, 10: (0.1, None),
              12: (0.2, 0.3)}  # fmt: skip
    with Checkpoints(tmp_path, warn=refuse_warning, keep=2) as checkpoints:
        assert find_best(checkpoints.survey().good) is None
        for step, score in scores.items():
            measured = {} if score is None else dict(zip(("mAP", "accuracy"), score, strict=True))
            metrics = {"metrics": measured}
            checkpoints.save(step, make_state(step), metrics)
            checkpoints.wait()
        checkpoints.finish(12)
        assert list(checkpoints.survey().good) == [4, 10, 12]
        assert find_best(checkpoints.survey().good) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "12", "4"]


def test_linked_checkpoint_loses_its_link_only(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    save_steps(folder, 2)
    shutil.copytree(folder / "2", elsewhere / "2")
    shutil.rmtree(folder / "2")
    (folder / "2").symlink_to(elsewhere / "2")
    assert resume(folder) == (2, [])
    with Checkpoints(folder, warn=refuse_warning, keep=1) as checkpoints:
        checkpoints.save(4, make_state(4), {"metrics": {"mAP": 0.9}})
        checkpoints.finish(4)
    assert [path.name for path in folder.iterdir()] == ["4"]
    assert resume(elsewhere) == (2, [])


def test_failed_save_deletes_no_earlier_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 2)
    fail_to_save(tmp_path, 4, monkeypatch)
    assert resume(tmp_path) == (2, [])


@pytest.mark.parametrize("point", ["checkpoint.begin", "files.before_rename"])
def test_full_disk_ends_the_run_and_keeps_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    save_steps(tmp_path, 2)
    plan_fault(monkeypatch, f"{point}:enospc")
    said: list[str] = []
    with (
        pytest.raises(CannotWrite, match=r"no room .* MiB free.*takes up to 0\.\d MiB, .* intact"),
        Checkpoints(tmp_path, warn=said.append) as checkpoints,
    ):
        checkpoints.save(4, make_state(4), {})
        with pytest.raises(CannotWrite):
            checkpoints.wait()
        for _ in range(2):  # it is not forgotten once it has been said
            with pytest.raises(CannotWrite):
                checkpoints.check()
            with pytest.raises(CannotWrite):
                checkpoints.finish(4)
        checkpoints.save(6, make_state(6), {})
    assert said == []
    assert resume(tmp_path) == (2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2"]


def test_failed_save_is_a_warning_after_another_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_fault(monkeypatch, "checkpoint.before_commit:enospc")
    said: list[str] = []
    with (
        pytest.raises(ZeroDivisionError),
        Checkpoints(tmp_path, warn=said.append) as checkpoints,
    ):
        checkpoints.save(4, make_state(4), {})
        raise ZeroDivisionError
    assert len(said) == 1 and "no room to write" in said[0]


def test_step_is_never_overwritten(tmp_path: Path) -> None:
    save_steps(tmp_path, 4)
    with (
        pytest.raises(ValueError, match="Checkpoint for step 4 already exists"),
        Checkpoints(tmp_path, warn=refuse_warning) as checkpoints,
    ):
        checkpoints.save(4, make_state(9), {})
    assert resume(tmp_path) == (4, [])


def test_metadata_are_json(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, warn=refuse_warning) as checkpoints:
        with pytest.raises(ValueError, match="not JSON compliant"):
            checkpoints.save(1, make_state(1), {"metrics": {"mAP": float("nan")}})
        checkpoints.save(1, make_state(1), {"a": {10: (1, 2), 9: None}})
        checkpoints.finish(1)
        assert checkpoints.find(1).run == {"a": {"10": [1, 2], "9": None}}


def change_dtype(state: State) -> State:
    return dataclasses.replace(state, step=state.step.astype(jnp.int16))


def change_shape(state: State) -> State:
    return dataclasses.replace(
        state, params={**state.params, "head": {"kernel": jnp.zeros((32, 9))}}
    )


def add_leaf(state: State) -> State:
    return dataclasses.replace(state, params={**state.params, "gate": jnp.zeros(3)})


def drop_ema(state: State) -> State:
    return dataclasses.replace(state, ema={})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_dtype, "step is int32[] there and int16[] here"),
        (change_shape, "params/head/kernel is float32[32, 8] there and float32[32, 9] here"),
        (add_leaf, "params/gate is absent there and float32[3] here"),
        (drop_ema, "ema/head/kernel is float32[32, 8] there and absent here, ema/stem/kernel"),
    ],
)
def test_state_of_another_model_is_refused_by_name(
    tmp_path: Path, change: Callable[[State], State], said: str
) -> None:
    save_steps(tmp_path, 2, 4)
    with Checkpoints(tmp_path, warn=refuse_warning) as checkpoints:
        for restore in (checkpoints.resume, lambda target: checkpoints.load(2, target)):
            with pytest.raises(CheckpointError) as refusal:
                restore(abstract(change(make_state(0))))
            assert said in str(refusal.value) and refusal.value.exit_code == 66
    assert resume(tmp_path) == (4, [])


def test_checkpoint_without_metadata_is_unusable(tmp_path: Path) -> None:
    save_steps(tmp_path, 2)
    shutil.rmtree(tmp_path / "2" / "metadata")
    assert survey(tmp_path).unusable.keys() == {2}
