"""`gap_jax predict --people`: an answer for each person, by the box that evaluation reads."""

import csv
import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import gap_jax
from data_pipelines import loader, manifest, records
from data_pipelines.core.boxes import find_overlaps
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.pictures.drawing import draw_boxes
from gap_jax import cli
from gap_jax.batch import People
from gap_jax.commands.evaluate import score_model
from gap_jax.prediction.people import make_people
from gap_jax.prediction.predictor import Predictor
from tests.support.saved_runs import save_run, tiny_config
from tests.support.tiny_data import names_in, prepare_tiny_people, write_photo

IMAGES = 5
SMALL = ("model.region_side=2", "model.region_widths=(6,5)", "model.region_channels=4")
RUNS = {
    "rcnn": ("demo,rcnn", *SMALL),
    "rstarcnn": ("demo,rstarcnn", *SMALL, "data.regions=3"),
    "people": ("demo,attention", "model.regions=people", "model.region_side=2"),
    "image": ("demo,attention",),
}
OUTSIDE = (0.0, 0.0, 6.0, 44.0)  # of a photograph of 60 x 44 pixels, and of no crop
BOXES = {
    "a.jpg": [(14.0, 2.0, 40.0, 40.0), (30.0, 10.0, 50.0, 30.0)],
    "more/b.jpg": [OUTSIDE, (20.0, 4.0, 34.0, 40.0)],
}

open_once = functools.cache(gap_jax.load)  # every command would compile its own


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves a run of each network on the same people."""
    folder = tmp_path_factory.mktemp("saved")
    data = prepare_tiny_people(folder / "data", sizes={"train": 1, "val": IMAGES, "test": 0})
    for name, (parts, *fields) in RUNS.items():
        cfg = tiny_config(folder / "data", "model.stage=2", *fields, parts=parts)
        save_run(folder / name, cfg, data, {2: 0.5})
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes three photographs in the working folder, and a file of the people of two."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gap_jax.commands.predict.load", lambda source, **_: open_once(source))
    for index, name in enumerate(("a.jpg", "more/a.jpg", "more/b.jpg")):
        write_photo(tmp_path / name, index)
    write_people(tmp_path / "people.json", BOXES)
    return tmp_path


def write_people(path: Path, boxes: Mapping[str, Any], **size: int) -> None:
    """Writes a file of COCO's form with boxes alone."""
    content = {
        "images": [{"id": i, "file_name": name, **size} for i, name in enumerate(boxes)],
        "annotations": [
            {"image_id": i, "category_id": 1, "bbox": [x, y, right - x, bottom - y]}
            for i, each in enumerate(boxes.values())
            for x, y, right, bottom in each
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    path.write_text(json.dumps(content), "utf-8")


def predict(
    capsys: pytest.CaptureFixture[str], run: Path, *words: str, people: str = "people.json"
) -> tuple[int, list[str], list[str]]:
    """Returns the exit code and the lines of stdout, without the note, and of stderr."""
    capsys.readouterr()
    code = cli.main(["predict", *words, "--model", str(run), "--people", people])
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if not line.startswith("note: ")]
    return code, lines, err.splitlines()


def test_each_person_has_an_answer_in_order(
    saved: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = predict(
        capsys, saved / "rcnn", "a.jpg", "more", "--top", "2", "--json", "x.json", "--csv", "x.csv",
        "--overlay", "looks",
    )  # fmt: skip
    nobody = "people.json has no person of it"
    outside = "the person is outside the part of the image that the model sees"
    first = f"gap_jax: error 65: no answer for 2 of 5 inputs; the first is 'more/a.jpg': {nobody}"
    assert (code, err) == (65, [first])
    model = open_once(str(saved / "rcnn"))
    answers = model.predict_people("a.jpg", BOXES["a.jpg"])
    answers += model.predict_people("more/b.jpg", BOXES["more/b.jpg"][1:])
    assert len({answer.logits.tobytes() for answer in answers}) == 3

    shown = [
        "a.jpg person 1",
        "a.jpg person 2",
        "more/a.jpg",
        *(f"more/b.jpg person {i}" for i in (1, 2)),
    ]
    assert [line.partition("  ")[0] for line in out] == shown
    assert (
        out[2].split("  ")[-1] == f"error: {nobody}" and out[3] == f"{shown[3]}  error: {outside}"
    )

    rows = json.loads(Path("x.json").read_text("utf-8"))["images"]
    named = [("a.jpg", 1), ("a.jpg", 2), ("more/a.jpg", None), ("more/b.jpg", 1), ("more/b.jpg", 2)]
    assert [(row["name"], row["person"]) for row in rows] == named
    boxes = [*BOXES["a.jpg"], None, None, BOXES["more/b.jpg"][1]]
    assert [row["box"] and tuple(row["box"]) for row in rows] == boxes
    assert [row["error"] for row in rows] == [None, None, nobody, outside, None]
    pictures = [f"{name}-attention.png" for name in ("a-person-1", "a-person-2", "more_b-person-2")]
    answered = [row for row in rows if not row["error"]]
    assert [row["overlay"] for row in answered] == pictures == names_in(folder / "looks")
    for row, answer, picture in zip(answered, answers, pictures, strict=True):
        logits = {each["class"]: each["logit"] for each in row["top"]}
        ours = dict(zip(answer.classes, answer.logits.tolist(), strict=True))
        assert logits == {name: ours[name] for name, _ in answer.top(2)}
        with Image.open(folder / "looks" / picture) as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), answer.draw())

    with Path("x.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["name"], line["person"]) for line in lines] == [
        (name, str(number or "")) for name, number in named
    ]
    sides = ("left_px", "top_px", "right_px", "bottom_px")
    for line, row, box in zip(lines, rows, boxes, strict=True):
        assert [line[side] for side in sides] == ([str(x) for x in box] if box else [""] * 4)
        assert line["error"] == (row["error"] or "")
        assert line["class_1"] == (row["top"][0]["class"] if row["top"] else "")


