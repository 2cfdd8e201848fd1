"""R-CNN's dense layers on a VGG16 take fc6 and fc7 of a file that has them in their sizes."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.config import DataConfig
from gap_jax.config import Config
from gap_jax.learning.state import Variables, describe_model
from gap_jax.model_config import ModelConfig
from gap_jax.weights import native
from gap_jax.weights.metadata import Metadata, describe_backbone

WIDTHS, SIDE, CHANNELS = (6, 5), 7, 64
DENSE = {
    "backbone/stages/5/0/kernel": (SIDE, SIDE, CHANNELS, 6),
    "backbone/stages/5/0/bias": (6,),
    "backbone/stages/6/0/kernel": (1, 1, 6, 5),
    "backbone/stages/6/0/bias": (5,),
}


def configure(**fields: object) -> Config:
    """A VGG16 with its first stage only."""
    values = {"pooling": "rstarcnn", "region_widths": WIDTHS, "region_side": SIDE, **fields}
    model = ModelConfig(backbone="vgg16", stage=1, **values)
    return Config(data=DataConfig(regions=10), model=model).resolved()


def load(
    tmp_path: Path, cfg: Config, dense: dict[str, tuple[int, ...]]
) -> tuple[Variables, native.LoadReport, dict[str, np.ndarray]]:
    shapes = describe_model(cfg, 3)[1]
    rng = np.random.default_rng(0)
    backbone = {
        name: leaf.shape
        for name, leaf in native.name_arrays(shapes).items()
        if name.startswith("backbone/")
    }
    arrays = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in {**backbone, **dense}.items()
    }
    path = tmp_path / "w.safetensors"
    metadata: Metadata = describe_backbone(cfg.model, command="made", seed=0, fingerprint="")
    native.write(path, arrays, metadata)
    variables, report = native.load_backbone(path, shapes, cfg.model)
    return variables, report, arrays


def test_fc6_and_fc7_fill_the_dense_layers(tmp_path: Path) -> None:
    variables, report, arrays = load(tmp_path, configure(), DENSE)
    named = native.name_arrays(variables)
    for layer in (0, 1):
        for name in ("kernel", "bias"):
            ours, theirs = f"pooling/hidden/{layer}/{name}", f"backbone/stages/{layer + 5}/0/{name}"
            assert ours in report.matched and theirs not in report.unused
            np.testing.assert_array_equal(
                named[ours], arrays[theirs].reshape(named[ours].shape), err_msg=ours
            )
    row = arrays["backbone/stages/5/0/kernel"][2, 3, 10]  # cell (2, 3), channel 10
    np.testing.assert_array_equal(named["pooling/hidden/0/kernel"][(2 * 7 + 3) * 64 + 10], row)
    assert {name.partition("/")[2] for name in report.left_random if "pooling" in name} == {
        f"{term}/{name}" for term in ("primary", "secondary") for name in ("kernel", "bias")
    }
    assert not report.unused


@pytest.mark.parametrize(
    ("fields", "dense"),
    [
        ({}, {}),
        ({}, {name: DENSE[name] for name in DENSE if "/6/" in name}),
        ({"region_side": 3}, DENSE),
        ({"region_side": 14, "region_channels": 16}, DENSE),  # as many weights
        ({"region_widths": (5, 6)}, DENSE),
        ({"region_widths": (8, 8)}, DENSE),
        ({"pooling": "mean", "region_widths": (4096, 4096)}, DENSE),
    ],
)
def test_other_sizes_and_poolings_leave_them_out(
    fields: dict[str, object], dense: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    if fields.get("pooling") == "mean":
        cfg = Config(model=ModelConfig(backbone="vgg16", stage=1, pooling="mean")).resolved()
    else:
        cfg = configure(**fields)
    _, report, _ = load(tmp_path, cfg, dense)
    assert set(report.unused) == set(dense)
    assert not [name for name in report.matched if name.startswith("pooling/")]
