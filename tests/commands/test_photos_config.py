"""The config for photographs, and every other that is shipped."""

from pathlib import Path

import pytest

from data_pipelines.core.errors import ConfigError
from gap_jax.flags import read_config
from gap_jax.model_config import HARD
from gap_jax.variants import METHODS, OF_VIDEOS, SPLITS, list_configs


def test_every_shipped_config_resolves() -> None:
    assert list_configs() == ["gap_pose", "hico", "hmdb51", "photos"]
    for name in list_configs():
        cfg = read_config(name)
        folder = {"hmdb51": "hmdb51_split1"}.get(cfg.data.name, cfg.data.name)
        assert cfg == cfg.resolved() and cfg.data.directory == Path("data") / folder


@pytest.mark.parametrize(
    ("method", "split"),
    [*((method, "split2") for method in OF_VIDEOS), *(("", split) for split in ("", *SPLITS))],
)
def test_every_variant_of_hmdb51_resolves(method: str, split: str) -> None:
    cfg = read_config(f"hmdb51:{method},{split}")
    assert (cfg.data.name, cfg.data.eval_split, cfg.data.eval_frames) == ("hmdb51", "test", 25)
    assert cfg.data.root == f"data/hmdb51_{split or 'split1'}"
    assert cfg.model.pooling == (method or "attention").removesuffix("_pose")
    assert cfg.model.frames == 1 and cfg.data.train_split == "train"


@pytest.mark.parametrize("training", ["", "frozen", "full"])
@pytest.mark.parametrize("method", ["", *METHODS])
def test_every_variant_of_photos_resolves(method: str, training: str) -> None:
    cfg = read_config(f"photos:{training},{method}")
    assert cfg.data.name == "folder"
    assert (cfg.data.image_size_px, cfg.data.short_side_px) == (224, 256)
    assert cfg.model.pooling == (method or "attention").removesuffix("_pose")
    assert cfg.pose.branch == ("pose" in method)
    assert cfg.optim.freezes_backbone == (training != "full")
    assert cfg.optim.multipliers == (("backbone=0.1",) if training == "full" else ())
    assert (cfg.model.norm, cfg.init.weights) == ("frozen", "efficientnet_lite0")
    assert 0 < cfg.train.min_steps < cfg.train.steps and cfg.train.epochs > 0
    assert (cfg.train.mixup, cfg.data.erasing) == (0, 0)
    if cfg.model.pooling in HARD:  # fc6 and fc7 of VGG16 would have 120 million parameters
        assert (cfg.model.region_channels, cfg.model.region_widths) == (128, (256, 256))


def test_parts_of_another_config_are_refused() -> None:
    for parts in (
        "hmdb51:rcnn",
        "photos:demo",
        "photos:people",
        "photos:reference",
        "gap_pose:frozen",
    ):
        with pytest.raises(ConfigError, match=f"variant '{parts.split(':')[1]}' is unknown"):
            read_config(parts)
    with pytest.raises(ConfigError, match="names two trainings, frozen and full; keep one"):
        read_config("photos:frozen,full")
