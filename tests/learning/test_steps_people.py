"""Training and evaluation steps on batches with people's boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.example import HostBatch, People
from gap_jax import batch as on_device
from gap_jax.config import Config
from gap_jax.flags import read_config
from gap_jax.learning import losses, steps
from gap_jax.learning.setup import Setup, assemble
from gap_jax.learning.sharding import globalise
from gap_jax.learning.state import Variables
from tests.support.small_networks import UNOPTIMISED
from tests.support.step_courses import PEOPLE, begin, draw_batch

IMAGES, SIDE_PX = 4, 16


def configure(method: str, *fields: str) -> Config:
    values = (
        f"data.image_size_px={SIDE_PX}", f"data.short_side_px={SIDE_PX}", "model.stage=1",
        "model.norm=frozen", f"train.batch_size={IMAGES}", "train.accumulate=2",
        f"eval.batch_size={IMAGES}", *fields,
    )  # fmt: skip
    words = [f"--config.{each}" for each in values]
    return read_config(f"configs/gap_pose.py:demo,{method}", words)


CONFIGS = {
    "rstarcnn": (
        "rstarcnn", "data.regions=3", "model.region_side=2", "model.region_widths=(6,5)",
        "model.region_channels=4",
    ),
    "attention": ("attention", "model.regions=people", "model.region_side=2"),
}  # fmt: skip


def add_people(rows: HostBatch, cfg: Config, *, labelled: bool) -> HostBatch:
    """Adds two people to each image; the second is absent in the first one."""
    rng, count = np.random.default_rng(1), len(rows.id)
    corners = np.sort(rng.uniform(0, SIDE_PX, (count, 2, 1 + cfg.data.regions, 2, 2)), axis=3)
    boxes = corners.reshape(count, 2, -1, 4).astype(np.float32)
    boxes[0, 1] = 0
    label = np.full((count, 2), -1, np.int32)
    if labelled:
        label[:, 0] = rng.integers(0, 8, count)
    return rows._replace(people=People(boxes[:, :, 0], boxes[:, :, 1:], label))


def set_up(name: str, *, labelled: bool) -> tuple[Setup, list[HostBatch]]:
    cfg = configure(*CONFIGS[name])
    setup = assemble(cfg, PEOPLE, jax.devices()[:1])
    return setup, [add_people(rows, cfg, labelled=labelled) for rows in draw_batch(0, cfg)]


@pytest.mark.parametrize(("name", "labelled"), [("rstarcnn", True), ("attention", False)])
def test_step_reads_boxes_and_labels_of_people(name: str, labelled: bool) -> None:
    setup, micro_batches = set_up(name, labelled=labelled)
    state, batch = begin(setup), globalise(micro_batches, setup.mesh)
    assert isinstance(batch.people, on_device.People)
    variables = jax.device_get(state.variables)

    @functools.partial(jax.jit, compiler_options=UNOPTIMISED)
    def score(variables: Variables, batch: on_device.Batch) -> list[on_device.Outputs]:
        return [
            setup.model.apply(variables, batch.image[i], people=people)[0]
            for i in range(2)
            for people in (jax.tree.map(lambda leaf, i=i: leaf[i], batch.people),)
        ]

    total = weights = 0.0
    for rows, outputs in zip(micro_batches, score(variables, batch), strict=True):
        each = losses.softmax_cross_entropy(outputs.logits, jnp.asarray(rows.label))
        assert rows.people is not None and outputs.person_logits is not None
        if labelled:
            first = jnp.asarray(rows.people.label[:, 0])
            own = losses.softmax_cross_entropy(outputs.person_logits[:, 0], first)
            assert (np.asarray(own) != np.asarray(each)).any()
            each = own
        total += float((each * rows.weight).sum())
        weights += float(rows.weight.sum())
    step = setup.train_step.lower(state, batch).compile(compiler_options=UNOPTIMISED)
    after, metrics = step(state, batch)
    values = jax.device_get(metrics).compute()
    assert values["loss_action"] == pytest.approx(total / weights, rel=1e-5)
    moved = jax.tree.map(
        lambda a, b: bool((np.asarray(a) != b).any()), after.variables.params, variables.params
    )
    assert all(jax.tree.leaves(moved["pooling"]))


def test_people_of_images_with_several_labels_have_one_each() -> None:
    """The binary loss of a person, in which all other classes are negatives."""
    setup, _ = set_up("rstarcnn", labelled=True)
    rule = steps.choose_rule(setup.cfg, None, is_single=False)
    z = np.random.default_rng(0).normal(size=(3, 4))
    target = np.eye(4)[[2, 0, 3]]
    p = 1 / (1 + np.exp(-z))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean(1)
    found = rule(jnp.asarray(z, jnp.float32), jnp.array([2, 0, 3]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_evaluation_step_scores_people() -> None:
    setup, micro_batches = set_up("rstarcnn", labelled=False)
    one = jax.tree.map(lambda *leaves: np.concatenate(leaves), *micro_batches)
    batch = globalise([one], setup.mesh)
    variables = setup.fold(begin(setup).variables)
    logits = setup.eval_step(variables, batch)
    moved = one._replace(people=one.people._replace(boxes=one.people.boxes[::-1].copy()))
    assert (setup.eval_step(variables, globalise([moved], setup.mesh)) != logits).any()
    people = jax.tree.map(lambda leaf: leaf[0], batch.people)
    outputs, _ = jax.jit(setup.model.apply)(begin(setup).variables, batch.image[0], people=people)
    scale = float(np.abs(outputs.logits).max())
    np.testing.assert_allclose(logits, outputs.logits, rtol=1e-4, atol=1e-5 * scale)
