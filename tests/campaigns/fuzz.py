"""Mutates JPEG and PNG files and asks that decoding them crashes never and passes no seen damage.

    python -m tests.campaigns.fuzz --cases 3000 --seed 0 --out DIR       make fuzz

Others judge the files: binascii walks the chunks of a PNG, and the libjpeg inside OpenCV, and djpeg
where it is installed, tell the warnings of a JPEG. Files are decoded in a child process, so that a
crash ends no campaign. The verdicts are kept in DIR/verdicts.jsonl: a campaign that is stopped goes
on with the next file. The table goes into docs/reliability.md; the exit code is 1 on any failure.
"""

import argparse
import binascii
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np

from data_pipelines.decode import decode
from data_pipelines.errors import DataError
from tests.campaigns.kept import identify, keep_rows, read_rows
from tests.campaigns.mutations import ORIGINALS, PNG_START, mutate
from tests.campaigns.table import describe, replace_marked
from tests.support.tiny_training import ROOT

PROGRAM = "tests.campaigns.fuzz"
PAGE = ROOT / "docs" / "reliability.md"
BATCH = 500  # files that one child decodes
MEMORY_BYTES = 4 * 2**30  # of a child's addresses
LONGEST_S = 20.0  # for one file
OUTCOMES = ("refused", "accepted", "crash")


class Verdict(NamedTuple):
    """What came of a file: one of OUTCOMES, and what another reader sees in an accepted one."""

    case: int
    kind: str
    mutation: str
    outcome: str
    told: str
    damage: str
    seconds: float
    peak_mib: float

    @property
    def fails(self) -> bool:
        """Whether it breaks a promise."""
        return self.outcome == "crash" or bool(self.damage) or self.seconds > LONGEST_S


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole campaign, or what is left of it."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__)
    parser.add_argument("--cases", type=int, default=3000, help="mutated files")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--out", type=Path, help="folder for the verdicts")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    parser.add_argument("--child", metavar="FROM", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.child is not None:
        return decode_all(asked.seed, range(asked.child, asked.cases))
    if asked.out is None:
        parser.error("--out is needed")
    head = identify(cases=asked.cases, seed=asked.seed)
    verdicts = [Verdict(**row) for row in read_rows(asked.out, head)]
    while len(verdicts) < asked.cases:
        verdicts += run_child(asked.seed, len(verdicts), min(asked.cases, len(verdicts) + BATCH))
        keep_rows(asked.out, head, [each._asdict() for each in verdicts])
        print(f"{len(verdicts):,} of {asked.cases:,} files", flush=True)
    command = f"python -m {PROGRAM} --cases {asked.cases} --seed {asked.seed} --out DIR"
    replace_marked(asked.page, "fuzz", render(verdicts, command))
    failed = [each for each in verdicts if each.fails]
    for each in failed:
        print(each, file=sys.stderr)
    return 1 if failed else 0


def run_child(seed: int, start: int, end: int) -> list[Verdict]:
    """The verdicts of a child; one that dies has crashed at the file after its last verdict."""
    command = [sys.executable, "-W", "ignore", "-m", PROGRAM, f"--seed={seed}"]
    done = subprocess.run(
        [*command, f"--child={start}", f"--cases={end}"],
        env={**os.environ, "OPENCV_LOG_LEVEL": "SILENT"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=BATCH * LONGEST_S,
        check=False,
    )
    verdicts = [Verdict(**json.loads(line)) for line in done.stdout.splitlines()]
    if start + len(verdicts) < end:
        kind, mutation, _ = mutate(seed, start + len(verdicts))
        told = f"exit code {done.returncode}"
        verdicts.append(Verdict(start + len(verdicts), kind, mutation, "crash", told, "", 0.0, 0.0))
    return verdicts


def decode_all(seed: int, cases: range) -> int:
    """The child: a line for each verdict."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), sys.stderr.fileno())
        for case in cases:
            print(json.dumps(judge(seed, case, heard)._asdict()), flush=True)
    return 0


def judge(seed: int, case: int, heard: IO[bytes]) -> Verdict:
    """Decodes one file, and asks the others where it is accepted."""
    kind, mutation, content = mutate(seed, case)
    outcome, told, damage = "accepted", "", ""
    start = time.monotonic()
    try:
        decode(content)
    except DataError as error:
        outcome, told = "refused", str(error)
    except Exception as error:  # a user would be told of a bug
        outcome, told = "crash", repr(error)
    seconds = time.monotonic() - start
    if outcome == "accepted":
        is_png = content.startswith(PNG_START)
        damage = chunk_damage(content) if is_png else libjpeg_warning(content, heard)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Verdict(case, kind, mutation, outcome, told, damage, seconds, peak_mib)


def chunk_damage(png: bytes) -> str:
    """What is wrong with the chunks of a PNG up to its end, by its specification."""
    rest = png.removeprefix(PNG_START)
    while rest:
        length = int.from_bytes(rest[:4], "big")
        checked, crc, rest = (
            rest[4 : 8 + length],
            rest[8 + length : 12 + length],
            rest[12 + length :],
        )
        if crc != binascii.crc32(checked).to_bytes(4, "big"):
            return f"wrong CRC of {checked[:4]!r}"
        if checked[:4] == b"IEND":
            return ""
    return "no IEND"


def libjpeg_warning(jpeg: bytes, heard: IO[bytes]) -> str:
    """The first warning of OpenCV's libjpeg or djpeg; `heard` is the standard error stream."""
    heard.truncate(0)
    heard.seek(0)
    cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if djpeg := shutil.which("djpeg"):
        subprocess.run([djpeg], input=jpeg, stdout=subprocess.DEVNULL, check=False)
    heard.seek(0)
    return heard.read(400).decode("utf-8", "replace").partition("\n")[0]


def render(verdicts: Sequence[Verdict], command: str) -> str:
    """A row for each kind of file, and what was run where."""
    rows = [(kind, [each for each in verdicts if each.kind == kind]) for kind in ORIGINALS]
    judge = "OpenCV's libjpeg and djpeg" if shutil.which("djpeg") else "OpenCV's libjpeg"
    peak_mib = max(each.peak_mib for each in verdicts)
    return "\n".join(
        [
            describe(command, sum(each.seconds for each in verdicts)),
            "",
            f"Judges: binascii for the CRCs of PNGs, {judge} for the warnings of JPEGs. The "
            f"process took at most {peak_mib:,.0f} MiB, with all that it imports.",
            "",
            "| file | mutated | refused | accepted | accepted though damaged | crashes | slowest |",
            "|---|---|---|---|---|---|---|",
            *(f"| {kind} | {_count(found)} |" for kind, found in rows if found),
            f"| all | {_count(verdicts)} |",
        ]
    )


def _count(found: Sequence[Verdict]) -> str:
    ended = [sum(each.outcome == outcome for each in found) for outcome in OUTCOMES]
    damaged = sum(bool(each.damage) for each in found)
    refused, accepted, crashed = (f"{count:,}" for count in ended)
    slowest = f"{max(each.seconds for each in found):.1f} s"
    return " | ".join([f"{len(found):,}", refused, accepted, f"{damaged:,}", crashed, slowest])


if __name__ == "__main__":
    sys.exit(main())
