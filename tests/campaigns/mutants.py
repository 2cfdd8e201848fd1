"""Does the suite notice when a statement of the product is wrong?

    python -m tests.campaigns.mutants --count 320 --seed 0 --out DIR
    make mutants

Draws mutants of every module, more of larger ones, and runs each against the tests that call its
function, the closest and fastest first. Which test calls what is traced once, by a run of the whole
suite in a copy of the checkout. A stopped campaign goes on: a killed mutant stays so until its file
changes, a survivor is tried again when a test has changed. Survivors that are equal to the original
or explained stand in survivors.toml. The exit code is 1 if another one is found.
"""

import argparse
import collections
import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from data_pipelines.core import files
from tests.campaigns import changed_statements
from tests.campaigns.calls import ROOT, Trace, choose_tests, copy_checkout, trace
from tests.campaigns.changed_statements import Mutant
from tests.campaigns.table import describe, replace_marked

REASONS = Path(__file__).with_name("survivors.toml")
PRODUCT = ("gap_jax", "data_pipelines")
OURS = (*PRODUCT, "tests", "configs", "launch", "benchmarks")
HEAVY = (
    "jax", "flax.nnx", "optax", "orbax.checkpoint", "grain", "ml_collections", "clu.metrics",
    "tensorflow_datasets", "hypothesis", "sklearn.metrics", "jaxtyping", "beartype", "PIL.Image",
    "simplejpeg", "cv2",
)  # fmt: skip
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "COLUMNS": "1000",  # no name of a test is cut
}
LONGEST_S = 600  # of one mutant
KILLED, SURVIVED = "killed", "survived"
BROKEN = 70


def start_tests(place: Path, tests: Sequence[str], log: Path) -> int:
    """Runs tests in a fork of this process, whose heavy modules are loaded; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        os.chdir(place)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(ENVIRONMENT, PYTHONPATH=str(place))
        jax.config.update("jax_compilation_cache_dir", str(place.parent / "compiled"))
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
        sys.path[:] = [str(place), *(path for path in sys.path if path not in ("", str(ROOT)))]
        words = ("-q", "--assert=plain", "-p", "no:cacheprovider", f"--timeout={LONGEST_S}")
        os._exit(int(pytest.main([*words, *tests])))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(BROKEN)


def run(mutants: Sequence[Mutant], out: Path, jobs: int, traced: Trace) -> Iterable[dict[str, Any]]:
    """Each mutant's verdict as it comes."""
    for name in HEAVY:
        importlib.import_module(name)
    places = [out / f"copy{number}" for number in range(jobs)]
    for place in places:
        copy_checkout(place)
    waiting, running = list(reversed(mutants)), {}
    while waiting or running:
        while places and waiting:
            mutant, place = waiting.pop(), places.pop()
            tests = choose_tests(mutant, traced)
            text = (ROOT / mutant.file).read_text("utf-8")
            (place / mutant.file).write_text(changed_statements.mutate(mutant, text), "utf-8")
            chosen = ["-x", *(tests or ["tests/project/test_architecture.py"])]
            child = start_tests(place, chosen, place / "log")
            running[child] = (mutant, place, tests, time.monotonic())
        time.sleep(0.1)
        for child, (mutant, place, tests, start) in list(running.items()):
            is_over, status = os.waitpid(child, os.WNOHANG)
            seconds = time.monotonic() - start
            if not is_over and seconds < LONGEST_S:
                continue
            _end_group(child, is_over=bool(is_over))
            code = os.waitstatus_to_exitcode(status) if is_over else -signal.SIGKILL
            text = (place / "log").read_text("utf-8", "replace")
            failed = list_failures(text)
            if code > 2 and not failed:  # 1: a test failed; 2 or 4: a module did not even load
                raise SystemExit(f"the tests of {mutant.name} did not run: {text[-2000:]}")
            shutil.copy2(ROOT / mutant.file, place / mutant.file)
            yield {
                "name": mutant.name, "verdict": SURVIVED if code == 0 else KILLED, "code": code,
                "by": failed[0] if failed else "", "tests": len(tests),
                "seconds": round(seconds, 1),
            }  # fmt: skip
            places.append(place)
            del running[child]


