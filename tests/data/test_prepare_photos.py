"""`gap_jax data prepare folder` and `csv`: their options, refusals, and files that change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines import manifest, prepare
from data_pipelines.core.errors import DataError
from data_pipelines.example import JOINTS
from data_pipelines.photographs import intake
from gap_jax import cli
from tests.data.test_folder import TWELVE, photographs, prepared
from tests.support.tiny_data import names_in, standing_people, write_photo


def joints_of(root: Path, name: str) -> Path:
    """Writes a file with the joints of a person in one photograph."""
    person = standing_people(1, 60, 44).ravel().tolist()
    path = root.parent / "joints.json"
    path.write_text(json.dumps({
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"image_id": 1, "category_id": 1, "keypoints": person}],
        "categories": [{"id": 1, "keypoints": JOINTS}],
    }))  # fmt: skip
    return path


def test_options_reach_the_data(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    joints = joints_of(root, TWELVE[0])
    expected = prepared(root, seed=3, val_fraction=0.5, joints=joints, max_width_px=50)
    (root / "ant" / "notes.txt").touch()
    listing = tmp_path / "list.csv"
    listing.write_text("\n".join(f"{name},{name.partition('/')[0]}" for name in TWELVE))
    options = ["--seed=3", "--val-fraction=0.5", f"--joints={joints}", "--max-width=50"]
    for kind, source in (("folder", []), ("csv", [f"--csv={listing}"])):
        out = tmp_path / kind
        words = [kind, *source, f"--root={root}", f"--out={out}", *options]
        assert cli.main(["data", "prepare", *words]) == 0
        made = manifest.load(out)
        assert made.name == kind and made.exif_applied
        assert sum(split.with_joints for split in made.splits.values()) == 1
        for split, held in expected.splits.items():
            assert made.splits[split].ids_sha256 == held.ids_sha256
        assert made.provenance["max_width_px"] == 50


def test_paths_of_a_list_begin_at_its_folder(tmp_path: Path) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    (root / "list.csv").write_text("\n".join(f"{name},{name[:3]}" for name in TWELVE))
    words = [f"--csv={root / 'list.csv'}", f"--out={tmp_path / 'out'}"]
    assert cli.main(["data", "prepare", "csv", *words]) == 0
    assert sum(each.examples for each in manifest.load(tmp_path / "out").splits.values()) == 12


@pytest.mark.parametrize(
    ("out", "code", "message"),
    [
        ("in/out", 64, "in/out lies in --root"),
        ("link/deep/out", 64, "link/deep/out lies in --root"),
        ("in/ant/0.jpg/out", 73, "cannot write"),
        ("file", 73, "is a file"),
    ],
)
def test_an_output_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, out: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photographs(tmp_path / "in", *TWELVE)
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "file").touch()
    words = ["prepare", "folder", f"--root={root}", f"--out={tmp_path / out}"]
    assert cli.main(["data", *words]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert names_in(tmp_path) == ["file", "in", "link"]
    assert len(list(root.rglob("*"))) == len(TWELVE) + 3


def test_a_loop_as_root_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    words = ["prepare", "folder", f"--root={tmp_path / 'loop'}", f"--out={tmp_path / 'out'}"]
    assert cli.main(["data", *words]) == 65
    error = capsys.readouterr().err
    assert "is no folder; pass the folder" in error and error.count("\n") == 1


@pytest.mark.parametrize("change", [Path.unlink, lambda path: write_photo(path, 777)])
def test_a_file_that_changes_while_it_is_prepared_is_named(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photographs(tmp_path / "in", *TWELVE)

    def accept_and_change(*arguments: Any) -> Any:
        found = intake.accept(*arguments)
        change(root / "ant" / "0.jpg")
        return found

    monkeypatch.setattr(prepare, "accept", accept_and_change)
    with pytest.raises(DataError, match=r"ant/0.jpg was changed while it was prepared; run the"):
        prepared(root)
    assert "out" not in names_in(tmp_path)
