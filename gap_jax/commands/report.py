"""`gap_jax report RUN...`: one page on what runs score, how they differ and where they look."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from gap_jax.commands.arguments import Parser, parse
from gap_jax.explain.report.write import place_of, write_report

DESCRIPTION = """Writes one self-contained HTML page: the numbers of the last evaluation of each run
with their intervals, paired differences, curves, classes, confusions, and where the models look.
Runs that differ in train.seed alone count as one method."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax report` with the words behind it."""
    parser = Parser(prog="gap_jax report", description=DESCRIPTION, allow_abbrev=False)
    parser.set_defaults(takes_config=False)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of runs")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html",
        help="default: report.html in the run, of several beside the first one",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the runs' data lie now")
    _report(parse(parser, words))


def _report(options: argparse.Namespace) -> None:
    out = options.out or place_of(options.runs)
    print(write_report(options.runs, out, options.data))
    print(f"report: {out}")