def list_failures(log: str) -> list[str]:
    """The tests that failed, or the files that did not load."""
    lines = [line for line in log.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return [line.partition(" ")[2].partition(" - ")[0] for line in lines]


def find_broken(tests: Iterable[str], out: Path) -> set[str]:
    """Those of the tests that fail without a mutant too, and so kill none."""
    place = out / "unchanged"
    copy_checkout(place)
    _, status = os.waitpid(start_tests(place, sorted(tests), place / "log"), 0)
    text = (place / "log").read_text("utf-8", "replace")
    if os.waitstatus_to_exitcode(status) not in (0, 1):  # 1: some failed
        raise SystemExit(f"the tests that killed mutants did not run: {text[-2000:]}")
    return set(list_failures(text))


def _end_group(child: int, *, is_over: bool) -> None:
    """Ends what a mutant's tests started, and them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not is_over:
        os.waitpid(child, 0)


def digest(paths: Iterable[Path]) -> str:
    """Of the files' contents."""
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def draw_all(count: int, seed: int) -> list[Mutant]:
    """At least one mutant of each module, and in all about `count` by the number of statements."""
    paths = [path for name in PRODUCT for path in sorted((ROOT / name).rglob("*.py"))]
    texts = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}
    sizes = {file: changed_statements.count_statements(text) for file, text in texts.items()}
    total = sum(sizes.values())
    return [
        mutant
        for file, text in texts.items()
        for mutant in changed_statements.draw(
            file, text, max(1, round(count * sizes[file] / total)), seed
        )
    ]


def render(rows: Sequence[Mapping[str, Any]], reasons: Mapping[str, str], command: str) -> str:
    """The table for the page."""
    lines = [
        "| part | mutants | killed | survived, with a reason | survived |",
        "|---|---|---|---|---|",
    ]
    parts = collections.defaultdict(list)
    for row in rows:
        parts["/".join(row["name"].split(": ")[0].split("/")[:2]).removesuffix(".py")].append(row)
    for part, found in [*sorted(parts.items()), ("all", rows)]:
        alive = [row for row in found if row["verdict"] == SURVIVED]
        explained = sum(row["name"] in reasons for row in alive)
        numbers = (len(found), len(found) - len(alive), explained, len(alive) - explained)
        lines.append(f"| {part} | {' | '.join(map(str, numbers))} |")
    return "\n".join([describe(command, sum(row["seconds"] for row in rows)), "", *lines])


def main(words: Sequence[str] | None = None) -> int:
    """Runs the campaign; 1 if a survivor has no reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="begin of the names of the mutants to run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, default=ROOT / "docs/reliability.md")
    chosen = parser.parse_args(words)
    out = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    mutants = [
        each for each in draw_all(chosen.count, chosen.seed) if each.name.startswith(chosen.only)
    ]
    reasons = {
        each["name"]: each["reason"]
        for each in tomllib.loads(REASONS.read_text("utf-8"))["survivor"]
    }
    tests = digest((ROOT / "tests").rglob("*.py"))
    sources = {file: digest([ROOT / file]) for file in {mutant.file for mutant in mutants}}
    place = out / "verdicts.jsonl"
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    if place.exists():
        for row in map(json.loads, place.read_text("utf-8").splitlines()):
            rows[row["name"], row["source"]] = row
    left = [
        mutant
        for mutant in mutants
        if not (row := rows.get((mutant.name, sources[mutant.file])))
        or (row["verdict"] == SURVIVED and row["suite"] != tests and mutant.name not in reasons)
    ]
    print(f"{len(mutants)} mutants, {len(left)} left to run", flush=True)
    if left:
        for verdict in run(left, out, chosen.jobs, trace(out, chosen.jobs)):
            row = {**verdict, "source": sources[verdict["name"].split(": ")[0]], "suite": tests}
            rows[row["name"], row["source"]] = row
            files.write_atomically(
                place, "".join(json.dumps(each) + "\n" for each in rows.values())
            )
            print(
                f"{row['verdict']} {row['seconds']:5.1f} s {row['name'][:200]} {row['by'][:90]}",
                flush=True,
            )
    found = [rows[mutant.name, sources[mutant.file]] for mutant in mutants]
    if broken := find_broken({row["by"] for row in found if "::" in row["by"]}, out):
        kept = [row for row in rows.values() if row["by"] not in broken]
        files.write_atomically(place, "".join(json.dumps(each) + "\n" for each in kept))
        print(f"fail without a mutant, and what they killed is to be run again: {sorted(broken)}")
        return 1
    unexplained = [
        row for row in found if row["verdict"] == SURVIVED and row["name"] not in reasons
    ]
    for row in unexplained:
        print(f"no reason: {row['name']}")
    if not chosen.only:
        options = f"--count {chosen.count} --seed {chosen.seed} --out DIR"
        command = f"python -m tests.campaigns.mutants {options}"
        replace_marked(chosen.page, "mutants", render(found, reasons, command))
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
