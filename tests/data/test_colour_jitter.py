"""Colour jitter changes brightness, contrast and saturation by its factors."""

from typing import Any

import numpy as np
import pytest
from jaxtyping import UInt8

from data_pipelines.config import DataConfig
from data_pipelines.transforms import augment, make_view


def config(**fields: Any) -> DataConfig:
    return DataConfig(**{"image_size_px": 32, "short_side_px": 36, **fields}).resolved()


def test_jitter_does_not_change_the_other_random_draws() -> None:
    plain, jittered = config(), config(brightness=0.4, contrast=0.4, saturation=0.4)
    image = np.random.default_rng(0).integers(60, 200, (36, 36, 3), dtype=np.uint8)
    whole = make_view(image, np.zeros((0, 16, 3), np.float32), plain)
    for seed in range(5):
        view = augment(whole, plain, np.random.default_rng(seed)).image
        other = augment(whole, jittered, np.random.default_rng(seed)).image
        assert not np.array_equal(view, other)
        assert np.corrcoef(view.ravel(), other.ravel())[0, 1] > 0.9


def jittered(image: UInt8[np.ndarray, "h w 3"], seed: int, **fields: Any) -> np.ndarray:
    data = config(flip=False, **fields)
    whole = make_view(image, np.zeros((0, 16, 3), np.float32), data)
    return augment(whole, data, np.random.default_rng(seed)).image.astype(float)


@pytest.mark.slow
@pytest.mark.parametrize("preprocessing", ["reference", "modern"])
def test_each_jitter_changes_its_own_property(preprocessing: str) -> None:
    rng = np.random.default_rng(0)
    flat = np.full((36, 36, 3), (80, 100, 120), np.uint8)
    coarse = np.kron(rng.integers(90, 160, (4, 4, 3)), np.ones((9, 9, 1))).astype(np.uint8)
    grey = coarse[..., :1].repeat(3, axis=2)
    options = {"preprocessing": preprocessing}
    factors = []
    for seed in range(30):
        bright = jittered(flat, seed, brightness=0.3, **options)
        factors.append(bright.mean() / flat.mean())
        np.testing.assert_allclose(bright, (flat[:32, :32] * factors[-1]), atol=1)
        np.testing.assert_allclose(jittered(flat, seed, contrast=0.0, **options), flat[:32, :32])
        still = jittered(grey, seed, **options)
        np.testing.assert_allclose(jittered(grey, seed, saturation=0.9, **options), still, atol=1)
        contrast = jittered(grey, seed, contrast=0.5, **options)
        assert contrast.mean() == pytest.approx(still.mean(), abs=1)
        ratio = contrast.std() / max(still.std(), 1e-9)
        assert 0.45 < ratio < 1.55
        brighter = jittered(grey, seed, brightness=0.3, **options)
        both = jittered(grey, seed, brightness=0.3, contrast=0.5, **options)
        spread = ratio * (brighter - brighter.mean())
        np.testing.assert_allclose(both, brighter.mean() + spread, atol=2)
    assert 0.69 < min(factors) < 0.78
    assert 1.22 < max(factors) < 1.31
