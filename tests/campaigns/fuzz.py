"""Mutates image files and checks that decoding neither crashes nor warns nor accepts damage.

    python -m tests.campaigns.fuzz --cases 7500 --seed 0 --out DIR       make fuzz

Independent readers find the damage: binascii checks the chunks of a PNG; OpenCV's libjpeg, and
djpeg if it is installed, print warnings for a JPEG. WebP, GIF and BMP have no checksum. A warning
from Python counts as a crash. Files are decoded in a child process, so that a
crash does not end the campaign. The verdicts are stored in DIR/verdicts.jsonl, so that a stopped
campaign resumes. The table is written to docs/reliability.md; the exit code is 1 on any failure.
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
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np

from data_pipelines.core.errors import DataError
from data_pipelines.decode import decode
from tests.campaigns.kept import identify, keep_rows, read_rows
from tests.campaigns.mutations import JPEG_START, ORIGINALS, PNG_START, mutate
from tests.campaigns.table import describe, replace_marked
from tests.support.tiny_training import ROOT

PROGRAM = "tests.campaigns.fuzz"
PAGE = ROOT / "docs" / "reliability.md"
BATCH = 500  # files of one child
MEMORY_BYTES = 4 * 2**30  # address space of a child
LONGEST_S = 20.0  # for one file
OUTCOMES = ("refused", "accepted", "crash")


class Verdict(NamedTuple):
    """The result of a file: one of OUTCOMES, and the damage that another reader finds."""

    case: int
    kind: str
    mutation: str
    outcome: str
    message: str
    damage: str
    seconds: float
    peak_mib: float

    @property
    def fails(self) -> bool:
        """Returns whether the file breaks a promise."""
        return self.outcome == "crash" or bool(self.damage) or self.seconds > LONGEST_S


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the files of the campaign that are left."""
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__)
    parser.add_argument("--cases", type=int, default=7500, help="mutated files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--out", type=Path, help="folder for the verdicts")
    parser.add_argument("--page", type=Path, default=PAGE, help="page with the table")
    parser.add_argument("--child", metavar="FROM", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        return decode_all(options.seed, range(options.child, options.cases))
    if options.out is None:
        parser.error("--out is needed")
    head = identify(cases=options.cases, seed=options.seed)
    verdicts = [Verdict(**row) for row in read_rows(options.out, head)]
    while len(verdicts) < options.cases:
        verdicts += run_child(
            options.seed, len(verdicts), min(options.cases, len(verdicts) + BATCH)
        )
        keep_rows(options.out, head, [each._asdict() for each in verdicts])
        print(f"{len(verdicts):,} of {options.cases:,} files", flush=True)
    command = f"python -m {PROGRAM} --cases {options.cases} --seed {options.seed} --out DIR"
    replace_marked(options.page, "fuzz", render(verdicts, command))
    failed = [each for each in verdicts if each.fails]
    for each in failed:
        print(each, file=sys.stderr)
    return 1 if failed else 0


def run_child(seed: int, start: int, end: int) -> list[Verdict]:
    """Returns the verdicts of a child; a child that dies crashed at the next file."""
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
        message = f"exit code {done.returncode}"
        verdicts.append(
            Verdict(start + len(verdicts), kind, mutation, "crash", message, "", 0.0, 0.0)
        )
    return verdicts


def decode_all(seed: int, cases: range) -> int:
    """Decodes files in the child and prints a verdict for each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryFile() as stderr:
        os.dup2(stderr.fileno(), sys.stderr.fileno())
        for case in cases:
            print(json.dumps(judge(seed, case, stderr)._asdict()), flush=True)
    return 0


def judge(seed: int, case: int, stderr: IO[bytes]) -> Verdict:
    """Decodes one file, and checks an accepted file with the other readers."""
    kind, mutation, content = mutate(seed, case)
    outcome, message, damage = "accepted", "", ""
    start = time.monotonic()
    try:
        with warnings.catch_warnings(action="error"):
            decode(content, upright=True)
    except DataError as error:
        outcome, message = "refused", str(error)
    except Exception as error:  # a bug for the user, or a warning
        outcome, message = "crash", repr(error)
    seconds = time.monotonic() - start
    if outcome == "accepted" and content.startswith(PNG_START):
        damage = chunk_damage(content)
    elif outcome == "accepted" and content.startswith(JPEG_START):
        damage = libjpeg_warning(content, stderr)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Verdict(case, kind, mutation, outcome, message, damage, seconds, peak_mib)


def chunk_damage(png: bytes) -> str:
    """Describes damage in the chunks of a PNG up to its end, by its specification."""
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


def libjpeg_warning(jpeg: bytes, stderr: IO[bytes]) -> str:
    """Returns the first warning of OpenCV's libjpeg or djpeg; `stderr` is redirected there."""
    stderr.truncate(0)
    stderr.seek(0)
    cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if djpeg := shutil.which("djpeg"):
        subprocess.run([djpeg], input=jpeg, stdout=subprocess.DEVNULL, check=False)
    stderr.seek(0)
    return stderr.read(400).decode("utf-8", "replace").partition("\n")[0]


def render(verdicts: Sequence[Verdict], command: str) -> str:
    """Renders a row for each kind of file, with the command and versions."""
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
