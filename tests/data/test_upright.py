"""An upright data set is read as its twin whose pixels were turned before they were stored."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipelines import check, manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.example import Entry, RawData, RawSplit
from data_pipelines.loader import evaluation_batches
from data_pipelines.pictures.show import show
from tests.support.tiny_data import build, standing_people, write_photo

COUNT = 8


def photographs(folder: Path, *, upright: bool) -> RawData:
    """Writes a photograph for each orientation, and joints of the upright one."""
    entries = []
    for orientation in range(1, COUNT + 1):
        path = folder / f"{orientation}.png"
        write_photo(folder / "plain.jpg", orientation, 60, 44)
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(folder / "plain.jpg") as image:
            image.save(path, exif=exif)
        if upright:
            with Image.open(path) as image:
                ImageOps.exif_transpose(image).save(path, exif=b"")
        size = (60, 44) if orientation < 5 else (44, 60)
        entries.append(Entry(path.name, path, orientation % 2, standing_people(1, *size)))
    split = RawSplit(COUNT, COUNT, COUNT, entries)
    splits = {"train": split, "val": dataclasses.replace(split, entries=[])}
    return RawData("folder", "single", ("a", "b"), splits, [], {}, upright=not upright)


@pytest.mark.parametrize("max_width_px", [0, 50])
def test_pixels_and_joints_are_those_of_upright_twins(tmp_path: Path, max_width_px: int) -> None:
    made = {}
    for name in ("turned", "twin"):
        (tmp_path / name).mkdir()
        raw = photographs(tmp_path / name, upright=name == "twin")
        made[name] = build(tmp_path / f"{name}.out", raw, max_width_px=max_width_px)
        lines: list[str] = []
        check.check(tmp_path / f"{name}.out", html=tmp_path / f"{name}.html", log=lines.append)
        assert not any("EXIF" in line for line in lines)
    assert made["turned"].exif.startswith("applied") and made["twin"].exif.startswith("ignored")
    assert made["turned"].fingerprint != made["twin"].fingerprint
    turned, twin = (
        records.open_split(tmp_path / f"{name}.out", "train", made[name]) for name in made
    )
    for index in range(COUNT):
        one, other = turned[index], twin[index]
        for field in ("width_px", "height_px", "keypoints"):
            np.testing.assert_array_equal(one[field], other[field])
        assert max_width_px == 0 or one["width_px"] <= max_width_px
    assert len(pictures(tmp_path / "twin.html")) == COUNT
    assert pictures(tmp_path / "turned.html") == pictures(tmp_path / "twin.html")
    batches = [
        next(
            evaluation_batches(data_config(tmp_path / f"{name}.out"), made[name], batch_size=COUNT)
        )
        for name in made
    ]
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one, other)


def pictures(page: Path) -> list[str]:
    """Lists the pictures that are embedded in a page."""
    return re.findall('src="(data:image[^"]+)"', page.read_text())


def test_stored_images_are_shown_upright(tmp_path: Path) -> None:
    for name in ("turned", "twin"):
        (tmp_path / name).mkdir()
        out = tmp_path / f"{name}.out"
        build(out, photographs(tmp_path / name, upright=name == "twin"))
        page = tmp_path / f"{name}.html"
        show(data_config(out), seed=0, batch_size=COUNT, html=page, log=print)
    assert len(pictures(tmp_path / "twin.html")) == 4 * COUNT
    assert pictures(tmp_path / "turned.html") == pictures(tmp_path / "twin.html")


def data_config(root: Path) -> DataConfig:
    return DataConfig(
        root=str(root), eval_split="train", image_size_px=32, short_side_px=36, limit_width_px=0
    )


def test_manifests_of_either_kind_are_loaded(tmp_path: Path) -> None:
    stored = build(tmp_path / "out", photographs(tmp_path, upright=False))
    assert manifest.load(tmp_path / "out") == stored
    assert stored.exif_applied
    ignoring = dataclasses.replace(stored, exif=manifest.EXIF_IGNORED)
    manifest.save(ignoring, tmp_path / "out")
    assert not manifest.load(tmp_path / "out").exif_applied
