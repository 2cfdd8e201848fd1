"""The rows of the Attentional Pooling paper on HICO."""

import pytest

from data_pipelines.core.errors import ConfigError
from gap_jax.flags import read_config
from gap_jax.model_config import HARD
from gap_jax.variants import METHODS


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        *((method, "ours" if method in HARD else "reference") for method in METHODS),
        ("", ""),
        ("attention_pose", "ours"),
    ],
)
def test_every_variant_of_hico_resolves(method: str, recipe: str) -> None:
    cfg = read_config(f"hico:{recipe},{method}")
    assert (cfg.data.name, cfg.data.eval_split) == ("hico", "test")
    assert (cfg.eval.average_precision, cfg.eval.unknown) == ("voc2007", "negative")
    assert cfg.model.pooling == (method or "attention").removesuffix("_pose")
    assert cfg.pose.branch == ("pose" in method)
    loss = ("negative", 10.0) if recipe == "reference" else ("masked", 1.0)
    assert (cfg.train.unknown, cfg.train.positive_weight) == loss


def test_other_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="variant 'demo' is unknown"):
        read_config("hico:demo")
