"""Checks the settings of a drawn data set and writes its folder of images."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import simplejpeg

from data_pipelines.core.errors import CannotWrite, ConfigError
from data_pipelines.core.files import fresh_folder, writing
from data_pipelines.datasets.drawn.scene import Scene

Progress = Callable[[int, int], None]

IMAGES = "images"
_JPEG_QUALITY = 88
_SEEDS = 2**32
_IMAGES_PER_SPLIT = 10**8  # a name is one digit of the split and eight of the image


def check_request(seed: int, sizes: Mapping[str, int], splits: Mapping[str, int]) -> None:
    """Refuses an invalid seed and invalid sizes."""
    if not 0 <= seed < _SEEDS:
        raise ConfigError(f"seed={seed} is out of range; use 0 to {_SEEDS - 1}")
    for split, size in sizes.items():
        if split not in splits:
            raise ConfigError(f"split {split!r} is not drawn; the splits are {', '.join(splits)}")
        if not 0 <= size < _IMAGES_PER_SPLIT:
            raise ConfigError(f"{split}={size} images cannot be drawn; use 0 or more")
    if not any(sizes.values()):
        raise ConfigError(f"sizes={dict(sizes)} has no image; use 1 or more")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields a folder that becomes `target` if the block succeeds; refuses a non-empty `target`."""
    with writing(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise CannotWrite(f"{target} is not an empty folder; choose another or remove it")
    with fresh_folder(target) as folder:
        (folder / IMAGES).mkdir()
        yield folder


def save_scenes(
    folder: Path,
    codes: Mapping[str, int],
    sizes: Mapping[str, int],
    draw_scene: Callable[[str, int], Scene],
    progress: Progress | None,
) -> Iterator[tuple[str, int, str, Scene]]:
    """Draws and saves every scene in order; yields its split, index, image name and scene.

    `progress` receives the number of finished scenes and their total.
    """
    total = sum(sizes.values())
    numbers = ((split, index) for split, size in sizes.items() for index in range(size))
    for done, (split, index) in enumerate(numbers, 1):
        scene = draw_scene(split, index)
        name = f"{codes[split]}{index:08d}"  # nine digits, as in MPII
        jpeg = simplejpeg.encode_jpeg(scene.image, quality=_JPEG_QUALITY, colorsubsampling="420")
        (folder / IMAGES / f"{name}.jpg").write_bytes(jpeg)
        yield split, index, name, scene
        if progress:
            progress(done, total)
