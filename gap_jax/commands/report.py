"""`gap_jax report RUN...`: writes a page that compares runs."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from data_pipelines.core.errors import ConfigError
from gap_jax.commands.arguments import Parser, local_path, parse
from gap_jax.report.label_errors import csv_path
from gap_jax.report.runs import read_each
from gap_jax.report.splits import describe_mean
from gap_jax.report.write import default_path, write_report
from gap_jax.runtime.bucket.store import is_address
from gap_jax.runtime.bucket.workdir import open_for_reading

DESCRIPTION = """Writes one self-contained HTML page: the scores of the last evaluation of each run
with their intervals, paired differences, curves, classes, confusions, likely label errors, and
attention maps. Runs that differ in train.seed only count as one method."""


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax report` with its arguments."""
    parser = Parser(prog="gap_jax report", description=DESCRIPTION)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders or addresses of runs")
    parser.add_argument(
        "--out", type=local_path, metavar="FILE.html",
        help="default: report.html in the run, for several runs beside the first one",
    )  # fmt: skip
    parser.add_argument(
        "--mean", action="store_true",
        help="instead of a page, print the mean over runs on different splits and its interval",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data, if it moved")
    options = parse(parser, words)
    if options.mean and (options.out or options.data):
        raise ConfigError("--mean writes no page; leave out --out and --data")
    if (
        not options.mean
        and options.out is None
        and len(options.runs) > 1
        and any(map(is_address, options.runs))
    ):
        raise ConfigError("a report on several runs in buckets needs a path; add --out FILE.html")
    with ExitStack() as opened:
        workdirs = [opened.enter_context(open_for_reading(each)) for each in options.runs]
        folders = [each.folder for each in workdirs]
        if options.mean:
            print(describe_mean(read_each(folders)))
            return
        out = options.out or default_path(folders)
        print(write_report(folders, out, options.data))
        if (path := csv_path(out)).exists():
            print(f"likely label errors: {workdirs[0].display(str(path))}")
        print(f"report: {workdirs[0].display(str(out))}")
