"""The training step: the same in any number of parts, however they are gone through."""

import pytest

from gap_jax.errors import ConfigError
from gap_jax.learning import steps
from gap_jax.learning.sharding import make_mesh
from tests.step_courses import (
    assert_agree,
    compile_step,
    configure,
    count_convolutions,
    lower_step,
    take_steps,
)

REMAT = (("model.remat", True),)


@pytest.mark.parametrize("parts", [4, 8], ids=["4 unrolled", "8 scanned"])
def test_parts_make_one_batch(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is of whole norm groups. On CPU only many parts are scanned, elsewhere all are."""
    monkeypatch.setattr(steps, "LONGEST_UNROLLED", 4)
    values = (("train.accumulate", parts),)
    whole, cut = (count_convolutions(compile_step(1, each)[1].as_text()) for each in ((), values))
    assert cut == (4 * whole if parts == 4 else whole)
    assert_agree(take_steps(3, 1), take_steps(3, 1, values))


def test_recomputed_activations_change_no_number() -> None:
    """XLA gets each convolution, the pose branch's too, twice; on CPU it finds that out."""
    kept, recomputed = (
        count_convolutions(lower_step(1, values)[1].as_text()) for values in ((), REMAT)
    )
    cfg = configure()
    assert recomputed - kept == cfg.model.stage + len(cfg.pose.hidden)
    assert_agree(take_steps(3, 1), take_steps(3, 1, REMAT))


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="accumulate=44 is not divisible by 8 devices; use 40 or 48"
    ):
        make_mesh(configure((("train.batch_size", 44), ("model.norm_group_size", 4))))
    with pytest.raises(ConfigError, match=r"mesh\.fsdp=3 does not divide 8 devices"):
        make_mesh(configure((("mesh.fsdp", 3),)))
