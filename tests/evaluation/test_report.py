"""The report page: self-contained, escaped names, refusals in one line."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import manifest
from gap_jax import cli
from gap_jax.report.comparison import Comparison
from gap_jax.report.measure import mask_file
from gap_jax.report.write import default_path, write_report
from gap_jax.runtime.run_folder import RunFolder
from tests.data.test_pages import EVIL, Reader
from tests.support.reported_runs import evaluate_run, write_rows
from tests.support.saved_runs import tiny_config
from tests.support.tiny_data import build, prepare_tiny_people, tiny_data

ODD = '"><script>alert(1)</script>'
LONG = "{{ 7 * 7 }}" + "n" * 100_000
STAGE = "model.stage=1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes data with hostile names and masks, and three runs of two methods."""
    folder = tmp_path_factory.mktemp("reported")
    raw = tiny_data(folder, sizes={"train": 3, "val": 6})
    entries = raw.splits["val"].entries
    entries[0] = dataclasses.replace(entries[0], id=ODD)
    raw = dataclasses.replace(raw, classes=(EVIL, "a&b", LONG))
    data = build(folder / "data", raw)
    masks = {Path(entry.id).stem: np.zeros((44, 60), np.uint8) for entry in entries}
    for each in masks.values():
        each[10:30, 20:40] = 1
    mask_file(folder / "data").parent.mkdir(exist_ok=True)
    np.savez_compressed(mask_file(folder / "data"), allow_pickle=False, **masks)
    for name, parts, words in (
        ("mean", "mean,demo", ()),
        ("pose", "gap_pose,demo", ()),
        ("seed 1", "gap_pose,demo", ("train.seed=1",)),
    ):
        cfg = tiny_config(folder / "data", STAGE, *words, parts=parts)
        evaluate_run(folder / name, cfg, data, {10: 3.0, 20: 0.6})
    return folder


@pytest.fixture(scope="module")
def page(made: Path) -> tuple[Reader, Comparison, str]:
    """Writes the page of all three runs."""
    roots = [made / name for name in ("mean", "seed 1", "pose")]
    compared = write_report(roots, made / "page.html")
    text = (made / "page.html").read_text("utf-8")
    return Reader(text), compared, text


def copied(made: Path, folder: Path, name: str = "mean") -> Path:
    """Copies a run, to be damaged."""
    return shutil.copytree(made / name, folder / "copy")


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Returns the one line of a command that fails."""
    capsys.readouterr()
    code = cli.main(["report", *map(str, words)])
    (line,) = capsys.readouterr().err.splitlines()
    head, _, rest = line.partition(f"gap_jax: error {code}: ")
    assert head == ""
    return f"{code}: {rest}"


@pytest.mark.slow
def test_page_is_self_contained(page: tuple[Reader, Comparison, str]) -> None:
    found, _, text = page
    assert not found.tags & {"script", "link", "iframe", "object", "foreignobject"}
    for address in found.addresses:
        assert address.startswith(("data:image/jpeg;base64,", "#")), address
    for anchor in (address for address in found.addresses if address.startswith("#")):
        assert f'id="{anchor[1:]}"' in text
    assert all(image["alt"] for image in found.images)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "http://" not in text.replace("http-equiv", "") and "url(" not in text
    assert "no-repeat local" in text  # the shade at the edge of a scrolled table
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert text.count("<svg viewBox") == 2 + 2 and text.count("<desc ") == 2
    assert len(text) < 2**20


def test_axes_lie_at_the_edges_of_the_charts(page: tuple[Reader, Comparison, str]) -> None:
    """The margins are 58 px left, 24 px right and 46 px below, of 640 x 300 px."""
    _, _, text = page
    assert 'viewBox="0 0 640 300"' in text
    assert re.search(r'd="M58 [\d.]+ L616 ', text)
    assert re.search(r'd="M([\d.]+) 254 L\1 259"', text)


def test_mistake_shows_counts_and_pictures(
    page: tuple[Reader, Comparison, str],
) -> None:
    _, _, text = page
    heading = r"<h3>[^<]+ taken for [^<]+</h3>\s*<p class=\"counts\">mean pooling: \d[^<]*, GAP-CNN"
    assert "The most frequent confusions, with the number of images, averaged over the" in text
    mistakes = re.split(heading, text.split('<ul class="mistakes">')[1].split("</ul>")[0])[1:]
    assert mistakes and all("<img " in pictures for pictures in mistakes)


def test_confusion_matrix_is_a_table_with_headers(page: tuple[Reader, Comparison, str]) -> None:
    """The last method's is open; every cell belongs to a row and a column with a header."""
    _, compared, text = page
    found = re.findall(r'<table class="matrix">(.*?)</table>', text, re.DOTALL)
    names = [method.name for method in reversed(compared.methods)]
    assert re.findall(r"<caption>Confusion matrix of ([^:]+):", text) == names
    assert f"<details><summary>{names[1]}</summary>" in text
    for table in found:
        assert table.count('<th scope="col"') == 1 + 3 + 2 and table.count('<th scope="row">') == 3
        rows = re.findall(r'<tr><th scope="row">.*?</tr>', table)
        assert [row.count("<td") for row in rows] == [3 + 2] * 3
        assert sum(int(n) for n in re.findall(r'<td class="total">(\d+)</td><td', table)) == 6


