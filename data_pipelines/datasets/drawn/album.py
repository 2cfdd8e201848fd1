"""What the drawn data sets share when they write: settings checked, folders whole, JPEGs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from data_pipelines.errors import CannotWrite, ConfigError
from data_pipelines.files import fresh_folder, writing

Progress = Callable[[int, int], None]

IMAGES = "images"
_JPEG_QUALITY = 88
_SEEDS = 2**32
_IMAGES_PER_SPLIT = 10**8  # their numbers are nine digits, the first of which is the split's


def check_request(seed: int, sizes: Mapping[str, int], splits: Mapping[str, int]) -> None:
    """Refuses a seed that random numbers cannot start from, and sizes that cannot be meant."""
    if not 0 <= seed < _SEEDS:
        raise ConfigError(f"seed={seed} is out of range; use 0 to {_SEEDS - 1}")
    for split, size in sizes.items():
        if split not in splits:
            raise ConfigError(f"split {split!r} is not drawn; the splits are {', '.join(splits)}")
        if not 0 <= size < _IMAGES_PER_SPLIT:
            raise ConfigError(f"{split}={size} images cannot be drawn; use 0 or more")
    if not any(sizes.values()):
        raise ConfigError(f"sizes={dict(sizes)} asks for no image; use 1 or more")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when it is complete; one that holds something is refused."""
    with writing(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise CannotWrite(
                f"{target} already holds something; choose another folder or remove it"
            )
    with fresh_folder(target) as folder:
        (folder / IMAGES).mkdir()
        yield folder


def image_name(code: int, index: int) -> str:
    """Nine digits without an extension, as MPII names its images."""
    return f"{code}{index:08d}"


def save_image(folder: Path, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes the image as NAME.jpg among the folder's images."""
    jpeg = simplejpeg.encode_jpeg(image, quality=_JPEG_QUALITY, colorsubsampling="420")
    (folder / IMAGES / f"{name}.jpg").write_bytes(jpeg)


def numbered(sizes: Mapping[str, int], progress: Progress | None) -> Iterator[tuple[str, int]]:
    """Every (split, index) in order, telling `progress` how many of all have been dealt with."""
    total = sum(sizes.values())
    pictures = ((split, index) for split, size in sizes.items() for index in range(size))
    for done, picture in enumerate(pictures, 1):
        yield picture
        if progress:
            progress(done, total)
