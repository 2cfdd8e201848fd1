"""Checks the settings of a drawn data set and writes its folder of images."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import simplejpeg
from rich.progress import track

from data_pipelines.core.errors import CannotWrite, ConfigError
from data_pipelines.core.files import fresh_folder, writing
from data_pipelines.datasets.drawn.scene import Scene

IMAGES = "images"
_JPEG_QUALITY = 88
_SEEDS = 2**32
_IMAGES_PER_SPLIT = 10**8  # a name is one digit of the split and eight of the image


@contextlib.contextmanager
def drawing(
    target: Path,
    seed: int,
    sizes: Mapping[str, int],
    codes: Mapping[str, int],
    draw_scene: Callable[[int, str, int], Scene],
) -> Iterator[tuple[Path, Iterator[tuple[str, int, str, Scene]]]]:
    """Yields a folder that becomes `target` if the block succeeds, and the scenes to draw into it.

    Each scene is drawn and saved when the block asks for it, with its split, index and image name.
    """
    if not 0 <= seed < _SEEDS:
        raise ConfigError(f"seed={seed} is out of range; use 0 to {_SEEDS - 1}")
    for split, size in sizes.items():
        if split not in codes:
            raise ConfigError(f"split {split!r} is not drawn; the splits are {', '.join(codes)}")
        if not 0 <= size < _IMAGES_PER_SPLIT:
            raise ConfigError(f"{split}={size} images cannot be drawn; use 0 or more")
    if not any(sizes.values()):
        raise ConfigError(f"sizes={dict(sizes)} has no image; use 1 or more")
    with writing(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise CannotWrite(f"{target} is not an empty folder; choose another or remove it")

    def scenes(images: Path) -> Generator[tuple[str, int, str, Scene]]:
        numbers = ((split, index) for split, size in sizes.items() for index in range(size))
        hidden, total = not sys.stdout.isatty(), sum(sizes.values())
        for split, index in track(numbers, "drawing", total, transient=True, disable=hidden):
            scene = draw_scene(seed, split, index)
            name = f"{codes[split]}{index:08d}"  # nine digits, as in MPII
            jpeg = simplejpeg.encode_jpeg(scene.image, _JPEG_QUALITY, colorsubsampling="420")
            (images / f"{name}.jpg").write_bytes(jpeg)
            yield split, index, name, scene

    with fresh_folder(target) as folder:
        (folder / IMAGES).mkdir()
        with contextlib.closing(scenes(folder / IMAGES)) as drawn:  # else the bar may stay
            yield folder, drawn
