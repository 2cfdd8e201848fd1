"""Trains every pooling for twenty steps on one batch, and checks that it learns.

    python -m tests.campaigns.learnability [--only NAME]      make learnability

A variant learns if the loss of the classes falls by 30 % and every parameter has a gradient: in the
first step, or in the second with model.gate_init=one, as the layers below a zero kernel get no
gradient in the first. Initialisation, optimiser and step are those of a run. The table is written
to docs/learnability.md; the exit code is 1 if a variant does not learn and has no excuse.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from data_pipelines.example import HostBatch
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning import sharding, steps
from gap_jax.learning.optim import name_path
from gap_jax.learning.setup import describe_state
from gap_jax.learning.state import split_network, start_state
from gap_jax.models.build import build
from tests.campaigns.table import describe, replace_marked
from tests.support.small_networks import UNOPTIMISED
from tests.support.tiny_training import ROOT

PROGRAM = "tests.campaigns.learnability"
PAGE = ROOT / "docs" / "learnability.md"
STEPS, LONGER, CUT = 20, 200, 0.3
CLASSES, IMAGES, FRAMES, SIDE_PX, CELLS = 8, 16, 3, 32, 4
FIELDS: Mapping[str, Any] = {
    "model.backbone": "resnet50", "model.stage": 1, "data.image_size_px": SIDE_PX,
    "data.short_side_px": SIDE_PX, "model.dropout": 0.0,
    "pose.hidden": (32,), "train.batch_size": IMAGES, "eval.batch_size": IMAGES,
    "train.steps": STEPS, "optim.name": "adamw", "optim.learning_rate": 1e-3,
    "optim.schedule": "constant", "optim.warmup_steps": 0, "optim.clip_norm": 0.0,
}  # fmt: skip
WIDTHS = (32, 16, 8)
BOTH = ("paper", "one")


class Variant(NamedTuple):
    """A pooling: the method in the config, and its fields.

    `excuse` gives the reason if it is known not to learn in so few steps.
    """

    name: str
    method: str
    fields: Mapping[str, Any]
    gate: str
    excuse: str = ""


class Course(NamedTuple):
    """The losses before each step and after the last, and the gradients' norms of each step."""

    losses: Sequence[float]
    skipped: int
    norms: Sequence[Mapping[str, float]]

    @property
    def cut(self) -> float:
        """Returns the relative decrease of the loss."""
        return 1 - self.losses[-1] / self.losses[0]

    @property
    def learned_by(self) -> int:
        """Returns the first step after which the loss has fallen enough; 0 if there is none."""
        enough = (1 - CUT) * self.losses[0]
        return next((step for step, loss in enumerate(self.losses) if loss <= enough), 0)

    def without_gradient(self, step: int) -> list[str]:
        """Lists the parameters whose gradient is zero at a step, counted from 1."""
        return [name for name, norm in self.norms[step - 1].items() if norm == 0]

    def fault(self, gate: str) -> str:
        """Describes a failure to learn; empty if the variant learns."""
        if self.skipped:
            return f"{self.skipped} steps had no finite gradient"
        if idle := self.without_gradient(2 if gate == "one" else 1):
            return f"{len(idle)} parameters have no gradient, {idle[0]} among them"
        return "" if self.cut >= CUT else f"the loss falls by {self.cut:.1%}"


def list_variants() -> Iterator[Variant]:
    """Yields every pooling with each of its initialisations."""
    few = "twenty steps move a weight by 0.02 at most, and "
    dead = "a map that becomes negative everywhere stays so; take `gate_init=one`"
    small = few + "three factors of N(0, 1e-3) multiply"
    both: list[tuple[str, str, Mapping[str, Any], Mapping[str, str]]] = [
        ("attention", "attention", {}, {}),
        ("rank 3, independent", "attention", {"model.rank": 3}, {}),
        ("rank 3, chained", "attention", {"model.rank": 3, "model.rank_form": "chained"}, {}),
        ("per class", "attention", {"model.per_class": True}, {}),
        ("per class, rank 2", "attention", {"model.per_class": True, "model.rank": 2}, {}),
        ("attention, relu", "attention", {"model.saliency_activation": "relu"}, {"paper": dead}),
        ("attention, softmax", "attention", {"model.saliency_activation": "softmax"}, {}),
        ("pose's hidden layer", "attention_pose", {}, {"paper": small}),
        ("clips, mean", "attention", {"model.frames": FRAMES}, {}),
        (
            "clips, attention over frames", "attention",
            {"model.frames": FRAMES, "model.temporal": "attention"}, {},
        ),
        *(
            (f"gap, T={T}", "gap", {"model.T": T, "model.widths": WIDTHS[:T]}, {})
            for T in range(4)
        ),
        (
            "gap, T=2, rank 3, chained", "gap",
            {"model.T": 2, "model.widths": WIDTHS[:2], "model.rank": 3,
             "model.rank_form": "chained"},
            {},
        ),
        (
            "gap, T=2, relu", "gap",
            {"model.T": 2, "model.widths": WIDTHS[:2], "model.saliency_activation": "relu"},
            {"paper": dead},
        ),
        (
            "gap, T=2, softmax", "gap",
            {"model.T": 2, "model.widths": WIDTHS[:2], "model.saliency_activation": "softmax"},
            {},
        ),
        (
            "gap, T=2, pose's hidden layer", "gap_pose",
            {"model.T": 2, "model.widths": WIDTHS[:2], "model.saliency_input": "pose"},
            {"paper": small},
        ),
    ]  # fmt: skip
    for (name, method, fields, excuses), gate in itertools.product(both, BOTH):
        yield Variant(name, method, fields, gate, excuses.get(gate, ""))
    for T in range(1, 4):
        fields = {"model.T": T, "model.widths": WIDTHS[:T], "model.space": "weight"}
        yield Variant(f"gap, T={T}, weight space", "gap", fields, "paper")
    for method in ("mean", "max", "second_order", "compact_bilinear", "pose_parts"):
        yield Variant(method, method, {}, "paper")
    fields = {"model.sketch_normalisation": "signed_sqrt", "model.sketch_features": 8192}
    yield Variant("compact_bilinear, signed_sqrt", "compact_bilinear", fields, "paper")


