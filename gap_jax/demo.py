"""`gap_jax demo`: prepares data, trains and reports with the commands of gap_jax.

Each stage prints the command that does the same. A demo that was stopped skips the stages and
steps that are done.
"""

import contextlib
import functools
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging

from data_pipelines.config import DataConfig
from data_pipelines.core import files
from data_pipelines.manifest import is_prepared
from gap_jax.commands import data as data_command
from gap_jax.commands.arguments import Parser, parse
from gap_jax.flags import read_config
from gap_jax.report.write import write_report
from gap_jax.train import train

DESCRIPTION = """Draws people doing eight actions, prepares them like MPII, trains mean pooling,
attentional pooling and GAP + pose on one pre-trained backbone with one budget, and reports scores
and attention maps. Downloads nothing. Run it again to continue after a stop."""
CONFIG = "gap_pose"
CONTROL = "attention_pose_weight0"  # with a pose branch and without its loss

# the heads to train (methods of the config or CONTROL), their seeds, and the page
QUICK = (("gap_pose",), (0,), "report-quick.html")
DEFAULT = (("mean", "attention", "gap_pose"), (0,), "report.html")
FULL = (
    ("mean", "attention", "gap", CONTROL, "attention_pose", "gap_pose"),
    (0, 1, 2),
    "report-full.html",
)


@contextlib.contextmanager
def _stage(spent_s: dict[str, float], count: int, name: str, command: str) -> Iterator[None]:
    """Prints the name and the command of a stage, and adds its seconds to `spent_s`."""
    print(f"\n[{len(spent_s) + 1}/{count}] {name}\n      {command}\n", flush=True)
    start = time.monotonic()
    yield
    spent_s[name] = time.monotonic() - start


def run(words: Sequence[str]) -> None:
    """Runs `gap_jax demo` with its arguments."""
    parser = Parser(prog="gap_jax demo", description=DESCRIPTION, takes_config=True)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_true", help="GAP + pose only")
    scale.add_argument(
        "--full", action="store_true", help="five heads and a control, three seeds each"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    parser.add_argument(
        "--data", type=Path, default=DataConfig(name="people").directory, metavar="DIR",
        help="folder of the drawn people",
    )  # fmt: skip
    options = parse(parser, words)
    logging.set_verbosity(logging.WARNING)
    heads, seeds, page = FULL if options.full else QUICK if options.quick else DEFAULT
    out = options.out / page
    with files.locked(out):  # refuses a path that cannot be written before the work
        _demonstrate([*itertools.product(seeds, heads)], out, options.data, options.overrides)


def describe_head(head: str) -> tuple[str, list[str]]:
    """Returns the config of a head, and its own overrides."""
    method, own = ("attention_pose", ["pose.weight=0.0"]) if head == CONTROL else (head, [])
    return f"{CONFIG}:{method},demo", own


def _demonstrate(
    trained: Sequence[tuple[int, str]], page: Path, data: Path, overrides: Sequence[str]
) -> None:
    out = page.parent
    spent_s: dict[str, float] = {}
    stage = functools.partial(_stage, spent_s, len(trained) + 3)
    preparing = ["prepare", "people", "--out", str(data)]
    with stage("draw and prepare people", f"gap_jax data {' '.join(preparing)}"):
        if is_prepared(data):
            print(f"{data} holds prepared data already")
        else:
            data_command.run(preparing)
    checking = ["check", str(data), "--html", str(out / "contact_sheet.html")]
    with stage("check", f"gap_jax data {' '.join(checking)}"):
        data_command.run(checking)
    runs: list[Path] = []
    for seed, head in trained:
        runs.append(out / (f"{head}-seed{seed}" if seed else head))
        spec, own = describe_head(head)
        fields = [*own, f"train.seed={seed}", f"data.root={data}"]
        words = [*(f"--config.{field}" for field in fields), *overrides]
        command = ["gap_jax train", f"--config={spec}", f"--workdir={runs[-1]}", *words]
        with stage(f"train {runs[-1].name}", " ".join(command)):
            print(json.dumps(train(read_config(spec, words), runs[-1]), allow_nan=False))
    listed = " ".join(map(str, runs))
    with stage("report", f"gap_jax report {listed} --out {page}"):
        comparison = write_report(runs, page, data)
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent_s.items())
    print(f"""{comparison}

open {page}
next, for example:
  gap_jax evaluate {runs[-1]} --checkpoint latest
  gap_jax export {runs[-1]} --out {runs[-1]}-export
  gap_jax config explain {CONFIG}
  gap_jax data prepare mpii --help        # your own copy of MPII

{sum(spent_s.values()):.0f} s in all: {times}""")
