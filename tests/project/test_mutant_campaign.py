"""The mutant campaign: its changes, the tests that it runs, and when it fails."""

import ast
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns import calls, changed_statements, mutants
from tests.campaigns.changed_statements import Mutant

MODULE = '''"""A module."""

LIMIT = 3


def bound(values: "Float[Array, 'a b']", low: int) -> int:
    """The docstring stays."""
    if low < LIMIT and values:
        raise ValueError(f"{low} is below {LIMIT}")
    print("said", 5)
    values.sort()
    return min(values) + swap(low, 1)
'''
EXPECTED = {
    "LIMIT = 3: 3 -> 4",
    "if low < LIMIT and values:: low < LIMIT and values -> not (low < LIMIT and values)",
    "if low < LIMIT and values:: low < LIMIT and values -> low < LIMIT or values",
    "if low < LIMIT and values:: low < LIMIT -> low <= LIMIT",
    "raise ValueError(f'{low} is below {LIMIT}'): nothing",
    "values.sort(): nothing",
    "return min(values) + swap(low, 1): return None",
    "return min(values) + swap(low, 1): min(values) + swap(low, 1) -> min(values) - swap(low, 1)",
    "return min(values) + swap(low, 1): min(values) -> max(values)",
    "return min(values) + swap(low, 1): swap(low, 1) -> swap(1, low)",
    "return min(values) + swap(low, 1): 1 -> 2",
}


def test_mutants_change_one_statement_and_neither_texts_nor_types() -> None:
    found = list(changed_statements.list_mutants("m.py", MODULE))
    assert {each.name.split(": ", 2)[2] for each in found} == EXPECTED
    plain = ast.unparse(ast.parse(MODULE)).splitlines()
    for each in found:
        lines = changed_statements.mutate(each, MODULE).splitlines()
        assert sum(a != b for a, b in zip(plain, lines, strict=True)) == 1, each.name


@pytest.mark.slow
def test_draw_depends_on_its_seed_and_not_on_line_numbers() -> None:
    first, other = (changed_statements.draw("m.py", MODULE, 4, seed) for seed in (0, 1))
    moved = changed_statements.draw("m.py", MODULE.replace("LIMIT = 3", "\n\nLIMIT = 3"), 4, 0)
    assert [each.name for each in first] == [each.name for each in moved]
    assert [each.name for each in first] != [each.name for each in other]
    drawn = mutants.draw_all(320, 0)
    assert len(drawn) >= 300
    assert {each.file for each in drawn} > {"gap_jax/train.py", "data_pipelines/loader.py"}


def test_tests_that_call_a_function_run_first_and_then_their_files() -> None:
    seconds = {"tests/test_m.py::a": 2.0, "tests/test_m.py::b": 1.0, "tests/test_x.py::c": 0.1}
    callers = {("m.py", "bound"): {"tests/test_m.py::a", "tests/test_x.py::c", "failed"}}
    [mutant] = changed_statements.draw("m.py", MODULE, 100, 0)[:1]
    chosen = calls.choose_tests(mutant._replace(function="bound"), calls.Trace(callers, seconds))
    assert chosen == ["tests/test_m.py::a", "tests/test_x.py::c", "tests/test_m.py::b"]


def test_unexplained_survivors_fail_the_campaign_and_it_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = changed_statements.draw("data_pipelines/core/errors.py", MODULE, 4, 0)
    done: list[str] = []
    broken = {"tests/test_m.py::1"}

    def run(left: Sequence[Mutant], *_: Any) -> Iterable[dict[str, Any]]:
        for each in left:
            done.append(each.name)
            verdict = mutants.SURVIVED if each == drawn[1] else mutants.KILLED
            by = f"tests/test_m.py::{len(done)}" if verdict == mutants.KILLED else ""
            yield {"name": each.name, "verdict": verdict, "by": by, "seconds": 1.0}

    monkeypatch.setattr(mutants, "draw_all", lambda *_: drawn)
    monkeypatch.setattr(mutants, "run", run)
    monkeypatch.setattr(mutants, "trace", lambda *_: None)
    monkeypatch.setattr(mutants, "find_broken", lambda tests, _: broken & set(tests))
    monkeypatch.setattr(mutants, "REASONS", tmp_path / "reasons.toml")
    (tmp_path / "page.md").write_text("<!-- mutants: begin -->\n<!-- mutants: end -->\n", "utf-8")
    words = [f"--out={tmp_path}", f"--page={tmp_path / 'page.md'}"]
    (tmp_path / "reasons.toml").write_text("survivor = []\n", "utf-8")
    assert mutants.main(words) == 1  # the first test fails without a mutant too
    assert mutants.main(words) == 1
    assert done == [each.name for each in (*drawn, drawn[0])]
    assert "| all | 4 | 3 | 0 | 1 |" in (tmp_path / "page.md").read_text("utf-8")
    monkeypatch.setattr(mutants, "digest", lambda _: "tests have changed")
    text = f"[[survivor]]\nname = {json.dumps(drawn[1].name)}\nreason = 'equal'\n"
    (tmp_path / "reasons.toml").write_text(text, "utf-8")
    assert mutants.main(words) == 0
    assert "| all | 4 | 3 | 1 | 0 |" in (tmp_path / "page.md").read_text("utf-8")
