"""Which tests call which function of the product, from a traced run of the suite."""

import collections
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.campaigns.changed_statements import Mutant

ROOT = Path(__file__).parent.parent.parent
LONGEST_S = 150  # of the tests for one mutant, by the trace's clock


class Trace(NamedTuple):
    """Which tests call each (file, function), and the seconds that each passed test took."""

    callers: Mapping[tuple[str, str], set[str]]
    seconds: Mapping[str, float]


def pytest_runtest_setup() -> None:
    """Follows calls again: code under test may have ended that."""
    if "CALLS_FOLDER" in os.environ:
        sys.settrace(importlib.import_module("sitecustomize").note)


def pytest_runtest_logreport(report: Any) -> None:
    """Writes what each test took, where this module is pytest's plugin."""
    if report.when == "call" and report.passed and "CALLS_FOLDER" in os.environ:
        line = f"{report.nodeid}\t{report.duration:.2f}\n"
        with (Path(os.environ["CALLS_FOLDER"]) / "seconds").open("a", encoding="utf-8") as file:
            file.write(line)


def copy_checkout(place: Path) -> None:
    """The tracked files, as they are, with their times."""
    shutil.rmtree(place, ignore_errors=True)
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)


def trace(out: Path, jobs: int) -> Trace:
    """Runs the suite with notes of who calls what, unless `out` has them."""
    notes = out / "calls"
    if not (notes / "done").exists():
        shutil.rmtree(notes, ignore_errors=True)
        notes.mkdir(parents=True)
        copy_checkout(out / "traced")
        paths = (out / "traced", out / "traced/tests/campaigns/tracing")
        plugin = ("-p", "tests.campaigns.calls", "-p", "no:cacheprovider")
        words = ("-n", str(jobs), "--dist", "loadfile", "--timeout", "3000", *plugin)
        subprocess.run(
            [sys.executable, "-m", "pytest", *words],
            cwd=out / "traced",
            env={**os.environ, "CALLS_FOLDER": str(notes), "PYTHONPATH": ":".join(map(str, paths))},
            check=False,
        )
        (notes / "done").touch()
    callers = collections.defaultdict(set)
    for place in notes.glob("*.tsv"):
        for test, file, function in _read_rows(place):
            callers[file, function].add(test)
            callers[file, "<module>"].add(test)
    there = _list_tests()
    rows = _read_rows(notes / "seconds")
    return Trace(callers, {test: float(took) for test, took in rows if test in there})


def _list_tests() -> set[str]:
    """Those of the checkout as it is now: a test may have gone since the suite was traced."""
    words = ("--collect-only", "-n", "0", "-p", "no:cacheprovider")  # quiet by pyproject.toml
    told = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, capture_output=True, text=True
    )
    return set(told.stdout.splitlines())


def _read_rows(place: Path) -> list[list[str]]:
    return [line.split("\t") for line in place.read_text("utf-8").splitlines()]


def choose_tests(mutant: Mutant, traced: Trace) -> list[str]:
    """The tests that call the mutant's function, then the others of their files."""
    function = mutant.function
    while (mutant.file, function) not in traced.callers and "." in function:
        function = function.rpartition(".")[0]
    callers = traced.callers.get((mutant.file, function), set()) & traced.seconds.keys()
    callers = (
        callers or traced.callers.get((mutant.file, "<module>"), set()) & traced.seconds.keys()
    )
    stem = Path(mutant.file).stem.strip("_")
    owners = {test.split("::")[0] for test in callers}
    siblings = {test for test in traced.seconds if test.split("::")[0] in owners} - callers

    def rank(test: str) -> tuple[bool, float]:
        return stem not in test.split("::")[0], traced.seconds[test]

    chosen, total = [], 0.0
    for test in (*sorted(callers, key=rank), *sorted(siblings, key=rank)):
        total += traced.seconds[test]
        if chosen and total > LONGEST_S:
            break
        chosen.append(test)
    return chosen
