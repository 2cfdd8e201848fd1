"""A small training state, the folders it is saved in, and what two of them must have in common."""

import threading
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.core import faults
from gap_jax.runtime import checkpoint_folders, run_folder
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.checkpoint_folders import AnyPath
from gap_jax.runtime.run_folder import RunFolder


class Counters(NamedTuple):
    """Updates skipped in a row and in all."""

    in_row: jax.Array
    total: jax.Array


@flax.struct.dataclass
class State:
    """What a run holds, in little."""

    step: jax.Array
    params: dict[str, Any]
    opt_state: Any
    ema: dict[str, Any]
    counters: Counters


def _describe_state() -> State:
    params = {
        "stem": {"kernel": jnp.zeros((64, 32)), "scale": jnp.zeros(16, jnp.bfloat16)},
        "head": {"kernel": jnp.zeros((32, 8))},
    }
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    count = jnp.int32(0)
    return State(count, params, optimiser.init(params), params, Counters(count, count))


FORMS = jax.eval_shape(_describe_state)


def make_state(step: int) -> State:
    """A state whose every leaf depends on the step; numpy makes it, as nothing compiles then."""
    rng = np.random.default_rng(step)

    def fill(form: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.normal(scale=1000, size=form.shape).astype(form.dtype))

    return jax.tree.map(fill, FORMS)


def abstract(state: State) -> State:
    """Forms and shardings without values."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def spread(state: State, mesh: jax.sharding.Mesh) -> State:
    """The same state with every matrix split over the mesh's last axis."""
    axis = mesh.axis_names[-1]

    def put(leaf: jax.Array) -> jax.Array:
        spec = PartitionSpec(axis) if leaf.ndim == 2 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(put, state)


def assert_same(found: Any, expected: Any) -> None:
    """Same structure, forms and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def refuse_warning(text: str) -> None:
    """A `warn` for where nothing may be said."""
    raise AssertionError(text)


def save_steps(folder: AnyPath, *numbers: int, **options: Any) -> None:
    """Saves the states after these steps."""
    with Checkpoints(folder, warn=refuse_warning, **options) as checkpoints:
        for number in numbers:
            checkpoints.save(number, make_state(number), {"metrics": {"mAP": 1 / number}})
            checkpoints.wait()


def finish(run: RunFolder, step: int) -> None:
    """Leaves in the run's folder what a run does that ends after `step` steps."""
    save_steps(run.checkpoints, step, run_id=run_folder.load_record(run)["run_id"])
    run_folder.complete(run, step)


def fail_to_save(folder: AnyPath, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves a step that fails when all of it is written, just before Orbax commits it."""
    plan_fault(monkeypatch, "checkpoint.before_commit:raise")
    with (
        pytest.raises(RuntimeError, match="before_commit"),
        Checkpoints(folder, warn=refuse_warning, keep=1) as checkpoints,
    ):
        checkpoints.save(step, make_state(step), {})


def resume(folder: Path) -> tuple[int, list[str]]:
    """The step that a new start goes on from, its state checked, and what was said."""
    said: list[str] = []
    with Checkpoints(folder, warn=said.append) as checkpoints:
        restored = checkpoints.resume(abstract(make_state(0)))
    if restored is None:
        return 0, said
    assert_same(restored.state, make_state(restored.step))
    return restored.step, said


def plan_fault(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    """Lets this process fail at a named point, counted from now."""
    faults._passages.clear()
    monkeypatch.setenv("GAP_JAX_FAULTS", plan)


class SlowDisk:
    """Lets a save begin and holds it there until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = threading.Event()
        self._may_write = threading.Event()
        self._digest = checkpoint_folders.digest_files
        self._in_flight = 0
        monkeypatch.setattr(checkpoint_folders, "digest_files", self._wait)

    def release(self) -> None:
        """Lets this and every later save be written."""
        self._may_write.set()

    def _wait(self, path: Path) -> dict[str, str]:
        self._in_flight += 1
        assert self._in_flight == 1, "two saves at once"
        self.began.set()
        assert self._may_write.wait(30)
        digests = self._digest(path)
        self._in_flight -= 1
        return digests
