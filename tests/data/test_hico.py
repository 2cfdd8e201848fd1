"""HICO's annotation file: the four values of a label, the objects, damage, and the real file."""

import importlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from data_pipelines import manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.core.errors import DataError
from data_pipelines.datasets import joints
from data_pipelines.datasets.still import hico, hico_mat
from data_pipelines.example import AMBIGUOUS, JOINTS, NEGATIVE, OBJECT_ABSENT, POSITIVE, UNKNOWN
from data_pipelines.loader import training_batches
from gap_jax import cli
from tests.support.mat_fixtures import cell_array, struct_array
from tests.support.still_data import PAIRS, draw_hico_labels, hico_names, write_hico
from tests.support.tiny_data import build

NAN = np.nan
TEST = np.array([[1, -1, 0, NAN, NAN, NAN], [NAN, NAN, 0, 1, NAN, NAN]]).T


@pytest.fixture(autouse=True)
def parse_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child for each file takes half a second."""

    def parse(module: str, path: Path) -> Any:
        return json.loads(json.dumps(importlib.import_module(module).parse(path)))

    for reader in (hico, joints):
        monkeypatch.setattr(reader, "parse_in_child", parse)


def test_the_values_of_labels_stay_apart_up_to_the_batch(tmp_path: Path) -> None:
    """An unknown label tells whether another label of its object is known."""
    train = draw_hico_labels(0, 8)
    write_hico(tmp_path, train, TEST)
    raw = hico.read(tmp_path / "anno.mat", tmp_path / "images")
    assert raw.classes[:2] == ("board airplane", "no_interaction airplane")
    assert raw.provenance["objects"] == [noun for _, noun in PAIRS]
    assert [entry.source_index for entry in raw.splits["train"].entries] == list(range(1, 9))
    assert raw.notes[1] == "test: labels of 2 images: 2 +1, 1 -1, 2 0, 7 NaN"
    build(tmp_path / "out", raw)
    prepared = manifest.load(tmp_path / "out")
    split = records.open_split(tmp_path / "out", "test", prepared)
    airplane, horse, zebra = [POSITIVE, NEGATIVE], [AMBIGUOUS, UNKNOWN, UNKNOWN], [OBJECT_ABSENT]
    assert split[0]["label"].tolist() == airplane + horse + zebra
    assert (
        split[1]["label"].tolist() == [OBJECT_ABSENT] * 2 + [AMBIGUOUS, POSITIVE, UNKNOWN] + zebra
    )
    assert prepared.splits["test"].class_counts == (1, 0, 0, 1, 0, 0)
    assert prepared.splits["train"].class_counts == tuple((train == 1).sum(1).tolist())
    data = DataConfig(root=str(tmp_path / "out"), image_size_px=16, short_side_px=20)
    with training_batches(data, prepared, seed=0, batch_size=8) as batches:
        batch = next(batches)
    written = np.where(np.isnan(train), NAN, np.maximum(train, -1)).T[batch.id]
    assert np.array_equal(batch.label == POSITIVE, written == 1)
    assert np.array_equal(batch.label == NEGATIVE, written == -1)
    assert np.array_equal(batch.label == AMBIGUOUS, written == 0)
    assert np.array_equal(batch.label <= UNKNOWN, np.isnan(written))
    assert batch.weight.tolist() == [1] * 8


def test_an_image_without_a_known_label_trains_with_weight_0(tmp_path: Path) -> None:
    labels = np.array([[1, 1, NAN, NAN, NAN, NAN], [0, NAN, NAN, NAN, NAN, NAN]]).T
    write_hico(tmp_path, labels, TEST)
    build(tmp_path / "out", hico.read(tmp_path / "anno.mat", tmp_path / "images"))
    prepared = manifest.load(tmp_path / "out")
    assert prepared.splits["train"].labelled == 1
    data = DataConfig(root=str(tmp_path / "out"), image_size_px=16, short_side_px=20)
    with training_batches(data, prepared, seed=0, batch_size=2) as batches:
        batch = next(batches)
    assert batch.weight[batch.id].tolist() == [1, 0]


def test_images_come_from_an_archive_or_one_folder_and_absent_ones_are_rejects(
    tmp_path: Path,
) -> None:
    write_hico(tmp_path, draw_hico_labels(0, 3), TEST)
    with tarfile.open(tmp_path / "hico.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "images", "hico_20150920/images")
    (tmp_path / "flat").mkdir()
    for path in sorted((tmp_path / "images").rglob("*.jpg"))[1:]:
        path.rename(tmp_path / "flat" / path.name)
    spool = tmp_path / "spool"
    raw = hico.read(tmp_path / "anno.mat", tmp_path / "hico.tar.gz", spool=spool)
    assert [len(each.entries) for each in raw.splits.values()] == [3, 2] and not raw.rejects
    raw = hico.read(tmp_path / "anno.mat", tmp_path / "flat")
    [reject] = raw.rejects
    assert reject == ("test", hico_names("test", 2)[0], "has no file among the images")
    assert [each.listed for each in raw.splits.values()] == [3, 2]


def test_joints_of_a_file_belong_to_their_images(tmp_path: Path) -> None:
    write_hico(tmp_path, draw_hico_labels(0, 2), TEST)
    point = [20, 10, 2]
    names = [joint.replace(" ", "_") for joint in JOINTS]
    content = {
        "images": [{"id": 1, "file_name": hico_names("train", 2)[1]}],
        "annotations": [{"image_id": 1, "category_id": 1, "keypoints": point * 16}],
        "categories": [{"id": 1, "name": "person", "keypoints": names}],
    }
    (tmp_path / "joints.json").write_text(json.dumps(content), "utf-8")
    raw = hico.read(tmp_path / "anno.mat", tmp_path / "images", tmp_path / "joints.json")
    found = [entry.keypoints for entry in raw.splits["train"].entries]
    assert len(found[0]) == 0 and found[1].tolist() == [[point] * 16]


def test_openpose_joints_go_from_their_files_to_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write_hico(tmp_path, draw_hico_labels(0, 2), TEST)
    words = ["data", "prepare", "hico", *(str(each) for pair in given.items() for each in pair)]
    words += ["--joints", str(tmp_path / "joints"), "--out", str(tmp_path / "out")]
    people = {"train2015_00000002": 2, "test2015_00000001": 1, "test2015_00000002": 0}
    (tmp_path / "joints").mkdir()
    assert cli.main(words) == 65
    assert "--joints" in (line := capsys.readouterr().err) and "holds no file of the 4" in line
    for name, count in people.items():
        path = tmp_path / "joints" / f"HICO_{name}" / "image_00001.json"
        path.parent.mkdir()
        bodies = [{"joints": [float(10 * number + 1)] * 54} for number in range(count)]
        path.write_text(json.dumps({"bodies": bodies}), "utf-8")
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "joints: people in 2 of 4 images" in told
    assert "1 images without people, as their file is absent" in told
    prepared = manifest.load(tmp_path / "out")
    assert prepared.max_people == 2 and prepared.provenance["joints"] == "joints"
    for split, (first, second) in {"train": (0, 2), "test": (1, 0)}.items():
        source = records.open_split(tmp_path / "out", split, prepared)
        assert [len(source[index]["keypoints"]) for index in (0, 1)] == [first, second]
    shown = records.open_split(tmp_path / "out", "train", prepared)[1]["keypoints"]
    unmapped = [JOINTS.index("pelvis"), JOINTS.index("thorax")]
    assert not shown[:, unmapped].any()
    assert (np.delete(shown, unmapped, axis=1) == [[[1, 1, 2]], [[11, 11, 2]]]).all()


def variables(path: Path) -> dict[str, Any]:
    found = scipy.io.loadmat(path)
    return {name: value for name, value in found.items() if not name.startswith("__")}


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda held: held.pop(name)


def put(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda held: held.update(values)


DAMAGES = {
    "no variable anno_test": without("anno_test"),
    "list_action(1) has no vname and nname": put(list_action=struct_array([{"x": "y"}] * 6)),
    "list_action(1) has an empty vname": put(
        list_action=struct_array([{"vname": "", "nname": "cat"}] * 6)
    ),
    "anno_train(2,1) is 2, not 1, -1, 0 or NaN": put(
        anno_train=np.array([[1, 1], [2, 1], *[[0, NAN]] * 4])
    ),
    "list_action is empty": put(list_action=np.zeros((0, 0)), anno_train=np.zeros((0, 2))),
    "anno_train has shape (2, 6)": put(anno_train=np.ones((2, 6))),
    "anno_train is no matrix of numbers": put(anno_train="text"),
    "list_test is np.float64(3.0), not text": put(list_test=cell_array([3.0, 4.0])),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damaged_annotations_are_refused_in_one_line(message: str, tmp_path: Path) -> None:
    write_hico(tmp_path, draw_hico_labels(0, 2), TEST)
    held = variables(tmp_path / "anno.mat")
    DAMAGES[message](held)
    scipy.io.savemat(tmp_path / "anno.mat", held)
    with pytest.raises(DataError) as refusal:
        hico_mat.parse(tmp_path / "anno.mat")
    text = str(refusal.value)
    assert message in text and "\n" not in text and hico_mat.FIX in text


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotation file .*; get hico_20150920"):
        hico.read(tmp_path / "anno.mat", tmp_path)
    write_hico(tmp_path, draw_hico_labels(0, 2), TEST)
    with pytest.raises(DataError, match=r"no images at .*; get hico_20150920"):
        hico.read(tmp_path / "anno.mat", tmp_path / "none")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none of the listed images is in"):
        hico.read(tmp_path / "anno.mat", tmp_path / "none")


@pytest.mark.slow
def test_the_real_annotations_have_the_published_counts(
    reference_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the child's memory suffices
    path = reference_data / "hico" / "anno.mat"
    if not path.exists():
        pytest.skip("GAP_JAX_REFERENCE_DATA has no hico/anno.mat")
    found = hico.read_annotations(path)
    assert len(found.classes) == len(set(found.classes)) == 600
    assert len({noun for _, noun in found.classes}) == 80
    counts = {
        split: [int((listed.labels == value).sum()) for value in (POSITIVE, NEGATIVE, AMBIGUOUS)]
        for split, listed in found.splits.items()
    }
    assert counts == {"train": [70_369, 245_616, 35_238], "test": [20_268, 61_912, 7_872]}
    assert [len(listed.names) for listed in found.splits.values()] == [38_116, 9_658]
    for listed in found.splits.values():
        assert (listed.labels == POSITIVE).any(axis=0).all()
        assert not (listed.labels == UNKNOWN).any(), "an object is annotated wholly or not at all"
