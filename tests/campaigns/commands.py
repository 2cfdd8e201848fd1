"""Runs every command without access to files, and stops it by signals at random instants.

    python -m tests.campaigns.commands --instants 10 --seed 0 --out DIR       make commands

Verdicts are stored in DIR/verdicts.jsonl, so that a stopped campaign resumes with the next case.
The table is written to docs/reliability.md; the exit code is 1 if any case ended with an
undocumented code, with a traceback, or without its one line.
"""

import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.campaigns.command_cases import (
    COMMANDS,
    PLACES,
    SIGNALS,
    Case,
    Site,
    Verdict,
    draw_cases,
    try_case,
)
from tests.campaigns.kept import identify, judge, make_parser
from tests.campaigns.table import describe, replace_marked
from tests.support.compiling import keep_compiled
from tests.support.tiny_data import prepare_tiny_people, write_photo
from tests.support.tiny_training import train

PROGRAM = "tests.campaigns.commands"
# takes the place of a Python with mediapipe, and finds nobody
DETECTOR = """import json, sys
print(json.dumps("fake"), flush=True)
for line in sys.stdin.buffer:
    size = json.loads(line)
    sys.stdin.buffer.read(3 * size["height"] * size["width"])
    print(json.dumps(None), flush=True)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases of the campaign that are left."""
    parser = make_parser(PROGRAM, __doc__)
    parser.add_argument("--instants", type=int, default=10, help="random instants of each signal")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    options = parser.parse_args(arguments)
    for number in SIGNALS.values():  # as background jobs of a shell ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    out = options.out.absolute()
    keep_compiled(out / "compiled")
    head = identify(seed=options.seed)
    site = prepare_site(out / "site", options.jobs)
    cases = draw_cases(options.instants, options.seed)
    try_one = functools.partial(try_case, site=site)
    verdicts = judge(out, head, cases, Verdict, try_one, options.jobs)
    command = f"python -m {PROGRAM} --instants {options.instants} --seed {options.seed} --out DIR"
    replace_marked(options.page, "commands", render(verdicts, command))
    failed = [each for each in verdicts if each.fault]
    for each in failed:
        print(f"{each.name}: {each.code}: {each.fault}", file=sys.stderr)
    return 1 if failed else 0


def prepare_site(root: Path, jobs: int) -> Site:
    """Prepares inputs and a run, and runs every command once, which fills the cache."""
    times = root / "seconds.json"
    if not times.exists():
        shutil.rmtree(root, ignore_errors=True)
        _write_inputs(root)
        end = train(root / "data", root / "run")
        if end.code:
            raise SystemExit(f"undisturbed training ended with {end.code}: {end.complained}")
        cases = [Case(command, "undisturbed") for command in COMMANDS]
        with ThreadPoolExecutor(jobs) as pool:
            verdicts = list(pool.map(functools.partial(try_case, site=Site(root, {})), cases))
        for each in verdicts:
            if each.fault or each.code:
                raise SystemExit(f"{each.command} undisturbed: {each.code}, {each.fault}")
        times.write_text(json.dumps({each.command: each.seconds for each in verdicts}), "utf-8")
    return Site(root, json.loads(times.read_text("utf-8")))


def _write_inputs(root: Path) -> None:
    """Prepares people, others of the same classes, photographs, a list of them and a detector."""
    prepare_tiny_people(root / "data")
    prepare_tiny_people(root / "other", sizes={"train": 9, "val": 5, "test": 0})
    names = [f"{label}/{index}.jpg" for label in ("cat", "dog") for index in range(4)]
    for seed, name in enumerate(names):
        write_photo(root / "photos" / name, seed)
    rows = [f"{name},{name.partition('/')[0]}\n" for name in names]
    (root / "listed").mkdir()
    (root / "listed" / "photos.csv").write_text("".join(["path,label\n", *rows]), "utf-8")
    detector = root / "detector"
    detector.write_text(f"#!{sys.executable}\n{DETECTOR}", "utf-8")
    detector.chmod(0o755)


def render(verdicts: Sequence[Verdict], command: str) -> str:
    """Renders the exit codes: a row for each command, a column for each situation."""
    situations = [*PLACES, *SIGNALS]
    rows = [
        f"| `{name}` | {' | '.join(_codes(verdicts, name, each) for each in situations)} |"
        for name in COMMANDS
    ]
    faults = sum(bool(each.fault) for each in verdicts)
    return "\n".join(
        [
            describe(command, sum(each.seconds for each in verdicts)),
            f"{len(verdicts):,} cases, of which {faults} broke a promise.",
            "",
            f"| command | {' | '.join(situations)} |",
            "|---" * (1 + len(situations)) + "|",
            *rows,
        ]
    )


def _codes(verdicts: Sequence[Verdict], command: str, situation: str) -> str:
    found = [
        each.code for each in verdicts if (each.command, each.situation) == (command, situation)
    ]
    counts = [(code, found.count(code)) for code in sorted(set(found))]
    if len(found) <= 1:
        return ", ".join(str(code) for code, _ in counts) or "-"
    return ", ".join(f"{count} x {code}" for code, count in counts)


if __name__ == "__main__":
    sys.exit(main())
