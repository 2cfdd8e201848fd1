"""Compares backbones with recorded outputs of other networks; `make parity` records them."""

import numpy as np
import pytest

from gap_jax.weights import named
from gap_jax.weights.names import vgg
from gap_jax.weights.names.forms import to_ours
from tests.campaigns import parity
from tests.support.foreign_names import rename

CASES = {case.name: case for case in parity.cases()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet50_v1_5", 224), ("resnet50_caffe", 65), ("vgg16", 64), ("inception_v3", 107)],
)
def test_backbone_matches_recorded_reference(name: str, side: int) -> None:
    answer = parity.ask_ours(parity.draw_network(CASES[name]), parity.draw_image(side))
    kept = parity.read_golden(name, side)["arrays"]
    assert kept
    for array, golden in kept.items():
        ours = getattr(answer, array)
        assert list(ours.shape) == golden["shape"]
        limit = parity.TOLERANCE * golden["largest"]
        np.testing.assert_allclose(parity.thin_out(ours), golden["values"], atol=limit, rtol=0)
        assert np.std(golden["values"]) > 0.01 * golden["largest"]


@pytest.mark.slow
def test_published_weights_match_recorded_pytorch_network() -> None:
    """In the last map and the logits, to 1e-5 of the largest value."""
    case = CASES["efficientnet_lite0_imagenet"]
    pytest.importorskip(named.PACKAGED[case.weights].package.replace("-", "_"))
    answer = parity.ask_ours(parity.draw_network(case), parity.draw_image(224))
    for array, golden in parity.read_golden(case.name, 224)["arrays"].items():
        found = parity.thin_out(getattr(answer, array))
        np.testing.assert_allclose(found, golden["values"], atol=1e-5 * golden["largest"], rtol=0)


def test_every_reference_is_recorded_within_tolerance() -> None:
    for name, case in CASES.items():
        for side in case.sides:
            for found in parity.read_golden(name, side)["arrays"].values():
                assert found["difference"] <= parity.TOLERANCE
    assert parity.render() in parity.PAGE.read_text("utf-8")


def test_difference_is_relative_and_checks_shapes() -> None:
    assert parity.difference(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    with pytest.raises(SystemExit, match="ours has shape"):
        parity.difference(np.ones(1), np.ones((1, 1)))


@pytest.mark.parametrize(
    "names",
    [vgg.keras_names(), CASES["resnet50_caffe"].names, CASES["resnet50_v1_5"].names],
)
def test_reference_weights_equal_imported_weights(names: dict) -> None:
    """Uses few channels; the bias in the running mean is exact up to rounding."""
    rng = np.random.default_rng(0)
    ranks = {"map_io": (7, 7, 2, 3), "cell_io": (1, 1, 2, 3), "row": (1, 3), "oihw": (3, 3, 2, 3),
             "bgr": (3, 3, 3, 2)}  # fmt: skip
    ours = {
        path: rng.normal(size=(1, 2, 3) if form.startswith("classifier") else ranks.get(form, (3,)))
        for path, (_, form) in names.items()
    }
    theirs = rename(ours, names)
    for path, (held, form) in names.items():
        read = to_ours([theirs[name] for name in held], form)
        np.testing.assert_allclose(read, ours[path], atol=1e-15)