def test_names_show_as_text(page: tuple[Reader, Comparison, str]) -> None:
    found, _, text = page
    for name in (EVIL, ODD, "a&b", "{{ 7 * 7 }}"):
        assert name in found.text()
    assert EVIL not in text and len(max(text.split(), key=len)) < 50_000
    assert any(EVIL in (image["alt"] or "") for image in found.images)


def test_page_shows_scores_differences_and_warnings(page: tuple[Reader, Comparison, str]) -> None:
    found, compared, _ = page
    assert [method.name for method in compared.methods] == [
        "mean pooling", "GAP-CNN (T=2) + pose",
    ]  # fmt: skip
    assert [run.step for method in compared.methods for run in method.runs] == [20, 20, 20]
    shown = found.text()
    assert "split val: 6 labelled images of 3 classes" in shown
    assert "not to be compared with the papers\u2019 MPII figures" in shown
    assert "GAP-CNN (T=2) + pose minus mean pooling" in shown
    assert "h is constant: not defined" in shown and "6 images whose masks reach" in shown
    assert "model.pooling gap mean gap" in shown
    assert "highest mAP %" in shown and "10.0 at 10, 10.0 at 10" in shown
    assert "a small test set overestimates" in shown
    assert "has not ended: its scores are of step 20 of 495" in shown
    assert "no pose branch" in shown and "1 equals: mean pooling, bottom-up" in shown
    assert shown.count("mean pooling predicts") == 6


def test_likely_label_errors_are_listed_beside_the_page(
    made: Path, page: tuple[Reader, Comparison, str]
) -> None:
    _, *rows = csv.reader((made / "page.label_errors.csv").read_text("utf-8").splitlines())
    shown = page[0].text()
    assert f"{len(rows)} of 6 labelled images, by confident learning with the" in shown
    assert "CSV file beside this page" in shown and "It is no proof" in shown
    assert rows and all(name in shown for name, *_ in rows)


