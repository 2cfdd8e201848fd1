"""Kills, stops or blocks one of two processes, and checks how and when the other one ends.

    python -m tests.campaigns.gangs --faults 20 --terminations 20 --seed 0 --out DIR

Every run is started with the real command. The verdicts are stored in DIR/verdicts.jsonl, so that a
stopped campaign resumes with the next case. The table is written to docs/reliability.md; the exit
code is 1 if any case broke a promise.
"""

import argparse
import concurrent.futures
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.campaigns.gang_cases import Site, Verdict, draw_cases, run_case
from tests.campaigns.kept import identify, keep_rows, read_rows
from tests.campaigns.table import describe, replace_marked
from tests.support.gangs import begin_gang, finish_gang
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tiny_training import ROOT, prove

PROGRAM = "tests.campaigns.gangs"
PAGE = ROOT / "docs" / "reliability.md"
PARALLEL_CASES = 2  # most cases wait most of the time


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases of the campaign that are left."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__)
    parser.add_argument("--faults", type=int, default=20, help="cases of each kind")
    parser.add_argument("--terminations", type=int, default=20, help="runs that get a SIGTERM")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and verdicts")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with the table")
    options = parser.parse_args(arguments)
    out = options.out.absolute()
    numbers = {name: getattr(options, name) for name in ("faults", "terminations", "seed")}
    head = identify(**numbers)
    verdicts = [Verdict(**{**row, "codes": tuple(row["codes"])}) for row in read_rows(out, head)]
    site = prepare_site(out)
    done = {each.name for each in verdicts}
    cases = [each for each in draw_cases(**numbers) if each.name not in done]
    with concurrent.futures.ThreadPoolExecutor(PARALLEL_CASES) as pool:
        for verdict in pool.map(lambda case: run_case(case, site), cases):
            verdicts.append(verdict)
            keep_rows(out, head, [each._asdict() for each in verdicts])
            print(json.dumps(verdict._asdict()), flush=True)
    words = " ".join(f"--{name} {number}" for name, number in numbers.items())
    replace_marked(
        options.page, "gangs", render(verdicts, f"python -m {PROGRAM} {words} --out DIR")
    )
    failed = [each for each in verdicts if each.failure]
    for each in failed:
        print(f"{each.name}: {each.failure}", file=sys.stderr)
    return 1 if failed else 0


def prepare_site(out: Path) -> Site:
    """Prepares data and an undisturbed run of two processes, which fills the compilation cache."""
    if not (out / "unbroken").exists():
        prepare_tiny_people(out / "data")
        ends = finish_gang(begin_gang(out / "data", out / "unbroken", cache=out / "cache"))
        if any(end.code for end in ends):
            raise SystemExit(f"undisturbed they ended so: {ends}")
    return Site(out / "data", out / "cache", out / "runs", prove(out / "unbroken"))


def render(verdicts: Sequence[Verdict], command: str) -> str:
    """Renders a row for each kind of fault, with the command and versions."""
    seconds = sum(each.seconds for each in verdicts) / PARALLEL_CASES
    rows = [_row(kind, verdicts) for kind in dict.fromkeys(each.kind for each in verdicts)]
    return "\n".join(
        [
            describe(command, seconds),
            "",
            "| one of two processes | cases | broken promises | its code | the other's code | "
            "the other ended within |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _row(kind: str, verdicts: Sequence[Verdict]) -> str:
    found = [each for each in verdicts if each.kind == kind]
    codes = [", ".join(sorted({str(each.codes[place]) for each in found})) for place in (0, 1)]
    longest_s = max(each.survived_s for each in found)
    broken = sum(bool(each.failure) for each in found)
    within = "-" if all(each.codes == (75, 75) for each in found) else f"{longest_s:.1f} s"
    return f"| {kind} | {len(found)} | {broken} | {codes[0]} | {codes[1]} | {within} |"


if __name__ == "__main__":
    sys.exit(main())
