"""`gap_jax data joints`: the mapping, unusable files, a detector that crashes or hangs."""

import functools
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.datasets import joints
from data_pipelines.datasets.joints import DERIVED
from data_pipelines.example import JOINTS
from data_pipelines.joints import detector as driver
from data_pipelines.joints.detect import DETECTOR_PX, detect, list_images
from data_pipelines.joints.detector import open_detector
from data_pipelines.joints.landmarks import map_landmarks
from gap_jax import cli
from gap_jax.commands import data as commands

# finds landmarks at the first red pixel; a blue first pixel crashes it, a green one hangs it
FAKE = """
import json, os, sys, time
print(json.dumps("fake"), flush=True)
for line in sys.stdin.buffer:
    size = json.loads(line)
    height, width = size["height"], size["width"]
    pixels = sys.stdin.buffer.read(3 * height * width)
    if pixels[:3] == bytes((0, 0, 255)):
        sys.exit("out of luck")
    if pixels[:3] == bytes((0, 255, 0)):
        time.sleep(60)
    red = [i for i in range(height * width) if pixels[3 * i] > 250 and pixels[3 * i + 1] < 5]
    y, x = divmod(red[0] if red else 0, width)
    found = [[(x + 0.5) / width, (y + 0.5) / height, 0.9]] * 33
    print(json.dumps(found if red else None), flush=True)
"""


def picture_of(width: int, height: int, red: tuple[int, int] | None, **options: Any) -> bytes:
    """Encodes a grey PNG, with a red pixel at (x, y)."""
    image = Image.new("RGB", (width, height), "grey")
    if red:
        image.putpixel(red, (255, 0, 0))
    content = io.BytesIO()
    image.save(content, "PNG", **options)
    return content.getvalue()