@pytest.mark.slow
def test_report_of_one_run_without_masks(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(made, tmp_path, "pose")
    write_rows(run, {})
    with RunFolder(run).metrics.open("a") as file:
        file.write('{"step": 3, "val/m')
    content = json.loads(RunFolder(run).record.read_text())
    content["completed_step"] = 20
    content["attempts"][-1] |= {
        "command": f"run {EVIL}", "revision": None, "devices": {"kind": "cpu", "count": 8},
        "packages": {"jax": "0.0.7"},
    }  # fmt: skip
    RunFolder(run).record.write_text(json.dumps(content))
    place = RunFolder(run).scores("val", 20) / "scores.npz"
    with np.load(place) as held:
        scores = dict(held)
    np.savez(place, **{**scores, "logits": np.eye(3, dtype=np.float32)[scores["labels"]]})
    shutil.copytree(made / "data", tmp_path / "moved")
    mask_file(tmp_path / "moved").unlink()
    assert cli.main(["report", str(run), "--data", str(tmp_path / "moved")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"report: {run / 'report.html'}"
    assert not (run / "report.label_errors.csv").exists()
    shown = Reader((run / "report.html").read_text("utf-8")).text()
    assert "Not measured: people in " in shown and "has no masks" in shown
    assert "No run has a metrics.jsonl with numbers to draw" in shown
    assert "None: every image is classified correctly" in shown
    assert "None: no score places one of the 6 labelled images confidently" in shown
    assert "Differences" not in shown and "Worth a look" not in shown
    assert f"run {EVIL}" in shown and "devices: count 8" in shown and "jax 0.0.7" in shown


def test_default_path_of_a_report(made: Path) -> None:
    assert default_path([made / "mean"]) == made / "mean" / "report.html"
    assert default_path([made / "mean", made / "pose"]) == made / "report.html"


def test_folders_without_run_or_scores_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys).startswith("64: the following arguments are required: RUN")
    assert refused(capsys, tmp_path).startswith(
        f"66: {tmp_path} is no run: it holds no config.json"
    )
    assert refused(capsys, tmp_path / "none").startswith("66: there is no file or folder ")
    for name in ("config.json", "preprocess.json"):
        (tmp_path / "export").mkdir(exist_ok=True)
        (tmp_path / "export" / name).touch()
    assert "export is an exported model and holds no scores" in refused(capsys, tmp_path / "export")
    mean = made / "mean"
    assert refused(capsys, mean, mean / ".." / "mean").endswith(
        "is given twice; name each run once"
    )
    run = copied(made, tmp_path)
    scores = RunFolder(run).scores("val", 20) / "scores.npz"
    scores.write_bytes(scores.read_bytes()[:-40])
    assert refused(capsys, run).startswith(f"65: {scores} is damaged")
    scores.unlink()
    assert refused(capsys, run).startswith("65: no scores in ")
    RunFolder(run).record.write_text("{}")
    shutil.rmtree(RunFolder(run).evaluation)
    assert refused(capsys, run).startswith(f"65: {run} has no evaluation of split 'val'; run gap_")
    shutil.copytree(RunFolder(mean).evaluation, RunFolder(run).evaluation)
    assert refused(capsys, run).startswith(f"66: {RunFolder(run).record} cannot be used")
    shutil.copy(RunFolder(mean).record, RunFolder(run).record)
    shutil.rmtree(RunFolder(run).checkpoints)
    assert refused(capsys, run, "--out", tmp_path / "x.html").startswith("66: no good checkpoint")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.slow
def test_runs_on_different_images_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = prepare_tiny_people(tmp_path / "data")
    cfg = tiny_config(tmp_path / "data", STAGE, parts="mean,demo")
    evaluate_run(tmp_path / "other", cfg, other, {20: 1.0})
    line = refused(capsys, made / "mean", tmp_path / "other")
    assert line.startswith("66: ") and f"{other.fingerprint}; report them separately" in line
    assert str(made / "mean") in line and str(tmp_path / "other") in line
    data = manifest.load(made / "data")
    cfg = tiny_config(made / "data", STAGE, "data.eval_split=train", parts="mean,demo")
    run = evaluate_run(tmp_path / "train", cfg, data, {20: 1.0})
    (RunFolder(run).evaluation / "val").rename(RunFolder(run).evaluation / "train")
    assert "evaluated on splits 'val' and 'train'; report" in refused(capsys, made / "mean", run)
    run = copied(made, tmp_path)
    place = RunFolder(run).scores("val", 20) / "scores.npz"
    with np.load(place) as held:
        fields = dict(held)
    np.savez(place, **{**fields, "ids": fields["ids"] + 1})
    assert "6 and 6 images, not the same ones" in refused(capsys, made / "pose", run)
    np.savez(place, **{**fields, "labels": fields["labels"][::-1]})
    assert "evaluated on other labels" in refused(capsys, made / "pose", run)
    np.savez(place, **{**fields, "logits": fields["logits"][:, :2]})
    assert "are of 2 classes and the run has 3; evaluate again" in refused(capsys, run)


def test_missing_data_and_unwritable_paths_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made / "mean"
    assert refused(capsys, run, "--data", tmp_path).startswith(
        f"65: no prepared data of {run} in {tmp_path}"
    )
    prepare_tiny_people(tmp_path / "other")
    line = refused(capsys, run, "--data", tmp_path / "other")
    assert line.startswith(f"66: {run} was trained on data with fingerprint ")
    assert refused(capsys, run, "--out", tmp_path).startswith(f"73: {tmp_path} is a folder; name a")
    taken = tmp_path / "file"
    taken.write_text("")
    assert refused(capsys, run, "--out", taken / "x.html").startswith("73: cannot write ")
