"""Kills, suspends or fails one of two processes, and checks how and when the other one ends.

    python -m tests.campaigns.processes --faults 20 --terminations 20 --seed 0 --out DIR

Every process runs the real command, in a fork of one that has imported it. The verdicts are kept in
DIR/verdicts.jsonl: a campaign that is stopped continues with the next case. It ends with its table
in docs/reliability.md, and the exit code is 1 if any case broke a promise.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.campaigns.cases import Site
from tests.campaigns.kept import identify, judge, make_parser
from tests.campaigns.processes_cases import Verdict, draw_cases, run_case
from tests.campaigns.table import describe, replace_marked
from tests.support.compiling import keep_compiled
from tests.support.processes import begin_processes, finish_processes
from tests.support.tiny_data import prepare_tiny_people
from tests.support.tiny_training import prove

PROGRAM = "tests.campaigns.processes"
AT_ONCE = 2  # most cases wait most of the time


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign, or the rest of it."""
    parser = make_parser(PROGRAM, __doc__)
    parser.add_argument("--faults", type=int, default=20, help="of each kind")
    parser.add_argument("--terminations", type=int, default=20, help="runs that get a SIGTERM")
    asked = parser.parse_args(arguments)
    out = asked.out.absolute()
    numbers = {name: getattr(asked, name) for name in ("faults", "terminations", "seed")}
    keep_compiled(out / "compiled")
    head = identify(**numbers)
    site = prepare_site(out)
    cases = draw_cases(**numbers)
    verdicts = judge(out, head, cases, Verdict, lambda case: run_case(case, site), AT_ONCE)
    options = " ".join(f"--{name} {number}" for name, number in numbers.items())
    replace_marked(
        asked.page, "processes", render(verdicts, f"python -m {PROGRAM} {options} --out DIR")
    )
    failed = [each for each in verdicts if each.failure]
    for each in failed:
        print(f"{each.name}: {each.failure}", file=sys.stderr)
    return 1 if failed else 0


def prepare_site(out: Path) -> Site:
    """Prepares data and an unbroken run of two processes, whose compiled programs all cases use."""
    if not (out / "unbroken").exists():
        prepare_tiny_people(out / "data")
        ends = finish_processes(begin_processes(out / "data", out / "unbroken", forked=True))
        if any(end.code for end in ends):
            raise SystemExit(f"the unbroken run ended with {ends}")
    return Site(out / "data", out / "runs", prove(out / "unbroken"))


def render(verdicts: Sequence[Verdict], command: str) -> str:
    """Renders the command and a row for each kind of fault."""
    seconds = sum(each.seconds for each in verdicts) / AT_ONCE
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
