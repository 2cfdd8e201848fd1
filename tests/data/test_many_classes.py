"""A folder of ten thousand classes is read at once."""

from pathlib import Path

from data_pipelines.datasets import folder
from data_pipelines.datasets.own_photos import Options


def test_ten_thousand_classes_are_read(tmp_path: Path) -> None:
    for index in range(10_000):
        path = tmp_path / f"class {index:05}"
        path.mkdir()
        (path / "1.jpg").touch()
    raw = folder.read(tmp_path, Options())
    assert len(raw.classes) == len(raw.splits["train"].entries) == 10_000
    assert raw.splits["train"].entries[-1].label == 9_999
