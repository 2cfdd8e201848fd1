"""The round-trip campaign detects changed bits and never reports absent files as equal."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.campaigns import roundtrip_writers, roundtrips
from tests.campaigns.roundtrips import BEGIN, END, EQUAL, NOT_RUN, Verdict

CASES = {(case.library, case.form): case for case in roundtrips.cases()}
DICTIONARY = CASES["numpy", "numpy"]


@pytest.mark.slow
def test_numpy_roundtrip_detects_damage(tmp_path: Path) -> None:
    verdict = roundtrips.run_case(DICTIONARY, sys.executable, tmp_path)
    assert verdict.result == EQUAL and verdict.versions == {"numpy": np.__version__}
    theirs = tmp_path / DICTIONARY.file
    theirs.write_bytes(theirs.read_bytes()[:-9])
    result = roundtrips.convert_and_compare(theirs, tmp_path / "cut", {})
    assert result.startswith("refused: gap_jax: error 66")


def test_comparison_finds_bit_shape_and_name() -> None:
    expected = {"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    assert roundtrips.compare(dict(expected), expected) == EQUAL
    for other in (-expected["b"], expected["b"].reshape(2, 1)):
        result = roundtrips.compare(expected | {"b": other}, expected)
        assert result == "1 arrays differ, first b"
    for names in ({"a"}, {"a", "c"}, {"a", "b", "c"}):
        found = {name: expected.get(name, expected["b"]) for name in names}
        assert "names differ" in roundtrips.compare(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "result"), [(roundtrip_writers.ABSENT, NOT_RUN), (1, "not written: x")]
)
def test_failed_writer_is_reported(tmp_path: Path, code: int, result: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho x >&2\nexit {code}\n")
    python.chmod(0o755)
    assert roundtrips.run_case(DICTIONARY, str(python), tmp_path).result == result


def test_missing_library_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(1, np.float32))
    for form, library in (("zip", "torch"), ("f32", "torch"), ("keras", "keras"),
                          ("V1", "tensorflow")):  # fmt: skip
        monkeypatch.setitem(sys.modules, library, None)
        words = (form, "resnet50", str(tmp_path / "a.npz"), str(tmp_path / "out"))
        assert roundtrip_writers.main(*words) == roundtrip_writers.ABSENT


def test_table_is_between_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    case = CASES["tensorflow", "V2"]
    ran = Verdict(case, {"tensorflow": "2.0"}, 522, 44_549_160, EQUAL)
    roundtrips.write_page([ran, ran._replace(versions={}, result=NOT_RUN)], page)
    rows = page.read_text().splitlines()
    assert rows[:2] == ["before", BEGIN] and rows[-2:] == [END, "after"] and "old" not in rows
    name = "| Saver, V2, slim's 522 names | resnet101 | 522 | 44,549,160 |"
    assert rows[4:6] == [f"| tensorflow 2.0 {name} equal |", f"| tensorflow {name} not run |"]


def test_committed_table_has_every_case_and_no_failure() -> None:
    text = roundtrips.PAGE.read_text("utf-8")
    rows = text[text.index(BEGIN) : text.index(END)].splitlines()[3:]
    assert len(rows) == len(roundtrips.cases())
    for case, row in zip(roundtrips.cases(), rows, strict=True):
        assert f"| {case.told} | {case.backbone} | " in row
        assert row.endswith((f"| {EQUAL} |", f"| {NOT_RUN} |"))
