"""Frames of prepared videos in batches: drawn in training, spread evenly in evaluation."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines import loader, manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.core.spread import spread_frames
from data_pipelines.rows import Rows, draw_frames
from data_pipelines.transforms import augment, make_view


def config(folder: Path, **values: Any) -> DataConfig:
    fields: dict[str, Any] = {
        "name": "hmdb51", "root": str(folder / "out"), "eval_split": "test", "image_size_px": 32,
        "short_side_px": 36, "limit_width_px": 0,
    }  # fmt: skip
    return DataConfig(**(fields | values)).resolved()


def test_training_draws_a_frame_for_each_video_and_step(of_frames: Path) -> None:
    cfg, stated = config(of_frames), manifest.load(of_frames / "out")
    drawn: dict[int, set[bytes]] = {}
    with loader.training_batches(cfg, stated, seed=3, batch_size=4) as batches:
        made = [next(batches) for _ in range(8)]
    with loader.training_batches(cfg, stated, seed=3, batch_size=4, start_step=5) as batches:
        np.testing.assert_array_equal(next(batches).image, made[5].image)
    for batch in made:
        assert sorted(batch.id) == [0, 1, 2, 3], "each video once in an epoch"
        for row, position in enumerate(batch.id.tolist()):
            drawn.setdefault(position, set()).add(batch.image[row].tobytes())
    assert all(len(images) > 4 for images in drawn.values())
    counts = np.bincount([draw_frames(1, 25, seed)[0] for seed in range(2500)], minlength=25)
    assert len(counts) == 25 and np.abs(counts - 100).max() < 50, "each frame is as likely"


def test_frames_of_a_clip_come_from_equal_parts_and_share_their_crop(of_frames: Path) -> None:
    cfg, stated = config(of_frames), manifest.load(of_frames / "out")
    with loader.training_batches(cfg, stated, seed=1, batch_size=2, clip=3) as batches:
        assert next(batches).image.shape == (2, 3, 32, 32, 3)
    for seed in range(50):
        chosen = draw_frames(3, 25, seed)
        assert [part * 25 // 3 <= each < (part + 1) * 25 // 3 for part, each in enumerate(chosen)]
    rows = Rows(cfg, stated, "train", clip=3)
    images = np.empty(rows.image_shape(1), np.uint8)
    seed = 11
    batch = rows.batch([loader.RowSpec(1, seed)], images)
    record = records.open_split(of_frames / "out", "train", stated)[1]
    for image, frame in zip(batch.image[0], draw_frames(3, 25, seed), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(record["frames"][frame])))
        whole = make_view(pixels, record["keypoints"], cfg)
        expected = augment(whole, cfg, np.random.default_rng(seed)).image
        assert np.abs(image.astype(int) - expected).max() <= 2


def test_evaluation_gives_rows_of_evenly_spread_frames(of_frames: Path) -> None:
    stated = manifest.load(of_frames / "out")
    cfg = config(of_frames, eval_frames=5, eval_flip=True)
    with loader.evaluation_batches(cfg, stated, batch_size=4) as batches:
        made = list(batches)
    assert [batch.id.tolist() for batch in made] == [[0] * 4, [0, 1, 1, 1], [1, 1, -1, -1]]
    assert made[0].image.shape == (4, 2, 32, 32, 3)
    with loader.evaluation_batches(cfg, stated, batch_size=5, max_examples=1) as batches:
        assert [batch.id.tolist() for batch in batches] == [[0] * 5], "videos, not frames"
    assert spread_frames(5, 25) == [2, 7, 12, 17, 22] and spread_frames(1, 25) == [12]
    brightness = made[0].image[:, 0].mean(axis=(1, 2, 3))
    assert (np.diff(brightness) > 5).all(), "frames brighten"
    clips = config(of_frames, eval_flip=True)
    with loader.evaluation_batches(clips, stated, batch_size=2, clip=3) as batches:
        assert next(batches).image.shape == (2, 2, 3, 32, 32, 3)


def test_decoded_frames_may_be_cached(of_frames: Path) -> None:
    stated = manifest.load(of_frames / "out")
    found = []
    for cache in ("none", "ram"):
        cfg = config(of_frames, cache=cache)
        with loader.training_batches(cfg, stated, seed=3, batch_size=4) as batches:
            found.append([next(batches).image for _ in range(6)])
    np.testing.assert_array_equal(*found)
