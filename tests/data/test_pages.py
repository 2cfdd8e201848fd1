"""The pages are self-contained, show names as text and show the batches of a config."""

import base64
import dataclasses
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import check, loader, records
from data_pipelines.config import DataConfig
from data_pipelines.core.errors import CannotWrite, DataError
from data_pipelines.decode import decode
from data_pipelines.pictures import drawing, page, sheet
from data_pipelines.pictures.show import show
from data_pipelines.transforms import View
from tests.support.tiny_data import build, prepare_tiny_people, quiet, tiny_data

EVIL = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "link", "br"}


class Reader(HTMLParser):
    """Collects the elements of a page and asserts that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href"):
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def checked_page(folder: Path) -> Reader:
    check.check(folder, html=folder.parent / "sheet.html", log=quiet)
    return Reader((folder.parent / "sheet.html").read_text("utf-8"))


def test_a_page_is_self_contained_and_shows_names_as_text(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in")
    train = raw.splits["train"].entries
    train[0] = dataclasses.replace(train[0], id='"><script>alert(1)</script>')
    raw = dataclasses.replace(
        raw,
        classes=(EVIL, "a&b", "{{ 7 * 7 }}"),
        provenance={EVIL: [EVIL, "写真"], "file": "a\udcff"},
    )
    build(tmp_path / "out", raw)
    found = checked_page(tmp_path / "out")
    assert EVIL in found.text()
    assert '"><script>alert(1)</script>' in found.text()
    assert "{{ 7 * 7 }}" in found.text()
    assert "file a\\udcff" in found.text()
    assert not found.tags & {"script", "link", "iframe", "object"}
    assert all(each.startswith("data:image/jpeg;base64,") for each in found.addresses)
    assert len(found.images) == 13
    for image in found.images:
        assert image["alt"]
        content = base64.b64decode((image["src"] or "").partition(",")[2])
        with Image.open(io.BytesIO(content)) as picture:
            assert [str(side) for side in picture.size] == [image["width"], image["height"]]
    text = (tmp_path / "sheet.html").read_text("utf-8")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert '<html lang="en">' in text
    assert "prefers-color-scheme: dark" in text
    assert "http://" not in text.replace("http-equiv", "")


def test_a_name_of_100_000_characters_is_cut(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in")
    build(tmp_path / "out", dataclasses.replace(raw, classes=("jumping", "n" * 100_000, "waiting")))
    lines: list[str] = []
    check.check(tmp_path / "out", html=tmp_path / "sheet.html", log=lines.append)
    assert max(map(len, [*lines, Reader((tmp_path / "sheet.html").read_text()).text()])) < 20_000


def test_the_contact_sheet_shows_the_numbers(tmp_path: Path) -> None:
    made = prepare_tiny_people(tmp_path / "out")
    text = checked_page(tmp_path / "out").text()
    for part in (
        f"13 images, 3 classes, fingerprint {made.fingerprint}",
        "train 9 9 6 1 0.1",
        "waiting 3 1 0",
        "classes with fewer than 5 training images (3)",
        "drawn by a test",
        "visible joint hidden joint",
    ):
        assert part in text


def test_pages_count_several_labels_and_joints_outside(tmp_path: Path) -> None:
    raw = tiny_data(tmp_path / "in", sizes={"train": 9, "val": 4}, label_kind="multi")
    train, val = (raw.splits[name].entries for name in ("train", "val"))
    train[0] = dataclasses.replace(train[0], label=(0, -1, -2))
    train[1] = dataclasses.replace(train[1], label=(-3, -1, 0))
    people = train[2].keypoints.copy()
    people[0, :3, 0] = -0.5, 60, 59.5  # of 60 px; two lie outside
    train[2] = dataclasses.replace(train[2], keypoints=people)
    val[0] = dataclasses.replace(val[0], label=(1, 1, 1))
    build(tmp_path / "out", raw)
    text = checked_page(tmp_path / "out").text()
    labels = [np.array([entry.label for entry in entries]) for entries in (train, val)]
    numbers = [np.bincount((each == 1).sum(1), minlength=4).tolist() for each in labels]
    table = " ".join(f"{each} {numbers[0][each]} {numbers[1][each]}" for each in range(4))
    assert f"classes train val {table} Labels" in text
    positives, negatives = ([(each == k).sum() for each in labels] for k in (1, 0))
    assert (
        f"label train val positive {positives[0]} {positives[1]} negative {negatives[0]} "
        f"{negatives[1]} ambiguous 2 0 unknown 1 0 unknown, object in no label 1 0 Joints"
    ) in text
    assert "images with one train 9 135 9 2 1 val 3 45 3 0 0" in text
    assert "train · no class · 1 ambiguous · 1 unknown" in text and "No class" in text
    cfg = DataConfig(
        name="people", root=str(tmp_path / "out"), image_size_px=32, short_side_px=36,
        limit_width_px=0,
    )  # fmt: skip
    show(cfg, seed=0, batch_size=9, html=tmp_path / "batch.html", log=quiet)
    shown = Reader((tmp_path / "batch.html").read_text("utf-8")).text()
    assert "train_000.jpg · record 0 · 1 ambiguous · 1 unknown" in shown


def test_examples_are_spread_evenly_and_chosen_the_same_every_time() -> None:
    few = {"train": [0] * 50 + [1] * 3 + [None] * 20, "val": [5] * 30}
    chosen = sheet.sample_records(few)
    assert {each: len(positions) for each, positions in chosen.items()} == {
        0: 8,
        1: 3,
        5: 8,
        None: 8,
    }
    assert list(chosen) == [0, 1, 5, None]
    assert chosen == sheet.sample_records(few)
    assert len({position for _, position in chosen[0]} & set(range(8))) < 8
    for each, positions in chosen.items():
        assert all(few[split][position] == each for split, position in positions)
    many = sheet.sample_records({"train": [each % 393 for each in range(3000)]})
    assert len(many) == 96
    assert all(len(positions) == 1 for positions in many.values())
    assert sorted(map(str, many)) != sorted(map(str, range(96)))
    some = sheet.sample_records({"train": [each % 30 for each in range(3000)]})
    assert sum(map(len, some.values())) == 90
    assert sheet.sample_records({"train": []}) == {}


@pytest.mark.parametrize(("classes", "galleries"), [(3, 3), (24, 24), (25, 1)])
def test_many_classes_share_a_gallery(tmp_path: Path, classes: int, galleries: int) -> None:
    raw = tiny_data(tmp_path / "in", sizes={"train": classes})
    for at, entry in enumerate(raw.splits["train"].entries):
        raw.splits["train"].entries[at] = dataclasses.replace(entry, label=at)
    raw = dataclasses.replace(raw, classes=tuple(f"class {at}" for at in range(classes)))
    build(tmp_path / "out", raw)
    found = checked_page(tmp_path / "out")
    assert found.text().count("Chosen at random") == 1
    assert (tmp_path / "sheet.html").read_text().count('<ul class="gallery') == galleries
    assert len(found.images) == classes


def test_a_thumbnail_shows_the_disc_at_its_size() -> None:
    keypoints = np.zeros((1, 16, 3))
    keypoints[0, 9] = (50, 50, 2)
    grey = np.full((100, 100, 3), 90, np.uint8)
    sizes = []
    for radius in (0.0, 20.0):
        shown = page.thumbnail(View(grey, keypoints, radius), alt="")
        content = base64.b64decode(shown.source.partition(",")[2])
        picture = np.asarray(Image.open(io.BytesIO(content))).astype(int)
        columns = np.nonzero((np.abs(picture - 90) > 60).any(-1))[1]
        sizes.append(np.ptp(columns) / 2)
    assert sizes[0] < 12
    assert sizes[1] == pytest.approx(20 * 320 / 100, abs=3)


def test_the_batch_shown_is_the_batch_that_trains(tmp_path: Path) -> None:
    made = prepare_tiny_people(tmp_path / "out")
    data = DataConfig(
        name="people", root=str(tmp_path / "out"), image_size_px=40, short_side_px=44
    ).resolved()
    lines: list[str] = []
    html = tmp_path / "batch.html"
    show(data, seed=3, batch_size=8, html=html, log=lines.append)
    assert lines == [f"batches: {html}"]
    found = Reader(html.read_text("utf-8"))
    with loader.training_batches(data, made, seed=3, batch_size=8, with_people=True) as batches:
        batch = next(batches)
    assert batch.people is not None and batch.people.boxes.any()
    assert len(found.images) == 2 * 8 + 2 * 4
    for row in range(8):
        crop = View(
            batch.image[row],
            batch.keypoints[row],
            float(batch.disc_radius[row]),
            batch.people.boxes[row],
        )
        assert found.images[2 * row + 1]["src"] == page.thumbnail(crop, alt="").source
        assert f"record {batch.id[row]}" in found.text()
    assert "4 more rows are padding" in found.text()
    assert "data.image_size_px 40" in found.text()
    assert drawing.label_text(batch.label[0], made.classes) in (found.images[1]["alt"] or "")


def test_pages_draw_boxes_on_stored_images(tmp_path: Path) -> None:
    made = prepare_tiny_people(tmp_path / "out")
    record = records.open_split(tmp_path / "out", "train", made)[1]
    assert record["boxes"].shape == (1, 4) and record["boxes"].any()
    image = decode(record["image"])
    drawn, bare = (
        page.thumbnail(View(image, record["keypoints"], 0.0, boxes), alt="").source
        for boxes in (record["boxes"], 0 * record["boxes"])
    )
    assert drawn != bare
    assert sheet._make_figure("train", record, made).thumbnails[0].source == drawn
    data = DataConfig(name="people", root=str(tmp_path / "out"), image_size_px=40, short_side_px=44)
    show(data.resolved(), seed=3, batch_size=8, html=tmp_path / "batch.html", log=quiet)
    assert drawn in {each["src"] for each in Reader((tmp_path / "batch.html").read_text()).images}


def test_missing_data_and_unwritable_pages_are_refused(tmp_path: Path) -> None:
    prepare_tiny_people(tmp_path / "out")
    data = DataConfig(root=str(tmp_path / "out"), image_size_px=40, short_side_px=44)
    with pytest.raises(CannotWrite):
        show(data, seed=0, batch_size=2, html=tmp_path / "out" / "manifest.json" / "x", log=quiet)
    data = dataclasses.replace(data, eval_split="test")
    with pytest.raises(DataError, match=r"split .test. of .* is empty"):
        show(data, seed=0, batch_size=2, html=tmp_path / "x.html", log=quiet)
    with pytest.raises(DataError, match="no prepared data"):
        show(DataConfig(root="none"), seed=0, batch_size=2, html=tmp_path / "x.html", log=quiet)
    assert not (tmp_path / "x.html").exists()