@pytest.mark.usefixtures("folder")
def test_pictures_and_maps_are_those_of_the_box(saved: Path) -> None:
    model = open_once(str(saved / "rcnn"))
    for answer, box in zip(
        model.predict_people("a.jpg", BOXES["a.jpg"]), BOXES["a.jpg"], strict=True
    ):
        plain = dataclasses.replace(answer, box=None)
        framed = draw_boxes(answer.image, np.array([box], np.float32))
        np.testing.assert_array_equal(
            answer.draw(), dataclasses.replace(plain, load=lambda image=framed: image).draw()
        )
        assert (answer.draw() != plain.draw()).any()
        name = answer.classes[2]
        found = answer.maps(name)
        assert found.combined.mean() == pytest.approx(answer.logits[2], rel=1e-4)
        inside = found.bottom_up != 0
        assert inside.any() and not inside.all()
    one, other = (each.maps().bottom_up for each in model.predict_people("a.jpg", BOXES["a.jpg"]))
    assert (one != other).any()


@pytest.mark.parametrize("kind", ["rcnn", "people"])
def test_a_person_scores_as_in_evaluation_of_all_people(saved: Path, kind: str) -> None:
    model = open_once(str(saved / kind))
    cfg, stated = model.opened.cfg, manifest.load(saved / "data")
    folded = model.opened.fold()
    with loader.evaluation_batches(cfg.data, stated, batch_size=8, with_people=True) as batches:
        batch = next(batches)
    assert batch.people is not None
    people = People(*map(jnp.asarray, batch.people))
    outputs, _ = jax.jit(folded.model.apply)(folded.variables, batch.image, people=people)
    due, scores = np.asarray(outputs.person_logits), score_model(model.opened, "val")[0].logits
    bound = 1e-5 * np.abs(scores).max()
    stored = records.open_split(saved / "data", "val", stated)
    assert [len(stored[i]["boxes"]) for i in range(IMAGES)] == [0, 1, 2, 0, 1]
    for index in range(IMAGES):
        path = saved / f"{index}.jpg"
        path.write_bytes(stored[index]["image"])
        boxes = stored[index]["boxes"].tolist()
        answers = model.predict_people(path, boxes) if boxes else [model.predict(path)]
        found = np.stack([answer.logits for answer in answers])
        np.testing.assert_allclose(found, due[index, : len(found)], rtol=1e-4, atol=bound)
        np.testing.assert_allclose(found.max(0), scores[index], rtol=1e-4, atol=bound)
        assert [answer.person for answer in answers] == ([*range(1, len(boxes) + 1)] or [None])
        assert len(np.unique(found, axis=0)) == len(found)


