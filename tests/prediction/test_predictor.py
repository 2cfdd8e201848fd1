"""Logits of predictions are evaluation's to the bit; answers are in order and name their faults."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import Mesh

import gap_jax
from data_pipelines import manifest, records
from data_pipelines.core.errors import CheckpointError, ConfigError, DataError
from data_pipelines.core.parallel import map_ahead
from data_pipelines.decode import decode
from data_pipelines.example import HostBatch
from gap_jax.batch import Batch
from gap_jax.commands.evaluate import score_model
from gap_jax.config import Config
from gap_jax.learning.sharding import globalise
from gap_jax.prediction.answer import Answer
from gap_jax.prediction.predictor import Predictor
from gap_jax.prediction.sources import Refused
from gap_jax.saved.export import export
from gap_jax.saved.model import Opened
from tests.support.saved_runs import prepare_run
from tests.support.tiny_data import CLASSES

COUNT = 11  # a batch of eight and a part of another


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves a run with a pose branch."""
    sizes = {"train": 1, "val": COUNT, "test": 0}
    return prepare_run(tmp_path_factory.mktemp("saved"), steps={2: 0.5}, sizes=sizes)[0]


@pytest.fixture(scope="module")
def model(run: Path) -> Predictor:
    return gap_jax.load(run)


@pytest.fixture(scope="module")
def photographs(run: Path) -> list[Path]:
    """Writes the stored images as files."""
    folder = run.parent / "data"
    stored = records.open_split(folder, "val", manifest.load(folder))
    paths = [run.parent / f"{index:02}.jpg" for index in range(len(stored))]
    for path, index in zip(paths, range(len(stored)), strict=True):
        path.write_bytes(stored[index]["image"])
    return paths


def with_data(opened: Opened, **settings: object) -> Opened:
    cfg = opened.cfg
    data = dataclasses.replace(cfg.data, **settings)
    return dataclasses.replace(opened, cfg=dataclasses.replace(cfg, data=data))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eval_crops": "full", "preprocessing": "modern"},
        {"eval_crops": "three", "resize": "antialias"},
        {"eval_crops": "five", "eval_flip": True, "resize": "legacy", "limit_width_px": 50},
    ],
    ids=str,
)
def test_logits_are_those_of_evaluation_to_the_bit(
    model: Predictor, photographs: list[Path], settings: dict[str, object]
) -> None:
    opened = with_data(model.opened, **settings)
    due = score_model(opened, "val")[0].logits
    predictor = Predictor(opened)
    answers = predictor.predict([*photographs])
    np.testing.assert_array_equal([answer.logits for answer in answers], due)
    assert [answer.name for answer in answers] == list(map(str, photographs))
    np.testing.assert_array_equal(predictor.predict(str(photographs[9])).logits, due[9])


def test_export_gives_the_logits_of_its_evaluation(
    run: Path, photographs: list[Path], tmp_path: Path
) -> None:
    exported = export(run, tmp_path / "exported")
    answers = gap_jax.load(tmp_path / "exported").predict([*photographs])
    due = score_model(exported, "val")[0].logits
    np.testing.assert_array_equal([answer.logits for answer in answers], due)


def test_few_images_take_a_small_batch_where_a_whole_one_costs(
    model: Predictor, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = model.opened.cfg
    large = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch_size=48))
    predictor = Predictor(dataclasses.replace(model.opened, cfg=large))
    sizes: list[int] = []

    def count(batches: list[HostBatch], mesh: Mesh) -> Batch:
        sizes.extend(len(batch.id) for batch in batches)
        return globalise(batches, mesh)

    monkeypatch.setattr("gap_jax.prediction.predictor.globalise", count)
    monkeypatch.setattr("gap_jax.prediction.predictor.MOST_PADDED_PX", 48 * 32**2)
    due = predictor.predict(photographs[3]).logits
    monkeypatch.setattr("gap_jax.prediction.predictor.MOST_PADDED_PX", 48 * 32**2 - 1)
    one = predictor.predict(photographs[3]).logits
    many = [answer.logits for answer in predictor.predict([*photographs * 5])]
    predictor.predict([*photographs[:8]])
    predictor.predict([*photographs[:9]])
    assert sizes == [48, 8, 48, 48, 8, 48]  # one row for each of eight devices
    np.testing.assert_array_equal(many[3::COUNT], [due] * 5)
    np.testing.assert_allclose(one, due, rtol=1e-4, atol=1e-5 * np.abs(due).max())