def configure(variant: Variant) -> Config:
    """Returns the demo's recipe at test sizes, without dropout or schedule."""
    values = {**FIELDS, "model.gate_init": variant.gate, **variant.fields}
    words = [f"--config.{name}={value}" for name, value in values.items()]
    return read_config(f"configs/gap_pose.py:{variant.method},demo", words)


def train(cfg: Config, count: int = STEPS) -> Course:
    """Trains for `count` steps on one batch."""
    model, variables = split_network(build(cfg, CLASSES, cfg.train.seed))
    optimizer, _ = describe_state(cfg, variables)
    noting = note_gradients(optimizer)
    mesh = sharding.make_mesh(cfg, jax.devices()[:1])
    step = jax.jit(steps.build_train_step(cfg, model, noting, mesh), compiler_options=UNOPTIMISED)
    batch = sharding.globalise([draw_batch(cfg.model.frames)], mesh)
    at = start_state(variables, noting, averaged=False)
    losses: list[float] = []
    norms: list[Mapping[str, float]] = []
    for _ in range(count + 1):
        at, metrics = step(at, batch)
        losses.append(float(metrics.compute()["loss_action"]))
        leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(at.opt_state[1]))
        norms.append({name_path(path): float(np.linalg.norm(leaf)) for path, leaf in leaves})
    return Course(losses, int(at.skipped), norms)


def note_gradients(
    optimizer: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Adds the last gradients to the state of an optimiser."""

    def init(params: PyTree) -> PyTree:
        return optimizer.init(params), optax.tree.zeros_like(params)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        moves, held = optimizer.update(updates, state[0], params, **extra)
        return moves, (held, updates)

    return optax.GradientTransformationExtraArgs(init, update)


def draw_batch(frames: int = 1) -> HostBatch:
    """Draws a noisy coarse pattern for each class, with one person; clips become darker."""
    rng = np.random.default_rng(0)
    labels = np.arange(IMAGES) % CLASSES
    patterns = rng.uniform(0, 255, (CLASSES, CELLS, CELLS, 3))
    coarse = patterns[labels] + rng.normal(scale=40, size=(IMAGES, CELLS, CELLS, 3))
    side = SIDE_PX // CELLS
    keypoints = np.full((IMAGES, 1, 16, 3), 2, np.float32)
    keypoints[..., :2] = rng.uniform(0, SIDE_PX, (IMAGES, 1, 16, 2))
    image = coarse.repeat(side, 1).repeat(side, 2).clip(0, 255)
    if frames > 1:
        image = image[:, None] * np.linspace(1, 0.5, frames)[:, None, None, None]
    return HostBatch(
        image=image.astype(np.uint8),
        keypoints=keypoints,
        disc_radius=np.full(IMAGES, 4, np.float32),
        label=labels.astype(np.int32),
        weight=np.ones(IMAGES, np.float32),
        id=np.arange(IMAGES, dtype=np.int64),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains every variant and writes the table."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__)
    parser.add_argument(
        "--only", default="", help="prefix of the names of variants; writes no table"
    )
    options = parser.parse_args(arguments)
    start, rows, failed = time.monotonic(), list[str](), list[str]()
    for variant in list_variants():
        if not variant.name.startswith(options.only):
            continue
        course = train(configure(variant))
        fault = course.fault(variant.gate)
        rows.append(_row(variant, course, fault))
        print(rows[-1], flush=True)
        if fault and not variant.excuse:
            failed.append(f"{variant.name}, {variant.gate}: {fault}")
    if not options.only:
        description = describe(f"python -m {PROGRAM}", time.monotonic() - start)
        head = ("| pooling | `gate_init` | loss | cut | learns |", "|---|---|---|---|---|")
        replace_marked(PAGE, "learnability", "\n".join([description, "", *head, *rows]))
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


def _row(variant: Variant, course: Course, fault: str) -> str:
    verdict = fault or "yes"
    if fault and variant.excuse:
        step = train(configure(variant), LONGER).learned_by
        later = f"by {CUT:.0%} after {step}" if step else f"never by {CUT:.0%} in {LONGER}"
        verdict = f"{fault}, {later}: {variant.excuse}"
    loss = f"{course.losses[0]:.3f} to {course.losses[-1]:.3f}"
    return f"| {variant.name} | {variant.gate} | {loss} | {course.cut:.1%} | {verdict} |"


if __name__ == "__main__":
    sys.exit(main())
