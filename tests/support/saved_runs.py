"""Runs as training leaves them, their parameters made by numpy: nothing is trained or compiled."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.manifest import Manifest
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning.setup import describe_state
from gap_jax.learning.state import Model, TrainState, Variables, describe_model
from gap_jax.runtime import run_folder
from gap_jax.runtime.checkpoint import Checkpoints
from gap_jax.runtime.run_folder import RunFolder
from gap_jax.weights.native import name_arrays, replace_arrays
from tests.support.tiny_data import CLASSES, SIZES, prepare_tiny_people

CONFIG = Path(__file__).parents[2] / "configs" / "gap_pose.py"
SMALL = (
    "data.image_size_px=32", "data.short_side_px=36", "train.batch_size=8", "eval.batch_size=8",
    "pose.hidden=(6,)",
)  # fmt: skip


def tiny_config(data: Path, *overrides: str, parts: str = "demo") -> Config:
    """The demo's config, shrunk, for the data in a folder."""
    words = [f"--config.{each}" for each in (*SMALL, f"data.root={data}", *overrides)]
    return read_config(f"{CONFIG}:{parts}", words)


def fill(shapes: Any, seed: int) -> Any:
    """Random numbers for every leaf; variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.full(leaf.shape, seed, leaf.dtype)
        scale = 1 / max(1, np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(rng.normal(scale=scale, size=leaf.shape).astype(leaf.dtype))

    return jax.tree.map(draw, shapes)


def fill_variables(shapes: Variables, seed: int) -> Variables:
    """Random variables such as training could have made."""
    variables = fill(shapes, seed)
    positive = {
        name: abs(leaf) + 0.5
        for name, leaf in name_arrays(variables).items()
        if name.endswith(("var", "gamma"))
    }
    return replace_arrays(variables, positive)


def make_state(cfg: Config, classes: int, step: int) -> TrainState:
    """A state whose every number depends on the step, the average too."""
    _, target = describe_state(cfg, describe_model(cfg, classes)[1])
    state = fill(target, step)
    ema = fill_variables(target.ema, step + 1000) if target.ema else ()
    return state._replace(variables=fill_variables(target.variables, step), ema=ema)


def save_run(
    root: Path, cfg: Config, data: Manifest, steps: Mapping[int, float | None]
) -> dict[int, TrainState]:
    """A run with a checkpoint at each step, evaluated where a step has an mAP."""
    opening = run_folder.enter(root, cfg, data, {"command": "/bin/python -m gap_jax.main --x=1"})
    run = RunFolder(root)
    states = {step: make_state(cfg, len(data.classes), step) for step in steps}
    saving = Checkpoints(run.checkpoints, warn=print, keep=len(steps), run_id=opening.run_id)
    with saving as checkpoints:
        for step, score in steps.items():
            metadata = {
                "config": dataclasses.asdict(cfg),
                "classes": list(data.classes),
                "fingerprint": data.fingerprint,
                "label_kind": data.label_kind,
                "metrics": {} if score is None else {"mAP": score},
            }
            checkpoints.save(step, states[step], metadata)
            checkpoints.wait()
    return states


def prepare_run(
    folder: Path,
    *overrides: str,
    steps: Mapping[int, float | None],
    sizes: Mapping[str, int] = SIZES,
) -> tuple[Path, dict[int, TrainState]]:
    """Tiny prepared people, and a run on them of a network with two layers below its pooling."""
    data = prepare_tiny_people(folder / "data", sizes=sizes)
    cfg = tiny_config(folder / "data", "model.stage=2", *overrides)
    return folder / "run", save_run(folder / "run", cfg, data, steps)


def model_of(run: Path) -> Model:
    """The network of a run on tiny people, as it trains."""
    return describe_model(run_folder.load_config(RunFolder(run)), len(CLASSES))[0]
