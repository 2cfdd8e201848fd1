"""Writes a tiny HMDB51: split lists in the published form, and videos or folders of frames."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data_pipelines import prepare
from data_pipelines.datasets.videos import hmdb51
from data_pipelines.manifest import Manifest
from tests.support.tiny_data import quiet

TRAIN, TEST, UNUSED = 1, 2, 0
WIDTH_PX, HEIGHT_PX = 64, 48
Tags = Mapping[str, Mapping[str, int]]  # by class and name of the video

TAGS: Tags = {
    "jump": {
        "(Rad)Schlag_die_Bank!_jump_f_cm_np1_le_med_0.avi": TRAIN,
        "a#b_&_c,d_jump_u_nm_np1_fr_bad_1.avi": TRAIN,
        "third_jump_h_nm_np2_ba_goo_2.avi": TEST,
        "left_out_jump_h_nm_np2_ba_goo_3.avi": UNUSED,
    },
    "brush_hair": {
        "one_brush_hair_u_nm_np1_fr_goo_0.avi": TRAIN,
        "two_brush_hair_u_nm_np1_fr_goo_1.avi": TRAIN,
        "three_brush_hair_u_nm_np1_fr_goo_2.avi": TEST,
    },
}
FRAMES = 30


def write_lists(folder: Path, tags: Tags = TAGS, split: int = 1) -> Path:
    """Writes the lists of a split, with the blank at the end of each line."""
    folder.mkdir(parents=True, exist_ok=True)
    for label, videos in tags.items():
        lines = "".join(f"{name} {tag} \n" for name, tag in videos.items())
        (folder / f"{label}_test_split{split}.txt").write_text(lines, "utf-8")
    return folder


def draw_frames(seed: int, count: int = FRAMES) -> Sequence[np.ndarray]:
    """Draws RGB frames: smooth random colours that brighten from frame to frame."""
    small = np.random.default_rng(seed).integers(0, 160, (3, 4, 3), dtype=np.uint8)
    first = cv2.resize(small, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    return [first + np.uint8(3 * index) for index in range(count)]


def write_video(path: Path, frames: Sequence[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), code, 30.0, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def write_videos(root: Path, tags: Tags = TAGS) -> Path:
    """Writes a video for each listed name, and one of a single frame: the last."""
    names = [(label, name) for label, videos in tags.items() for name in videos]
    for seed, (label, name) in enumerate(names):
        count = 1 if seed == len(names) - 1 else FRAMES
        write_video(root / label / name, draw_frames(seed, count))
    return root


def write_frames(root: Path, tags: Tags = TAGS) -> Path:
    """Writes the folder of frames of each video, with files of optical flow beside them."""
    names = [(label, name) for label, videos in tags.items() for name in videos]
    for seed, (label, name) in enumerate(names):
        folder = root / label / name.removesuffix(".avi")
        folder.mkdir(parents=True)
        for index, frame in enumerate(draw_frames(seed), 1):
            Image.fromarray(frame).save(folder / f"image_{index:05}.jpg", quality=95)
        (folder / "flow_x_00001.jpg").write_bytes(b"flow")
    return root


def prepare_videos(folder: Path, lines: list[str] | None = None, **options: Any) -> Manifest:
    """Prepares split 1 of the lists and videos, or frames, in `folder` as `out`."""
    kind = "videos" if (folder / "videos").is_dir() else "frames"
    chosen = hmdb51.Options(1, **{kind: folder / kind, **options})
    return prepare.build(
        folder / "out",
        lambda _: hmdb51.read(folder / "lists", chosen, folder / "spool", log=quiet),
        max_rejects=99,
        overwrite=True,
        log=quiet if lines is None else lines.append,
    )
