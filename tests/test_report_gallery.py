"""The gallery: blindly drawn hits and misses, maps on scales that all images and methods share."""

import base64
import io

import numpy as np
from PIL import Image

from gap_jax.explain.report.colours import Scale, fit_scale
from gap_jax.explain.report.gallery import build_gallery, choose
from gap_jax.explain.report.looking import Look, find_joints
from tests.reported_runs import guess, make_run
from tests.tiny_data import CLASSES


def test_joints_are_the_peaks_that_are_high_enough() -> None:
    heatmaps = np.zeros((6, 5, 16), np.float32)
    heatmaps[2, 3, 0], heatmaps[5, 0, 9], heatmaps[1, 1, 4] = 0.9, 0.3, 0.2
    (person,) = find_joints(heatmaps, 48, 40)
    assert person[0].tolist() == [24, 16, 2]
    assert person[9].tolist() == [0, 40, 2]
    assert np.flatnonzero(person[:, 2]).tolist() == [0, 9]


def test_scales_are_signed_where_maps_are() -> None:
    signed = fit_scale([np.array([[[-1.0, 3.0]]]), np.array([[[2.0, 0.0]]])])
    assert signed.low == -signed.high and 2.5 < signed.high <= 3
    low, zero, high = signed.paint(np.array([[-9.0, 0.0, 9.0]]))[0].astype(int)
    assert low[2] > low[0] and high[0] > high[2] and zero.min() > 230
    positive = fit_scale([np.array([[[1.0, 3.0]]])])
    assert positive.low == 0 and 2.5 < positive.high <= 3
    assert fit_scale([np.zeros((1, 2, 2))]) == Scale(0.0, 1.0)


def looks(shift: float = 0.0, *, pose: bool = False) -> Look:
    rng = np.random.default_rng(5)
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    top_down = rng.normal(size=(3, 4, 4)).astype(np.float32)
    bottom_up = (shift * rng.random((3, 4, 4, 1)) + 1).astype(np.float32)
    image = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    heatmaps = rng.random((3, 4, 4, 16)).astype(np.float32) if pose else None
    return Look(image, logits, bottom_up, top_down, top_down * bottom_up[..., 0], heatmaps)


def test_a_gallery_shares_its_scales_and_says_what_is_not_there() -> None:
    labels = [np.int64(0), np.int64(1), np.int64(2)]
    shown = build_gallery(
        ["one", "two"], [looks(), looks(4.0, pose=True)], labels, ["a", "b", "c"], CLASSES, hits=2
    )
    assert [bar.name for bar in shown.bars] == ["bottom-up map h", "top-down map", "combined map"]
    assert [len(bar.numbers) for bar in shown.bars] == [2, 3, 3]
    assert (shown.hits, shown.misses) == (2, 1)
    for case, label in zip(shown.cases, labels, strict=True):
        assert case.label == CLASSES[label]
        one, two = case.strips
        assert [panel for panel in one.panels if isinstance(panel, str)] == [
            "h is constant", "no pose branch",
        ]  # fmt: skip
        assert not any(isinstance(panel, str) for panel in two.panels)
        assert one.is_hit == two.is_hit == (label < 2)
    assert shown.cases[2].strips[0].answer == CLASSES[1]
    scaled = build_gallery(["x"], [looks(4.0)._replace(
        bottom_up=-100 * looks(4.0).bottom_up, top_down=looks(4.0).top_down / -100)],
        labels, ["a", "b", "c"], CLASSES, hits=2)  # fmt: skip
    plain = build_gallery(["x"], [looks(4.0)], labels, ["a", "b", "c"], CLASSES, hits=2)
    assert [bar.numbers for bar in scaled.bars] == [bar.numbers for bar in plain.bars]
    assert shown.bars[0].numbers[0] == "0" and scaled.bars[0].numbers[0] == "0"
    content = base64.b64decode(plain.bars[0].picture.source.partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (240, 10)


def test_hits_and_misses_are_drawn_blindly_and_the_same_every_time() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 90).astype(np.int32)
    scores = guess(labels, 3, skill=0.5)
    scores.weights[:30] = 0
    run = make_run(scores)
    hits, misses = choose(run, 3)
    correct = scores.logits.argmax(1) == labels
    assert len(hits) == len(misses) == 6 and min(hits + misses) >= 30
    assert correct[hits].all() and not correct[misses].any()
    assert (hits, misses) == choose(run, 3)
    assert hits != sorted(hits)
    assert sum(map(len, choose(run, 9))) == 4
    perfect = choose(make_run(guess(labels, 3, skill=90)), 1)
    assert list(map(len, perfect)) == [12, 0]