def test_arrays_are_answered_as_their_files(model: Predictor, photographs: list[Path]) -> None:
    image = decode(photographs[5].read_bytes())
    answer, named = model.predict(image), model.predict(photographs[5])
    np.testing.assert_array_equal(answer.logits, named.logits)
    np.testing.assert_array_equal(answer.image, image)
    np.testing.assert_array_equal(named.image, image)
    for wrong in (image[..., 0], image.astype(float), image[:0]):
        with pytest.raises(DataError, match=r"array: it has shape .* and type .*; pass RGB"):
            model.predict(wrong)


def test_faults_stay_between_the_answers(model: Predictor, photographs: list[Path]) -> None:
    refused = Refused("there.jpg", "it is not there")
    inputs = [*photographs, refused, Path("missing.png"), photographs[0]]
    found = list(model.predict_each(inputs))
    assert [each.name for each in found] == [
        *map(str, photographs), "there.jpg", "missing.png", str(photographs[0])
    ]  # fmt: skip
    assert found[-3:-1] == [refused, Refused("missing.png", "there is no such file")]
    assert isinstance(found[-1], Answer) and isinstance(found[0], Answer)
    np.testing.assert_array_equal(found[-1].logits, found[0].logits)
    assert list(model.predict_each([])) == [] and list(model.predict_each([refused])) == [refused]
    with pytest.raises(DataError, match=r"missing\.png: there is no such file"):
        model.predict("missing.png")


def test_probabilities_follow_the_kind_of_labels(model: Predictor, photographs: list[Path]) -> None:
    answer = model.predict(photographs[0])
    scaled = dataclasses.replace(answer, logits=np.array([1.0, 3.0, -2.0], np.float32))
    powers = np.exp(np.array([1.0, 3.0, -2.0]))
    np.testing.assert_allclose(scaled.probabilities, powers / powers.sum(), rtol=1e-12)
    assert scaled.top(2) == [
        (CLASSES[1], pytest.approx(powers[1] / powers.sum())),
        (CLASSES[0], pytest.approx(powers[0] / powers.sum())),
    ]
    multi = dataclasses.replace(scaled, is_multi_label=True)
    np.testing.assert_allclose(multi.probabilities, powers / (1 + powers), rtol=1e-12)
    origin = dataclasses.replace(model.opened.origin, label_kind="multi")
    predictor = Predictor(dataclasses.replace(model.opened, origin=origin))
    assert predictor.predict(photographs[0]).is_multi_label and not answer.is_multi_label
    huge = dataclasses.replace(scaled, logits=np.array([1e4, -1e4, 0.0], np.float32))
    assert huge.probabilities.tolist() == [1.0, 0.0, 0.0]


def test_drawn_data_are_noted(model: Predictor) -> None:
    assert "was trained on drawn people: on photographs its answers mean little" in model.note
    assert Predictor(with_data(model.opened, name="mpii")).note == ""


def test_models_that_take_no_images_are_refused(model: Predictor, tmp_path: Path) -> None:
    cfg: Config = model.opened.cfg
    pose = dataclasses.replace(cfg.pose, weight=0.0)
    clips = dataclasses.replace(cfg, pose=pose, model=dataclasses.replace(cfg.model, frames=4))
    with pytest.raises(ConfigError, match="takes clips of 4 frames"):
        Predictor(dataclasses.replace(model.opened, cfg=clips))
    with pytest.raises(
        CheckpointError, match=r"there is no file or folder .*none; name the folder"
    ):
        gap_jax.load(tmp_path / "none")


def test_threads_keep_the_order_and_compute_little_ahead() -> None:
    begun: list[int] = []

    def start(item: int) -> int:
        begun.append(item)
        return 10 // item

    found = map_ahead(start, iter([5, 2, 1, 0, 3]), ahead=2)
    assert next(found) == 2 and len(begun) <= 3
    assert [next(found), next(found)] == [5, 10]
    with pytest.raises(ZeroDivisionError):
        next(found)
