"""`gap_jax predict`: its table, files, pictures, refusals and exit codes."""

import csv
import dataclasses
import functools
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gap_jax import cli
from gap_jax.commands.predict import name_picture
from gap_jax.prediction.predictor import Predictor, load
from tests.support.saved_runs import save_run, tiny_config
from tests.support.tiny_data import CLASSES, names_in, prepare_tiny_people, write_photo

open_once = functools.cache(load)  # every command would compile its own

NOTE = "note: {} was trained on drawn people: on photographs its answers mean little"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves a run of drawn people, whose evaluation takes large batches."""
    folder = tmp_path_factory.mktemp("saved")
    data = prepare_tiny_people(folder / "data", sizes={"train": 1, "val": 1, "test": 0})
    cfg = tiny_config(folder / "data", "model.stage=2")
    cfg = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch_size=200))
    save_run(folder / "run", cfg, data, {2: 0.5, 3: 0.4})
    return folder / "run"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes three photographs in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gap_jax.commands.predict.load", open_once)
    for index, name in enumerate(("a.jpg", "more/b.jpg", "more/a.jpg")):
        write_photo(tmp_path / name, index)
    return tmp_path


def predict(
    capsys: pytest.CaptureFixture[str], run: Path, *words: str
) -> tuple[int, list[str], list[str]]:
    """Returns the exit code and the lines of stdout, below the note on drawn people, and stderr."""
    capsys.readouterr()
    code = cli.main(["predict", *words, "--model", str(run)])
    out, err = capsys.readouterr()
    if out:
        assert out.startswith(f"{NOTE.format(run)}\n")
    return code, out.splitlines()[1:], err.splitlines()


def test_answers_are_printed_and_written(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = predict(
        capsys, run, "a.jpg", "more", "--top", "2", "--json", "new/answers.json", "--csv", "x.csv",
        "--overlay", "looks",
    )  # fmt: skip
    assert (code, err) == (0, [])
    model = open_once(str(run), checkpoint="best")
    paths = ["a.jpg", "more/a.jpg", "more/b.jpg"]
    answers = [model.predict(path) for path in paths]
    assert [line.split()[0] for line in out] == paths
    for line, answer in zip(out, answers, strict=True):
        (first, share), (second, other) = answer.top(2)
        assert line.endswith(f"  {first} {100 * share:.1f} %  {second} {100 * other:.1f} %")
    content = json.loads((folder / "new" / "answers.json").read_text("utf-8"))
    assert content["format_version"] == 1 and content["classes"] == list(CLASSES)
    assert content["probabilities"] == "softmax" and content["model"]["step"] == 2
    pictures = ["a-attention.png", "more_a-attention.png", "more_b-attention.png"]
    for row, answer, picture in zip(content["images"], answers, pictures, strict=True):
        assert row["top"] == [
            {
                "class": name,
                "probability": share,
                "logit": float(answer.logits[CLASSES.index(name)]),
            }
            for name, share in answer.top(2)
        ]
        rest = {key: value for key, value in row.items() if key != "top"}
        size, no_person = {"width_px": 60, "height_px": 44}, {"person": None, "box": None}
        assert rest == {
            "name": answer.name, **size, "overlay": picture, "error": None, **no_person
        }  # fmt: skip
        with Image.open(folder / "looks" / picture) as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), answer.draw())
    assert names_in(folder / "looks") == sorted(pictures), "no lock is left"
    with (folder / "x.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == paths and rows[0]["width_px"] == "60"
    assert rows[1]["class_2"] == answers[1].top(2)[1][0]
    assert float(rows[1]["probability_1"]) == answers[1].top(2)[0][1]


def test_one_class_and_one_checkpoint_can_be_named(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = open_once(str(run), checkpoint=3)
    code, _, _ = predict(
        capsys, run, "a.jpg", "--class", CLASSES[2], "--overlay", "looks", "--checkpoint", "latest",
        "--top", "99", "--json", "all.json",
    )  # fmt: skip
    assert code == 0
    with Image.open(folder / "looks" / "a-attention.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), model.predict("a.jpg").draw(CLASSES[2]))
    content = json.loads((folder / "all.json").read_text("utf-8"))
    assert content["model"]["step"] == 3 and len(content["images"][0]["top"]) == len(CLASSES)


def test_one_bad_file_among_a_thousand_gives_one_row(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)).save(
        image, "PNG"
    )
    (folder / "many").mkdir()
    for index in range(999):
        (folder / "many" / f"{index:03}.png").write_bytes(image.getvalue())
    (folder / "many" / "123x.jpg").write_text("no image")
    code, out, err = predict(capsys, run, "many", "--json", "answers.json", "--csv", "answers.csv")
    assert code == 65 and len(out) == 1000 and len(err) == 1
    assert err[0] == (
        "gap_jax: error 65: no answer for 1 of 1,000 inputs; the first is 'many/123x.jpg': it is "
        "no image; JPEG, PNG, WebP, GIF, BMP are read"
    )
    assert out[124].startswith("many/123x.jpg  error: it is no image")
    images = json.loads((folder / "answers.json").read_text("utf-8"))["images"]
    assert [bool(row["top"]) for row in images] == [index != 124 for index in range(1000)]
    assert images[124] == {
        "name": "many/123x.jpg", "width_px": None, "height_px": None, "top": [], "overlay": None,
        "error": "it is no image; JPEG, PNG, WebP, GIF, BMP are read", "person": None, "box": None,
    }  # fmt: skip
    assert len({row["top"][0]["logit"] for row in images if row["top"]}) == 1
    assert len((folder / "answers.csv").read_text("utf-8").splitlines()) == 1001


def test_names_cannot_act_in_a_terminal_a_table_or_a_path(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ["=cmd|x.jpg", "a\x1b[31m.jpg", "<b>.jpg", "\udcff.jpg", "..jpg"]
    for name in written:
        write_photo(folder / "odd" / name, 1)
    code, out, _ = predict(
        capsys, run, "odd/=cmd|x.jpg", "odd", "--csv", "odd.csv", "--json", "odd.json",
        "--overlay", "looks",
    )  # fmt: skip
    assert code == 0 and not any("\x1b" in line for line in out)
    text = (folder / "odd.csv").read_text("utf-8")
    assert "\x1b" not in text and "\\x1b[31m" in text
    os.chdir(folder / "odd")
    assert predict(capsys, run, "=cmd|x.jpg", "--csv", "../cell.csv")[0] == 0
    assert "\n'=cmd|x.jpg," in (folder / "cell.csv").read_text("utf-8")
    names = [row["name"] for row in json.loads((folder / "odd.json").read_text())["images"]]
    assert sorted(names[1:]) == sorted(f"odd/{name}" for name in written if name != "..jpg")
    pictures = names_in(folder / "looks")
    assert len(pictures) == len(names)
    assert all(name.isprintable() and not set(name) & set("<>|=:\\*?\"'") for name in pictures)


@pytest.mark.usefixtures("folder")
def test_classes_of_a_foreign_model_cannot_act_in_a_terminal(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_once(str(run), checkpoint="best").opened
    named = dataclasses.replace(opened, classes=("\x1b[31ma", "b\nc", "d"))
    monkeypatch.setattr("gap_jax.commands.predict.load", lambda *_, **__: Predictor(named))
    code, out, _ = predict(capsys, run, "a.jpg")
    assert code == 0 and len(out) == 1 and "\x1b" not in out[0]
    assert "\\x1b[31ma" in out[0] and "b\\nc" in out[0]


def test_names_of_pictures_are_unique_where_case_is_ignored() -> None:
    taken: set[str] = set()
    names = [name_picture(each, taken) for each in ("a.jpg", "A.png", "./a.gif", "/x/" * 60, "?")]
    assert names[:3] == ["a-attention.png", "A-2-attention.png", "a-3-attention.png"]
    assert len(names[3]) == 100 + len("-attention.png") and names[4] == "image-attention.png"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["a.jpg", "--class", "jumpin"], 64, "has no class 'jumpin'; did you mean 'jumping'?"),
        (["--json", "a.jpg", "more"], 64, "argument --json: 'a.jpg' must end in .json"),
        (["a.jpg", "--every", "0"], 64, "argument --every: 0 must be above 0"),
        (["a.jpg", "--every", "x"], 64, "argument --every: invalid"),
        (["a.jpg", "--top", "0"], 64, "argument --top: 0 must be 1 or more"),
        ([], 64, "the following arguments are required: PATH"),
        (["a.jpg", "--checkpoint", "9"], 66, "no good checkpoint 9"),
        (["a.jpg", "--json", "a.jpg/x.json"], 73, "cannot write a.jpg/x.json"),
        (["a.jpg", "--csv", "made.csv"], 73, "made.csv is a folder; name a file"),
        (["a.jpg", "--overlay", "a.jpg"], 73, "cannot write a.jpg"),
        (["empty"], 65, "no answer for 1 of 1 inputs; the first is 'empty': it holds no image"),
        (
            ["gone.jpg"],
            65,
            "no answer for 1 of 1 inputs; the first is 'gone.jpg': there is no such",
        ),
    ],
)
def test_mistakes_end_in_one_line(
    run: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    line: str,
) -> None:
    (folder / "empty").mkdir()
    (folder / "made.csv").mkdir()
    before = (folder / "a.jpg").read_bytes()
    found, _, err = predict(capsys, run, *words)
    assert found == code and line in err[0] and len(err) == 1
    assert (folder / "a.jpg").read_bytes() == before
    assert names_in(folder) == ["a.jpg", "empty", "made.csv", "more"]


def test_missing_foreign_and_damaged_models_are_refused(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(run), "--out", "exported"]) == 0
    damaged = folder / "exported" / "config.json"
    damaged.write_bytes(damaged.read_bytes()[:-2])
    for model, line in (
        (
            folder / "none",
            f"there is no file or folder {folder / 'none'}; name the folder of a run",
        ),
        (
            Path("efficientnet_lit0"),
            "there is no file or folder efficientnet_lit0; did you mean 'efficientnet_lite0'?",
        ),
        (folder, "is neither a run nor an exported model"),
        (folder / "a.jpg", "is a file"),
        (folder / "exported", "is damaged (config.json is changed); export the run again"),
    ):
        code, out, err = predict(capsys, model, "a.jpg")
        assert (code, out) == (66, []) and line in err[0] and len(err) == 1


class Terminal(io.StringIO):
    """A standard stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_list_on_stdin_and_progress_on_a_terminal(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: Any = io.TextIOWrapper(io.BytesIO(b"more/b.jpg\nmore/none.txt\n"))
    monkeypatch.setattr(sys, "stdin", listed)
    monkeypatch.setattr("gap_jax.commands.predict.PROGRESS_EVERY_S", -1.0)
    (folder / "more" / "notes.txt").write_text("x")
    terminal = Terminal()
    capsys.readouterr()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(["predict", "-", "more", "--model", str(run)]) == 65
    _, *out, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == [
        "more/b.jpg", "more/none.txt", "more/a.jpg", "more/b.jpg"
    ]  # fmt: skip
    shown = terminal.getvalue()
    assert "\r1 images\r2 images\r3 images\r4 images\r\x1b[K" in shown
    assert last == "left out, by their names no images: 'more/notes.txt'"
    assert (
        "no answer for 1 of 4 inputs; the first is 'more/none.txt': there is no such file" in shown
    )
