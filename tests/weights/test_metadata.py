"""The metadata of weight files: what is compared with the config, and what is refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.core.errors import CheckpointError
from gap_jax.model_config import ModelConfig
from gap_jax.weights import named, native
from gap_jax.weights.metadata import Metadata, compare, parse_metadata

METADATA = Metadata("resnet50", "slim", "made", stem_padding="same")


def make_model(**fields: Any) -> ModelConfig:
    return ModelConfig(backbone="resnet50", **fields)


@pytest.mark.parametrize(
    ("there", "here", "note"),
    [
        ({}, {}, ""),
        ({"strides": "caffe", "stem_padding": "same"}, {}, "the same network with running"),
        ({}, {"strides": "caffe", "stem_padding": "same"}, "the same network with running"),
        ({"stem_padding": "symmetric"}, {}, "set model.stem_padding=symmetric"),
        ({"norm_eps": 1.001e-5}, {}, "has eps 1.001e-05"),
        ({"input_mean": (123.68, 116.78, 103.94)}, {}, "model.input=reference subtracts"),
    ],
)
def test_harmless_differences_are_reported(
    there: dict[str, Any], here: dict[str, Any], note: str
) -> None:
    notes = compare(Path("w"), dataclasses.replace(METADATA, **there), make_model(**here))
    assert len(notes) == bool(note) and note in "".join(notes)


def test_eps_is_not_compared_of_a_backbone_without_norms() -> None:
    model = ModelConfig(backbone="vgg16", norm_eps=1e-3, input="vgg")
    metadata = Metadata("vgg16", "", "made", input_mean=model.input_mean, norm_eps=1e-5)
    assert compare(Path("w"), metadata, model) == []


@pytest.mark.parametrize(("there", "here"), [("v1_5", "slim"), ("caffe", "v1_5"), ("slim", "v1_5")])
def test_strides_of_other_network_are_refused(there: str, here: str) -> None:
    metadata = dataclasses.replace(METADATA, strides=there)
    with pytest.raises(CheckpointError, match=rf"would be wrong; set model.strides={there} or"):
        compare(Path("w"), metadata, make_model(strides=here))


def test_files_of_version_1_are_readable() -> None:
    metadata = native.read_metadata(named.shipped_path("drawn_objects"))
    assert (
        metadata.format_version == 1
        and metadata.backbone == "small"
        and metadata.stem_padding == ""
    )
    old = (
        '{"backbone": "resnet50", "strides": "v1_5", "command": "x", "seed": 3, '
        '"fingerprint": "f", "input_mean": [1, 2, 3], "input_scale": [1, 1, 1], '
        '"format_version": 1}'
    )
    assert parse_metadata(Path("w"), {"gap_jax": old}).stem_padding == "symmetric"


@pytest.mark.parametrize(
    "lie",
    [
        {"backbone": 3}, {"backbone": "res\x1b[2Jnet"}, {"strides": "bogus"}, {"strides": ["slim"]},
        {"stem_padding": "\n"}, {"colours": "BGR"}, {"colours": 3}, {"seed": "x"}, {"seed": True},
        {"fingerprint": [1]}, {"command": None}, {"origin": {}}, {"norm_eps": True},
        {"norm_eps": "1"}, {"norm_eps": -1.0}, {"norm_eps": math.nan}, {"norm_eps": 10**400},
        {"input_mean": "123"}, {"input_mean": [1, 2]}, {"input_mean": [1, 2, math.inf]},
        {"input_mean": 3}, {"input_scale": [0, 1, 1]}, {"input_scale": ["1", "1", "1"]},
        {"format_version": None}, {"format_version": 3}, {"more": 1},
    ],
)  # fmt: skip
def test_invalid_metadata_is_refused(lie: dict[str, Any]) -> None:
    text = json.dumps(json.loads(METADATA.dump()) | lie)
    with pytest.raises(CheckpointError) as refusal:
        parse_metadata(Path("w"), {"gap_jax": text})
    assert str(refusal.value).isprintable() and str(refusal.value).startswith("w ")
