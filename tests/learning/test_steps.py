"""The training step with any number of micro-batches; the evaluation step's compiler options."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.core.errors import ConfigError
from gap_jax import hardware
from gap_jax.learning import steps
from gap_jax.learning.setup import assemble
from gap_jax.learning.sharding import globalise, make_mesh
from tests.support.step_courses import (
    PEOPLE,
    assert_agree,
    begin,
    compile_step,
    configure,
    count_convolutions,
    draw_batch,
    lower_step,
    set_up,
    take_steps,
)

CPU = Path("/proc/cpuinfo")
REMAT = (("model.remat", True),)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [4, 8], ids=["4 unrolled", "8 scanned"])
def test_micro_batches_equal_one_batch(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches have whole norm groups. On CPU only many are scanned, elsewhere all are."""
    monkeypatch.setattr(steps, "MOST_UNROLLED", 4)
    values = (("train.accumulate", parts),)
    whole, cut = (count_convolutions(compile_step(1, each)[1].as_text()) for each in ((), values))
    assert cut == (4 * whole if parts == 4 else whole)
    assert_agree(take_steps(3, 1), take_steps(3, 1, values))


@pytest.mark.slow
def test_recomputed_activations_keep_results() -> None:
    """XLA gets each convolution twice, the pose branch's too; on CPU it removes the duplicates."""
    kept, recomputed = (
        count_convolutions(lower_step(1, values)[1].as_text()) for values in ((), REMAT)
    )
    cfg = configure()
    assert recomputed - kept == cfg.model.stage + len(cfg.pose.hidden)
    assert_agree(take_steps(3, 1), take_steps(3, 1, REMAT))


def test_indivisible_batches_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="accumulate=44 is not divisible by 8 devices; use 40 or 48"
    ):
        make_mesh(configure((("train.batch_size", 44), ("model.norm_group_size", 4))))
    with pytest.raises(ConfigError, match=r"mesh\.fsdp=3 does not divide 8 devices"):
        make_mesh(configure((("mesh.fsdp", 3),)))


@pytest.mark.parametrize("slows_down", [True, False])
def test_evaluation_step_uses_ynnpack_without_avx512(
    slows_down: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_avx512", lambda: slows_down)
    setup, batch = set_up(1, (("train.batch_size", 16), ("eval.batch_size", 16)))
    step = steps.jit_eval_step(setup.model, setup.mesh)
    compiled = step.lower(setup.target.variables, batch).compile().as_text()
    assert ("ynn_fusion" in compiled) != slows_down


@pytest.mark.skipif(not CPU.exists(), reason="needs Linux: /proc/cpuinfo")
def test_avx512_names_are_known_to_numpy() -> None:
    flags = re.search(r"^flags\s*:(.*)$", CPU.read_text("utf-8"), re.MULTILINE)
    assert hardware.has_avx512() == bool(flags and "avx512vl" in flags[1].split())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"baseline": ["X86_V2"], "found": ["X86_V3", "X86_V4"]}, True),
        ({"baseline": ["SSE"], "found": ["AVX2", "AVX512_SKX"]}, True),
        ({"baseline": ["X86_V2"], "found": ["X86_V3"], "not found": ["X86_V4"]}, False),
        ({"baseline": ["NEON"]}, False),
    ],
)
def test_avx512_detection(
    names: dict[str, list[str]], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "show_config", lambda **_: {"SIMD Extensions": names})
    assert hardware.has_avx512() == expected


def first_losses(labels: Sequence[np.ndarray], **values: object) -> list[float]:
    """Takes the first step on images of several labels and returns its loss for each labels."""
    fields = {
        "model.pooling": "mean",
        "model.saliency_input": "features",
        "model.stage": 1,
        "pose.branch": False,
        **values,
    }
    cfg = configure((*fields.items(), ("model.widths", ()), ("model.T", 3)))
    setup = assemble(cfg, dataclasses.replace(PEOPLE, label_kind="multi"), jax.devices()[:1])
    found = []
    for each in labels:
        drawn = [batch._replace(label=each) for batch in draw_batch(0, cfg)]
        _, metrics = setup.train_step(begin(setup), globalise(drawn, setup.mesh))
        found.append(float(jax.device_get(metrics).compute()["loss_action"]))
    return found


@pytest.mark.slow
def test_unknown_labels_are_masked_or_negatives() -> None:
    labels = np.random.default_rng(0).choice((1, 0, -1, -2, -3), size=(128, 8)).astype(np.int8)
    negatives = np.maximum(labels, 0)
    masked, known = first_losses([labels, negatives])
    (negative,) = first_losses([labels], **{"train.unknown": "negative"})
    assert negative == pytest.approx(known, rel=1e-6) and masked != pytest.approx(known, rel=1e-2)
