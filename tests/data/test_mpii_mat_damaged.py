"""Foreign, damaged and random annotation files give finite keypoints or a one-line refusal."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.core.errors import DataError
from data_pipelines.datasets import mpii, mpii_mat
from data_pipelines.datasets.child import parse_in_child
from data_pipelines.datasets.mpii_mat import parse
from data_pipelines.example import HIDDEN, NOT_ANNOTATED, VISIBLE
from tests.support.mat_fixtures import (
    EMPTY,
    Fields,
    Image,
    point,
    rect,
    release,
    struct_array,
    write_mat,
)


def foreign_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Writes files that are not MPII's; returns each path and a part of its refusal."""
    whole = write_mat(folder / "whole.mat", [Image(f"{index}.jpg") for index in range(9)])
    fields = release([Image("a.jpg"), Image("b.jpg")])
    contents = {
        "other variable": ({"other": 1}, "no variable RELEASE"),
        "a number": ({"RELEASE": 3.0}, "struct"),
        "empty": ({"RELEASE": EMPTY}, "RELEASE is empty"),
        "text field": ({"RELEASE": struct_array([{**fields, "annolist": 'x"y'}])}, "differ"),
        "short act": (
            {"RELEASE": struct_array([{**fields, "act": fields["act"][:1]}])},
            "'act': 1",
        ),
        **{
            f"no {name}": (
                {"RELEASE": struct_array([{k: v for k, v in fields.items() if k != name}])},
                name,
            )
            for name in ("annolist", "img_train", "act", "single_person")
        },
    }
    files = {}
    for kind, (variables, message) in contents.items():
        scipy.io.savemat(folder / f"{kind}.mat", variables)
        files[kind] = (folder / f"{kind}.mat", message)
    for kind, content, message in (
        ("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(2000), "v7.3 format (HDF5)"),
        ("v7.3", b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", "v7.3 format (HDF5)"),
        ("a picture", b"\xff\xd8\xff\xe0" + bytes(4000), "cannot be read"),
        ("nothing", b"", "cannot be read"),
        ("truncated", whole.read_bytes()[:-100], "cannot be read"),
    ):
        (folder / kind).write_bytes(content)
        files[kind] = (folder / kind, message)
    files["a folder"] = (folder, "cannot be read")
    return files


def test_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    for kind, (path, message) in foreign_files(tmp_path).items():
        with pytest.raises(DataError) as refusal:
            parse(path)
        line = str(refusal.value)
        assert message in line and str(path) in line and mpii_mat.FIX in line, (kind, line)
        assert "\n" not in line


ODD_NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.integers(-40, 2000).map(np.int16),
    st.integers(0, 255).map(np.uint8),
    st.just(EMPTY),
)
VISIBILITIES = st.sampled_from([np.uint8(0), np.uint8(1), "0", "1", EMPTY, 1.0, np.nan, 7.0])
POINTS = st.builds(
    lambda joint, x, y, seen: (
        point(joint, x, y) if seen is None else point(joint, x, y, is_visible=seen)
    ),
    st.integers(0, 15),
    ODD_NUMBERS,
    ODD_NUMBERS,
    st.none() | VISIBILITIES,
)
RECTS = st.builds(rect, st.none() | st.lists(POINTS, max_size=5))


@settings(max_examples=30, deadline=None)
@given(people=st.lists(RECTS, max_size=3), as_cells=st.booleans())
def test_any_annotation_gives_finite_keypoints(people: list[Fields], as_cells: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_mat(Path(folder) / "a.mat", [Image(rects=people)], as_cells=as_cells)
        (row,) = parse(path)
    keypoints = mpii.stack_people(row.people)
    visibility = keypoints[..., 2]
    assert keypoints.dtype == np.float32 and len(keypoints) <= len(people)
    assert np.isfinite(keypoints).all()
    assert np.isin(visibility, (NOT_ANNOTATED, HIDDEN, VISIBLE)).all()
    assert not keypoints[visibility == NOT_ANNOTATED].any()
    assert (keypoints[visibility != NOT_ANNOTATED, :2] > -2).all()


PARSE_EACH_IN_A_FORK = """
import os, pathlib, sys
from data_pipelines.datasets import child, mpii_mat
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    if not (pid := os.fork()):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            code = child.main(mpii_mat.__name__, str(path), "20", str(2**31))
            sys.stdout.flush()
        except BaseException as error:
            sys.stderr.write(f"{path.name}: {error!r}\\n")
            code = 99
        os._exit(code)
    print(path.name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def damage(whole: bytes, rng: np.random.Generator) -> bytes:
    """Returns a copy that is truncated or has bytes replaced after the header text."""
    if rng.random() < 0.25:
        return whole[: rng.integers(len(whole))]
    content = np.frombuffer(whole, np.uint8).copy()
    positions = rng.integers(100, len(whole), rng.choice((1, 3, 30)))
    content[positions] = rng.choice((0, 1, 14, 65, 255), len(positions))
    return content.tobytes()


@pytest.mark.slow
def test_damaged_bytes_end_in_a_refusal(tmp_path: Path) -> None:
    image = Image(rects=[rect([point(0, 300.5, 2, is_visible="1"), point(1, 3, 4)]), rect(None)])
    rng = np.random.default_rng(0)
    folder = tmp_path / "damaged"
    folder.mkdir()
    for compress in (False, True):
        whole = write_mat(tmp_path / "a.mat", [image, image], compress=compress).read_bytes()
        for number in range(30):
            (folder / f"{compress}-{number:02}").write_bytes(damage(whole, rng))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE_EACH_IN_A_FORK, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    codes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(codes) == 60
    assert all(code <= 0 or code == DataError.exit_code for code in codes), done.stderr
    assert codes.count(DataError.exit_code) > 30


def test_a_truncated_file_through_the_child(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "a.mat", [Image(f"{index}.jpg") for index in range(20)])
    path.write_bytes(path.read_bytes()[:-150])
    with pytest.raises(DataError, match=r"a\.mat .*; pass mpii_human_pose"):
        parse_in_child(mpii_mat.__name__, path)