def plain(width: int, height: int, colour: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(content, "PNG")
    return content.getvalue()


def fill(root: Path, **contents: bytes) -> Path:
    """Writes files; __ in a name stands for a folder."""
    for name, content in contents.items():
        path = root / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces the detector's script."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    chosen = functools.partial(open_detector, script=script)
    monkeypatch.setattr(commands, "open_detector", chosen)
    return script


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the keypoints by file name, and the whole content."""
    content = json.loads(path.read_text())
    names = {each["id"]: each["file_name"] for each in content["images"]}
    found = {
        names[each["image_id"]]: np.reshape(each["keypoints"], (16, 3))
        for each in content["annotations"]
    }
    return found, content


def test_joints_are_the_documented_landmarks() -> None:
    """Each landmark lies at its own number, so that a joint names its source."""
    landmarks = np.column_stack([np.arange(33) / 100, np.arange(33) / 50, np.full(33, 0.9)])
    found, scores = map_landmarks(landmarks, 100, 50)
    x = dict(zip(JOINTS, found[:, 0] + 0.5, strict=True))
    neck = ((11 + 12) / 2 + (9 + 10) / 2) / 2
    assert x == pytest.approx(
        {
            "right ankle": 28, "right knee": 26, "right hip": 24, "left hip": 23, "left knee": 25,
            "left ankle": 27, "pelvis": 23.5, "thorax": 11.5, "upper neck": neck,
            "head top": neck + 2 * (7.5 - neck), "right wrist": 16, "right elbow": 14,
            "right shoulder": 12, "left shoulder": 11, "left elbow": 13, "left wrist": 15,
        }
    )  # fmt: skip
    assert np.allclose(found[:, 1], found[:, 0]) and (found[:, 2] == 2).all()
    assert np.allclose(scores, 0.9)


def test_visibility_and_borders_decide_the_flag() -> None:
    landmarks = np.full((33, 3), 0.5)
    landmarks[16, 2], landmarks[14, 0], landmarks[11, 2] = 0.49, 1.01, 0.2
    found, scores = map_landmarks(landmarks, 40, 20)
    flags = dict(zip(JOINTS, found[:, 2], strict=True))
    assert flags["right wrist"] == 1 and flags["left wrist"] == 2
    assert found[JOINTS.index("right elbow")].tolist() == [0, 0, 0]
    assert scores[JOINTS.index("right elbow")] == 0
    assert flags["thorax"] == 1 and scores[JOINTS.index("thorax")] == 0.2
    assert found[JOINTS.index("pelvis"), :2].tolist() == [19.5, 9.5]


@pytest.mark.usefixtures("fake")
def test_pixels_are_found_where_they_are(tmp_path: Path) -> None:
    """Also below the size at which the detector sees a picture."""
    root = fill(
        tmp_path / "photos", a__one=picture_of(30, 20, (7, 11)), b__none=picture_of(9, 9, None)
    )
    assert cli.main(["data", "joints", str(root), "--out", str(tmp_path / "out.json")]) == 0
    found, content = read(tmp_path / "out.json")
    assert list(found) == ["a/one.png"]
    assert found["a/one.png"][0].tolist() == [7, 11, 2]
    assert [each["file_name"] for each in content["images"]] == ["a/one.png", "b/none.png"]
    assert content["categories"][0]["keypoints"] == list(JOINTS)
    assert content["derived"] == list(DERIVED) and content["refused"] == []
    (person,) = content["annotations"]
    assert person["score"] == 0.9 and person["num_keypoints"] == 16
    assert content["info"]["detector"] == "mediapipe fake, BlazePose"
    derived, rows = joints.parse(tmp_path / "out.json")
    assert tuple(derived) == DERIVED
    assert rows[0][:2] == ("a/one.png", [30, 20]) and rows[1][2] == []
    ((keypoints, box),) = rows[0][2]
    assert box is None
    np.testing.assert_array_equal(keypoints, found["a/one.png"])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_coordinates_are_of_the_upright_picture(
    orientation: int, tmp_path: Path, fake: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = fill(tmp_path / "photos", a=picture_of(30, 20, (7, 11), exif=exif))
    with open_detector(script=fake) as detector:
        detect(root, tmp_path / "out.json", detector.find, detector="fake")
    found, content = read(tmp_path / "out.json")
    wanted = {1: (7, 11), 3: (22, 8), 6: (8, 7), 8: (11, 22)}[orientation]
    assert tuple(found["a.png"][0, :2]) == wanted
    size = (30, 20) if orientation in (1, 3) else (20, 30)
    assert (content["images"][0]["width"], content["images"][0]["height"]) == size


def test_large_pictures_are_shrunk_for_the_detector_only(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", a=picture_of(3 * DETECTOR_PX, DETECTOR_PX, None))
    sizes: list[tuple[int, ...]] = []

    def find(picture: np.ndarray) -> np.ndarray:
        sizes.append(picture.shape)
        return np.full((33, 3), 0.5)

    detect(root, tmp_path / "out.json", find, detector="still")
    assert sizes == [(round(DETECTOR_PX / 3), DETECTOR_PX, 3)]
    found, _ = read(tmp_path / "out.json")
    assert found["a.png"][0, 0] == 1.5 * DETECTOR_PX - 0.5


@pytest.mark.usefixtures("fake")
def test_unusable_files_are_named_and_the_others_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "PICTURE_TIMEOUT_S", 1.0)
    good = picture_of(8, 8, (1, 2))
    root = fill(
        tmp_path / "photos", a=good, b=plain(8, 8, (0, 0, 255)), c=good[:50],
        d=plain(8, 8, (0, 255, 0)), e=good,
    )  # fmt: skip
    os.mkfifo(root / "f.png")
    (root / "g\x1b[1m.png").write_bytes(b"")
    assert cli.main(["data", "joints", str(root), "--out", str(tmp_path / "out.json")]) == 65
    found, content = read(tmp_path / "out.json")
    assert list(found) == ["a.png", "e.png"]
    reasons = {each["file_name"]: each["reason"] for each in content["refused"]}
    assert reasons["b.png"] == "the detector failed on it (out of luck)"
    assert "cut off" in reasons["c.png"]
    assert reasons["d.png"] == "the detector failed on it (no answer in 1 s)"
    assert reasons["f.png"] == "it is not a regular file" and "empty" in reasons["g\x1b[1m.png"]
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "5 of 7 images cannot be used" in printed.err
    assert "\x1b" not in printed.out + printed.err


def test_the_images_are_those_that_a_folder_of_photographs_has(tmp_path: Path) -> None:
    good = picture_of(8, 8, None)
    root = fill(tmp_path / "photos", z=good, a__b=good, __MACOSX__c=good)
    fill(root / ".ipynb_checkpoints", d=good)
    fill(tmp_path / "elsewhere", f=good)
    (root / "loop").symlink_to(root)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "._e.png").write_bytes(good)
    (root / "notes.txt").write_text("no image")
    (root / "p.JFIF").touch()
    assert list_images(root) == ["a/b.png", "link/f.png", "p.JFIF", "z.png"]


@pytest.mark.usefixtures("fake")
def test_refusals_come_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "photos", a=picture_of(8, 8, None))
    (tmp_path / "there.json").write_text("mine")
    for code, words, text in (
        (73, [str(root), "--out", str(tmp_path / "there.json")], "stays untouched"),
        (65, [str(tmp_path / "absent"), "--out", str(tmp_path / "o.json")], "No such file"),
        (65, [str(tmp_path / "photos" / "a.png"), "--out", str(tmp_path / "o.json")], "a.png"),
        (64, [str(root), "--out", str(tmp_path / "o.json"), "--python", "nowhere"], "cannot be"),
    ):
        assert cli.main(["data", "joints", *words]) == code
        err = capsys.readouterr().err
        assert text in err and err.count("\n") == 1, err
    assert (tmp_path / "there.json").read_text() == "mine" and not (tmp_path / "o.json").exists()
    (root / "a.png").unlink()
    assert cli.main(["data", "joints", str(root), "--out", str(tmp_path / "o.json")]) == 65
    assert "holds no images" in capsys.readouterr().err


def test_absent_package_is_named_with_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill(tmp_path / "photos", a=picture_of(8, 8, None))
    assert cli.main(["data", "joints", str(root), "--out", str(tmp_path / "out.json")]) == 64
    err = capsys.readouterr().err
    assert "No module named 'mediapipe'" in err and err.count("\n") == 1
    assert "mp/bin/pip install mediapipe==0.10.14" in err and "--python mp/bin/python" in err


def test_wrong_answers_are_refused(tmp_path: Path) -> None:
    script = tmp_path / "odd.py"
    script.write_text(
        "import sys, json\nprint(json.dumps('odd'), flush=True)\n"
        "answers = iter(['[[1, 2]]', '{}', 'NaN', 'no json'])\n"
        "for line in sys.stdin.buffer:\n    sys.stdin.buffer.read(12)\n"
        "    print(next(answers), flush=True)\n"
    )
    with open_detector(script=script) as detector:
        for _ in range(4):
            with pytest.raises(DataError, match="the detector"):
                detector.find(np.zeros((2, 2, 3), np.uint8))


def test_real_detector_finds_people(tmp_path: Path) -> None:
    """GAP_JAX_MEDIAPIPE names a Python with mediapipe, GAP_JAX_PHOTOS a folder of people."""
    python, photos = (os.environ.get(f"GAP_JAX_{name}") for name in ("MEDIAPIPE", "PHOTOS"))
    if not python or not photos:
        pytest.skip("GAP_JAX_MEDIAPIPE and GAP_JAX_PHOTOS name no detector and photographs")
    names = list_images(Path(photos))
    for name in names[:: max(1, len(names) // 12)]:
        (tmp_path / "few" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "few" / name).write_bytes((Path(photos) / name).read_bytes())
    with open_detector(python) as detector:
        detect(tmp_path / "few", tmp_path / "out.json", detector.find, detector="mediapipe")
    found, content = read(tmp_path / "out.json")
    assert len(found) >= len(content["images"]) / 2
    upright = [each[JOINTS.index("head top"), 1] < each[JOINTS.index("pelvis"), 1]
               for each in found.values() if each[JOINTS.index("pelvis"), 2]]  # fmt: skip
    assert np.mean(upright) > 0.7
