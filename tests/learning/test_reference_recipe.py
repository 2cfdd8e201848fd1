"""The recipe `reference` sets every switch to what AP's released code does."""

from pathlib import Path

import pytest

from data_pipelines.core.errors import ConfigError
from gap_jax import cli
from gap_jax.config import differences, fields
from gap_jax.flags import read_config
from gap_jax.model_config import HARD
from gap_jax.variants import METHODS

GAP_POSE = "configs/gap_pose.py"
RELEASED = {  # from its source, or from the networks it uses
    "data.preprocessing": "reference",  # limit the width, resize the short side, crop
    "data.limit_width_px": 512,
    "data.short_side_px": 480,
    "data.image_size_px": 450,
    "data.resize": "legacy",  # resize_bilinear(align_corners=False)
    "data.flip": True,
    "data.swap_on_flip": False,
    "data.brightness": 0.0,
    "data.contrast": 0.0,
    "data.saturation": 0.0,
    "data.eval_crops": "center",
    "data.eval_flip": False,
    "model.strides": "slim",
    "model.stem_padding": "auto",  # slim's padding is `same`
    "model.input": "reference",  # minus 128
    "model.norm": "train",
    "model.norm_group_size": 16,  # images on each of its GPUs
    "model.norm_decay": 0.997,
    "model.norm_eps": 1e-5,
    "model.norm_running": "first",  # of the first GPU, in the last micro-batch
    "model.dtype": "float32",
    "model.saliency_activation": "none",
    "model.rank_form": "chained",
    "model.sketch_normalisation": "none",
    "model.dropout": 0.8,
    "model.dropout_where": "map",
    "pose.weight": 1.0,
    "pose.reduction": "reference",  # divided by its 16 images twice
    "pose.target": "disc",
    "optim.name": "sgd",
    "optim.learning_rate": 1e-3,
    "optim.decay_factor": 0.33,
    "optim.decay_every_steps": 5000,
    "optim.momentum": 0.9,
    "optim.weight_decay": 5e-4,
    "optim.clip_norm": 0.0,
    "train.steps": 12_000,
    "train.batch_size": 128,  # 4 GPUs, 2 micro-batches, 16 images
    "train.label_smoothing": 0.0,
    "train.unlabelled": "reference",
    "train.ema_decay": 0.0,
    "eval.average_precision": "envelope",
    "eval.ranking": "softmax",
}


@pytest.mark.parametrize("method", ["attention", "attention_pose"])
def test_every_switch_matches_released_code(method: str) -> None:
    cfg = read_config(f"{GAP_POSE}:{method},reference")
    values = {name: value for name, _, value in fields(cfg)}
    assert {name: values[name] for name in RELEASED} == RELEASED
    assert set(differences(read_config(f"{GAP_POSE}:{method}"), cfg)) <= set(RELEASED)


def test_recipe_accepts_any_method_and_data_but_not_demo() -> None:
    for method in METHODS:
        if method in HARD:
            for spec in (f"{GAP_POSE}:people,", "hico:"):
                with pytest.raises(ConfigError, match=f"released code has no {method}; leave out"):
                    read_config(f"{spec}reference,{method}")
            continue
        assert read_config(f"{GAP_POSE}:people,reference,{method}").data.resize == "legacy"
        assert not differences(*(read_config(f"{GAP_POSE}:{method}{x}") for x in ("", ",ours")))
    for parts, line in (
        ("reference,demo", "the released code has no demo scale"),
        ("reference,ours", "names two recipes, reference and ours"),
        ("refrence", "did you mean 'reference'"),
    ):
        with pytest.raises(ConfigError, match=line) as refusal:
            read_config(f"{GAP_POSE}:{parts}")
        assert "\n" not in str(refusal.value)


def test_config_diff_lists_recipe_changes(capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"{GAP_POSE}:attention_pose"
    assert cli.main(["config", "diff", f"{spec},reference", "--against", spec]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "data.resize: 'opencv' -> 'legacy'",
        "data.swap_on_flip: True -> False",
        "model.norm_running: 'mean' -> 'first'",
        "model.dtype: 'auto' -> 'float32'",
        "model.rank_form: 'independent' -> 'chained'",
        "train.unlabelled: 'masked' -> 'reference'",
    ]


def test_page_lists_every_switch() -> None:
    """Compares docs/method.md's table with the values of the recipe and the defaults."""
    text = Path("docs/method.md").read_text("utf-8")
    table = text.partition("## The released code's switches")[2].partition("\n## ")[0]
    rows = [line.split("|")[2:5] for line in table.splitlines() if "| `" in line]
    ours, reference = (
        {name: value for name, _, value in fields(read_config(f"{GAP_POSE}:{part}"))}
        for part in ("ours", "reference")
    )
    seen = 0
    for names, theirs, default in rows:
        for index, name in enumerate(each.strip(" `") for each in names.split(",")):
            for cell, values in ((theirs, reference), (default, ours)):
                words = cell.split(",")
                if len(words) > index and "by method" not in cell:
                    word = words[index].split("(")[0].strip()
                    assert (
                        word == f"{values[name]:g}"
                        if isinstance(values[name], float)
                        else (str(values[name]).lower())
                    )
                    seen += 1
    assert seen >= 28


def test_recipe_accepts_map_for_each_class() -> None:
    """With rank 1 there is nothing to chain; a higher rank is refused with a map for each class."""
    one = "--config.model.per_class=true"
    assert read_config("configs/gap_pose.py:attention,reference", [one]).model.per_class
    with pytest.raises(ConfigError, match=r"set model\.rank_form=independent or"):
        read_config("configs/gap_pose.py:attention,reference", [one, "--config.model.rank=2"])
