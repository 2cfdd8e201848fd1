"""The papers' networks at full size, without computing values.

`python -m tests.campaigns.full_size` runs such steps.
"""

import jax
import pytest

from gap_jax import batch as on_device
from gap_jax.learning.state import describe_model
from gap_jax.runtime.digests import name_leaves
from gap_jax.weights.native import name_arrays
from tests.campaigns.full_size import CLASSES, configure, draw_batch, set_up

pytestmark = pytest.mark.slow

# the saliency's and the top-down parameters, as docs/method.md counts them
SALIENCY, TOP_DOWN, BACKBONE = 18_882_561, 805_257, 42_500_160


def test_paper_network_has_published_parameters() -> None:
    _, variables = describe_model(configure("", 1), CLASSES)
    sizes = {name: leaf.size for name, leaf in name_leaves(variables.params).items()}

    def count(*tops: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(tops))

    assert count("backbone/") == BACKBONE
    assert count("pooling/saliency/") == SALIENCY
    assert count("pooling/") == SALIENCY + TOP_DOWN


def test_r_star_cnn_has_published_shapes() -> None:
    """VGG16 at 600 px, fc6 and fc7 of 4096."""
    setup = set_up(configure("rstarcnn", 2))
    cfg, sizes = setup.cfg, name_arrays(setup.target.variables)
    assert sizes["pooling/hidden/0/kernel"].shape == (7 * 7 * 512, 4096)
    assert sizes["pooling/hidden/1/kernel"].shape == (4096, 4096)
    assert sizes["pooling/primary/kernel"].shape == sizes["pooling/secondary/kernel"].shape
    assert not any("reduce" in name for name in sizes)
    assert (cfg.data.regions, cfg.model.dropout, cfg.optim.weight_decay) == (10, 0.5, 5e-4)
    momenta = name_leaves(setup.target.opt_state)
    assert any("stages/2/0" in name for name in momenta)
    assert not any("stages/0/" in name or "stages/1/" in name for name in momenta)


@pytest.mark.parametrize("variant", ["", "rstarcnn"])
def test_a_step_keeps_the_shapes_of_the_state(variant: str) -> None:
    setup = set_up(configure(variant, 2))
    batch = jax.tree.map(lambda leaf: leaf[None], draw_batch(setup.cfg, 3))
    batch = on_device.Batch(*batch[:-1], people=on_device.People.of(batch.people))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    after, metrics = jax.eval_shape(setup.train_step, setup.target, shapes)
    assert jax.tree.structure(after) == jax.tree.structure(setup.target)
    assert metrics.loss.total.shape == ()
