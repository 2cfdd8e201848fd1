"""The gallery: randomly drawn hits and misses, maps on a shared scale."""

import base64
import io

import numpy as np
from PIL import Image

from gap_jax.prediction.attention import find_joints
from gap_jax.prediction.colours import find_scale, paint
from gap_jax.report.gallery import build_gallery, choose
from gap_jax.report.maps import Predictions
from tests.support.reported_runs import draw_scores, grid_of, make_run
from tests.support.tiny_data import CLASSES


def test_joints_are_high_peaks() -> None:
    heatmaps = np.zeros((6, 5, 16), np.float32)
    heatmaps[2, 3, 0], heatmaps[5, 0, 9], heatmaps[1, 1, 4] = 0.9, 0.25, 0.2
    (person,) = find_joints(heatmaps, 48, 40)
    assert person[0].tolist() == [24, 16, 2]
    assert person[9].tolist() == [0, 40, 2]
    assert np.flatnonzero(person[:, 2]).tolist() == [0, 9]


def test_colours_are_signed_and_clipped() -> None:
    beyond, low, zero, high = paint(np.array([[-9.0, -1.0, 0.0, 1.0]]))[0].astype(int)
    assert low[2] > low[0] and high[0] > high[2] and zero.min() > 230
    assert beyond.tolist() == low.tolist()
    values = np.concatenate([np.full(999, -2.0), [50.0]])[None, None]
    assert find_scale(values) == 2
    assert find_scale(np.zeros((1, 2, 2))) == 1


def predict(shift: float = 0.0, *, pose: bool = False) -> Predictions:
    rng = np.random.default_rng(5)
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    top_down = rng.normal(size=(3, 4, 4)).astype(np.float32)
    bottom_up = (shift * rng.random((3, 4, 4, 1)) + 1).astype(np.float32)
    image = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    heatmaps = rng.random((3, 4, 4, 16)).astype(np.float32) if pose else None
    combined = top_down * bottom_up[..., 0]
    return Predictions(grid_of(4, 4, 8.0), image, logits, bottom_up, top_down, combined, heatmaps)


def test_gallery_shares_its_scale_and_replaces_missing_panels() -> None:
    labels = [np.int64(0), np.int64(1), np.int64(2)]
    shown = build_gallery(
        ["one", "two"],
        [predict(), predict(4.0, pose=True)],
        [{"label": label, "id": f"{label}.jpg"} for label in labels],
        CLASSES,
    )
    assert [unit.partition(",")[0] for unit in shown.units] == ["one", "two"]
    for case, label in zip(shown.cases, labels, strict=True):
        assert case.label == CLASSES[label]
        one, two = case.strips
        assert [panel for panel in one.panels if isinstance(panel, str)] == [
            "h is constant", "no pose branch",
        ]  # fmt: skip
        assert not any(isinstance(panel, str) for panel in two.panels)
        assert one.is_hit == two.is_hit == (label < 2)
    assert shown.cases[2].strips[0].predicted == CLASSES[1]
    content = base64.b64decode(shown.bar.source.partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (240, 10)


def test_panels_do_not_change_with_factors_that_cancel() -> None:
    """Neither do they change with the unit of the product."""
    stored = [{"label": np.int64(k), "id": f"{k}.jpg"} for k in range(3)]
    plain, turned = (
        build_gallery(
            ["x"],
            [predict(4.0)._replace(
                bottom_up=factor * predict(4.0).bottom_up, top_down=predict(4.0).top_down / factor,
                combined=unit * predict(4.0).combined,
            )],
            stored, CLASSES,
        )
        for factor, unit in ((1, 1), (-128, 16))
    )  # fmt: skip
    for one, other in zip(plain.cases, turned.cases, strict=True):
        assert one.strips[0].panels == other.strips[0].panels
    (unit,) = plain.units
    largest = np.percentile(np.abs(predict(4.0).top_down), 99.5)
    assert f"top-down {largest:.3g}" in unit


def test_hits_and_misses_are_drawn_at_random_with_a_fixed_seed() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 90).astype(np.int32)
    scores = draw_scores(labels, 3, skill=0.5)
    scores.weights[:30] = 0
    run = make_run(scores)
    hits, misses = choose(run, 3)
    correct = scores.logits.argmax(1) == labels
    assert len(hits) == len(misses) == 6 and min(hits + misses) >= 30
    assert correct[hits].all() and not correct[misses].any()
    assert (hits, misses) == choose(run, 3)
    assert hits != sorted(hits)
    assert sum(map(len, choose(run, 9))) == 4
    perfect = choose(make_run(draw_scores(labels, 3, skill=90)), 1)
    assert list(map(len, perfect)) == [12, 0]
