"""`gap_jax evaluate RUN --split test --submission FILE.mat`, in the form of MPII's organisers."""

import contextlib
import dataclasses
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io

import gap_jax
from data_pipelines import manifest
from data_pipelines.core.errors import CannotWrite, DataError
from gap_jax import cli
from gap_jax.evaluation import evaluate, submission
from gap_jax.prediction.answer import Answer
from tests.support.saved_runs import save_run, tiny_config
from tests.support.saved_states import plan_fault
from tests.support.tiny_data import CLASSES, build, tiny_data

TEST_IMAGES = 11


class Submitted(NamedTuple):
    """A run on drawn people whose test split was submitted."""

    run: Path
    file: Path
    printed: str

    @property
    def data(self) -> Path:
        return self.run.parent / "people"

    @property
    def content(self) -> dict[str, np.ndarray]:
        return scipy.io.loadmat(self.file, appendmat=False)


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    folder = tmp_path_factory.mktemp("submitted")
    sizes = ["--train", "8", "--val", "8", "--test", str(TEST_IMAGES)]
    data = folder / "people"
    assert cli.main(["data", "prepare", "people", *sizes, "--out", str(data)]) == 0
    cfg = tiny_config(data, "model.stage=2")
    save_run(folder / "run", cfg, manifest.load(data), {2: 0.5})
    file = folder / "new" / "answers.mat"
    words = ["evaluate", str(folder / "run"), "--split", "test", "--submission", str(file)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(words) == 0
    return Submitted(folder / "run", file, printed.getvalue())


def read_annotated(data: Path) -> list[str]:
    """Reads the file name of each row of the annotations."""
    annotated = scipy.io.loadmat(data / "raw/annotations.mat", struct_as_record=False)
    rows = annotated["RELEASE"][0, 0].annolist[0]
    return [str(row.image[0, 0].name[0]) for row in rows]


def test_submission_holds_what_predict_answers(submitted: Submitted) -> None:
    content, classes = submitted.content, manifest.load(submitted.data).classes
    fields = {name for name in content if not name.startswith("__")}
    assert fields == {"sample_ids", "class_ids", "scores"}
    assert content["sample_ids"].shape == (TEST_IMAGES, 1)
    assert content["class_ids"].shape == (1, len(classes))
    assert [each.item() for each in content["class_ids"][0]] == list(classes)
    assert content["scores"].shape == (TEST_IMAGES, len(classes))
    annotated = read_annotated(submitted.data)
    names = [annotated[int(row) - 1] for row in content["sample_ids"][:, 0]]
    listed = (submitted.data / "raw/splits/images_mpii_test.txt").read_text("utf-8").split()
    assert names == [f"{name}.jpg" for name in listed]
    paths = [submitted.data / "raw/images" / name for name in names]
    for row, answer in zip(
        content["scores"], gap_jax.load(submitted.run).predict_each(paths), strict=True
    ):
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(row, answer.probabilities)
    assert len({tuple(row) for row in content["scores"].tolist()}) == TEST_IMAGES
    summary = json.loads(submitted.printed.splitlines()[-1])
    assert summary["examples"] == TEST_IMAGES and summary["submission"] == str(submitted.file)
    assert not (submitted.run / "eval").exists()


@pytest.mark.skipif(not shutil.which("octave-cli"), reason="no octave-cli")
def test_octave_reads_the_same_submission(submitted: Submitted) -> None:
    program = (
        f"s = load('{submitted.file}'); printf('%d ', size(s.sample_ids), size(s.class_ids), "
        "size(s.scores)); printf('\\n%d', s.sample_ids); printf('\\n%s', s.class_ids{:}); "
        "printf('\\n%.17g', s.scores);"
    )
    words = ["octave-cli", "--no-init-file", "--no-history", "--eval", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    sizes, *lines = done.stdout.splitlines()
    content = submitted.content
    names = [each.item() for each in content["class_ids"][0]]
    assert sizes.split() == [str(TEST_IMAGES), "1", "1", "8", str(TEST_IMAGES), "8"]
    ids, lines = lines[:TEST_IMAGES], lines[TEST_IMAGES:]
    assert [int(each) for each in ids] == content["sample_ids"][:, 0].tolist()
    assert lines[: len(names)] == names
    scores = np.array(lines[len(names) :], float).reshape(len(names), -1).T  # column by column
    np.testing.assert_array_equal(scores, content["scores"])


def test_ids_belong_to_their_images(tmp_path: Path) -> None:
    """Records whose rows in the annotations are neither dense nor sorted keep them."""
    raw = tiny_data(tmp_path, sizes={"train": 3, "test": 3})
    data = build(tmp_path / "data", raw)
    ids = submission.read_sample_ids(tmp_path / "data", "test", data)
    assert ids.tolist() == [entry.source_index for entry in raw.splits["test"].entries]


def refuse(capsys: pytest.CaptureFixture[str], submitted: Submitted, *words: str | Path) -> str:
    """Returns the exit code and the line of a refused command, which scores nothing."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "score", pytest.fail)
        code = cli.main(["evaluate", str(submitted.run), *map(str, words)])
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return f"{code} {printed.err}"


def test_wrong_data_and_files_are_refused_in_one_line(
    submitted: Submitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.mat"
    submit = "--split", "test", "--submission"
    before = submitted.file.read_bytes()
    line = refuse(capsys, submitted, *submit, submitted.file)
    assert line.startswith("73 ") and "choose another --submission" in line
    assert submitted.file.read_bytes() == before
    (tmp_path / "file").write_text("")
    line = refuse(capsys, submitted, *submit, tmp_path / "file/a.mat")
    assert line.startswith("73 ") and "cannot write" in line
    line = refuse(capsys, submitted, *submit, tmp_path / "a.npz")
    assert line.startswith("64 ") and "must end in .mat" in line
    line = refuse(capsys, submitted, *submit, new, "--out", tmp_path / "out")
    assert line.startswith("64 ") and "--out has no effect with --submission" in line

    raw = tiny_data(tmp_path, sizes={"train": 3, "val": 3})
    classes = manifest.load(submitted.data).classes
    for code, reason, others in (
        (66, "was trained on other classes", {}),
        (65, "has no split 'test'; it has train, val", {"classes": classes}),
        (65, "holds data set folder, and MPII's", {"classes": classes, "name": "folder"}),
    ):
        build(tmp_path / "other", dataclasses.replace(raw, **others), overwrite=True)
        line = refuse(capsys, submitted, *submit, new, "--data", tmp_path / "other")
        assert line.startswith(f"{code} ") and reason in line
    assert not new.exists()


def test_unusable_scores_and_a_full_disk_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, logits = np.array([5, 2]), np.zeros((2, 3), np.float32)
    damaged = np.where(np.eye(2, 3) > 0, np.float32("nan"), logits)
    with pytest.raises(DataError, match="scores of 2 of 2 images are not finite"):
        submission.write(tmp_path / "new.mat", rows, CLASSES, damaged)
    with monkeypatch.context() as patch:
        plan_fault(patch, "files.before_rename:enospc")
        with pytest.raises(CannotWrite, match="no room to write"):
            submission.write(tmp_path / "new.mat", rows, CLASSES, logits)
    assert not list(tmp_path.iterdir())
    for name in ("a.mat", "b.mat"):
        submission.write(tmp_path / name, rows, CLASSES, logits)
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()