@pytest.mark.usefixtures("folder")
def test_an_image_without_people_is_one_person_with_secondary_regions(saved: Path) -> None:
    model = open_once(str(saved / "rstarcnn"))
    whole = np.array([[0, 0, 32, 32]], np.float32)
    people = make_people(whole, model.opened.cfg.data)
    overlaps = find_overlaps(people.boxes[:, :, None], people.regions)
    assert overlaps.shape == (1, 1, 3) and ((overlaps >= 0.2) & (overlaps <= 0.75)).all()
    first, answer = model.predict(["more/b.jpg", "a.jpg"])
    folded = model.opened.fold()
    apply = jax.jit(folded.model.apply)
    found, plain = (
        np.asarray(apply(folded.variables, answer.crop[None], people=each)[0].logits)[0]
        for each in (People(*map(jnp.asarray, people)), None)
    )
    np.testing.assert_allclose(answer.logits, found, rtol=1e-4, atol=1e-6)
    assert (np.abs(answer.logits - plain) > 1e-3 * np.abs(plain).max()).any()
    assert answer.maps().combined.mean() == pytest.approx(answer.logits.max(), rel=1e-4)
    assert answer.person is None and answer.box is None and (first.logits != answer.logits).any()


@pytest.mark.parametrize("views", ["--flip", "--crops five", "--crops three and --flip"])
def test_evaluation_names_the_options_of_several_views(
    saved: Path, views: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = views.replace(" and ", " ").split()
    assert cli.main(["evaluate", str(saved / "rcnn"), *words]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"rcnn reads boxes of one view of a picture; leave out {views}")


def test_bad_inputs_leave_the_other_answers(
    saved: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "more" / "b.jpg").write_text("no image")
    code, out, err = predict(capsys, saved / "rcnn", "more/b.jpg", "a.jpg", "gone.jpg")
    assert code == 65 and len(out) == 5 and len(err) == 1
    for line, name in zip(out, ("more/b.jpg person 1", "more/b.jpg person 2"), strict=False):
        assert line.startswith(f"{name}  error: it is no image; JPEG")
    assert [" %" in line for line in out] == [False, False, True, True, False]
    write_people(folder / "people.json", BOXES, width=60, height=45)
    code, out, _ = predict(capsys, saved / "rcnn", "a.jpg")
    size = "its boxes are for 60 x 45 pixels and it has 60 x 44; annotate the upright image"
    assert code == 65 and out == [f"a.jpg person {i}  error: {size}" for i in (1, 2)]
    write_people(folder / "people.json", BOXES, width=60, height=44)
    assert predict(capsys, saved / "rcnn", "a.jpg")[0] == 0

    def remove(*_: object) -> None:
        raise DataError("it was removed")

    monkeypatch.setattr("gap_jax.prediction.answer.Answer.save", remove)
    code, out, _ = predict(capsys, saved / "rcnn", "a.jpg", "--overlay", "looks")
    assert code == 65 and out == [f"a.jpg person {i}  error: it was removed" for i in (1, 2)]


@pytest.mark.parametrize(
    ("run", "content", "code", "line"),
    [
        ("image", None, 64, "image reads no boxes of people (model.pooling=attention, model."),
        ("rcnn", b"{", 65, "people.json is no JSON"),
        ("rcnn", b"gone", 65, "there is no file people.json"),
        ("rcnn", b"others", 65, "none of the 1 images of people.json is among the photographs"),
    ],
)
def test_models_and_files_that_do_not_fit_end_in_one_line(
    saved: Path, folder: Path, capsys: pytest.CaptureFixture[str],
    run: str, content: bytes | None, code: int, line: str,
) -> None:  # fmt: skip
    match content:
        case b"gone":
            (folder / "people.json").unlink()
        case b"others":
            write_people(folder / "people.json", {"c.jpg": BOXES["a.jpg"]})
        case bytes():
            (folder / "people.json").write_bytes(content)
        case None:
            pass
    found, out, err = predict(capsys, saved / run, "a.jpg", "--json", "x.json")
    assert (found, out, len(err)) == (code, [], 1) and line in err[0]
    assert not (folder / "x.json").exists()


@pytest.mark.usefixtures("folder")
def test_boxes_from_python_are_checked(saved: Path) -> None:
    with pytest.raises(ConfigError, match="reads no boxes of people"):
        open_once(str(saved / "image")).predict_people("a.jpg", BOXES["a.jpg"])
    model: Predictor = open_once(str(saved / "rcnn"))
    with pytest.raises(DataError, match=r"a\.jpg: the person is outside"):
        model.predict_people("a.jpg", [OUTSIDE])
    assert model.predict_people("a.jpg", []) == []
